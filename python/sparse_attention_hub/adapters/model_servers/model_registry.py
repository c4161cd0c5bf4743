"""The YAML file that says how to load models which the automatic class does not load rightly.

    models:
      organisation/some-model:
        model_class: SomeModelForCausalLM      # a name in transformers, or a dotted path
        default_model_kwargs:
          dtype: bfloat16
          quantization_config: {constructor: SomeQuantizationConfig, kwargs: {bits: 8}}

A mapping with the key `constructor` is called with `kwargs`; `type` and `args` are other names of
the two, for a mapping that has no further keys (rotary settings have a `type` too, and stay what
they are). The file names code to import and to call: it needs the trust that code needs.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class ModelRegistryError(Exception):
    """A registry file, or an entry of it, that cannot be used."""


@dataclass
class RegistryEntry:
    """How to load one model.

    Attributes:
        model_id: the name that callers ask for.
        model_class: a name in transformers or a dotted path; None for the automatic class.
        default_model_kwargs: arguments of the loader; those of a caller win.
    """

    model_id: str
    model_class: str | None
    default_model_kwargs: dict[str, Any] = field(default_factory=dict)


def load_model_registry(path: str | None) -> dict[str, RegistryEntry]:
    """Reads a registry file.

    Args:
        path: the file; "" or None for no registry.

    Returns:
        Model id to entry, in the order of the file.

    Raises:
        ModelRegistryError: no such file, no PyYAML, or not the structure above.
    """
    if not path:
        return {}
    if not os.path.isfile(path):
        raise ModelRegistryError(f"Model registry path does not exist: {path}")
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ModelRegistryError(
            f"PyYAML is required to read the model registry {path}: install pyyaml"
        ) from error
    try:
        with open(path, encoding="utf-8") as file:
            root = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelRegistryError(f"Model registry {path} is not YAML: {error}") from error
    if root is None:
        root = {}
    if not isinstance(root, Mapping):
        raise ModelRegistryError(f"Registry root must be a mapping, got {_kind(root)}: {path}")
    models = root.get("models")
    if models is None:
        models = {}
    if not isinstance(models, Mapping):
        raise ModelRegistryError(
            f"Registry 'models' must be a mapping, got {_kind(models)}: {path}"
        )
    return {str(model_id): _entry(str(model_id), spec) for model_id, spec in models.items()}


def resolve_model_class(model_class: str | None) -> Any:
    """The class of an entry.

    Args:
        model_class: a name in transformers, or a dotted path; None for none.

    Returns:
        The class, or None for None.

    Raises:
        ModelRegistryError: it cannot be imported.
    """
    if not model_class:
        return None
    try:
        return _import_symbol(model_class)
    except Exception as error:  # importing runs code of others
        raise ModelRegistryError(
            f"Failed to resolve model_class '{model_class}': {error}"
        ) from error


def _entry(model_id: str, spec: Any) -> RegistryEntry:
    if spec is None:
        spec = {}
    if not isinstance(spec, Mapping):
        raise ModelRegistryError(
            f"Registry entry for {model_id} must be a mapping, got {_kind(spec)}"
        )
    kwargs = spec.get("default_model_kwargs")
    if kwargs is None:
        kwargs = {}
    if not isinstance(kwargs, Mapping):
        raise ModelRegistryError(
            f"default_model_kwargs for {model_id} must be a mapping, got {_kind(kwargs)}"
        )
    return RegistryEntry(
        model_id=model_id,
        model_class=spec.get("model_class"),
        default_model_kwargs={str(name): _maybe_construct(v) for name, v in kwargs.items()},
    )


def _maybe_construct(value: Any) -> Any:
    """Calls what a mapping with `constructor` names; anything else is returned as it is."""
    if not isinstance(value, Mapping):
        return value
    if "constructor" in value:
        symbol = value["constructor"]
    elif "type" in value and value.keys() <= {"type", "kwargs", "args"}:
        symbol = value["type"]
    else:
        return value
    kwargs = value.get("kwargs", value.get("args"))
    if kwargs is None:
        kwargs = {}
    if not isinstance(kwargs, Mapping):
        raise ModelRegistryError(
            f"Invalid constructor kwargs for {symbol}: must be a mapping, got {_kind(kwargs)}"
        )
    arguments = {str(name): _maybe_construct(argument) for name, argument in kwargs.items()}
    try:
        return _import_symbol(symbol)(**arguments)
    except ModelRegistryError:
        raise
    except Exception as error:
        raise ModelRegistryError(f"Failed to construct '{symbol}': {error}") from error


def _import_symbol(symbol: str) -> Any:
    """Imports "package.module.Name", or "Name" from transformers."""
    module, _, name = symbol.rpartition(".")
    return getattr(importlib.import_module(module or "transformers"), name)


def _kind(value: Any) -> str:
    return type(value).__name__
