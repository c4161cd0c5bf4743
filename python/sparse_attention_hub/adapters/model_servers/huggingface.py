"""The model server of transformers models.

A model is named by its id on the hub of transformers, or by its folder, which needs no network.
Importing this module imports transformers.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..utils.exceptions import (
    ModelCreationError,
    ResourceCleanupError,
    TokenizerCreationError,
)
from ..utils.gpu_utils import cleanup_gpu_memory
from .base import ModelServer
from .model_registry import (
    ModelRegistryError,
    RegistryEntry,
    load_model_registry,
    resolve_model_class,
)

_GIB = 1024**3
_FLEX_NAMES = ("flex_attention", "flex")
_FLEX_ARGUMENTS = ("attn_implementation", "attention_implementation")


class ModelServerHF(ModelServer):
    """Loads causal language models and tokenizers with transformers 4.57 or newer."""

    _registry: tuple[str, dict[str, RegistryEntry]] | None = None  # the path and what it says

    def get_model_with_device_info(
        self, model_name: str, gpu: int | None, model_kwargs: dict[str, Any]
    ) -> tuple[Any, str]:
        """`get_model`, and the device of the model as text ("cuda:0", "cpu").

        Raises:
            ModelCreationError: the model cannot be loaded.
        """
        model = self.get_model(model_name, gpu, model_kwargs)
        device = getattr(model, "device", None)
        return model, str(device) if device is not None else _target_device(gpu)

    def validate_gpu_availability(self, gpu_id: int) -> bool:
        """Whether GPU `gpu_id` exists and memory can be allocated on it."""
        if not torch.cuda.is_available() or not 0 <= gpu_id < torch.cuda.device_count():
            return False
        try:
            with torch.cuda.device(gpu_id):
                torch.zeros(1, device=f"cuda:{gpu_id}")
                torch.cuda.empty_cache()
        except Exception as error:
            self.logger.warning("GPU %d cannot be used: %s", gpu_id, error)
            return False
        return True

    def get_gpu_memory_info(self, gpu_id: int | None = None) -> dict[str, Any]:
        """Memory of a GPU in GiB, as this process sees it.

        Args:
            gpu_id: index of the GPU; None for the current one.

        Returns:
            `allocated_gb`, `reserved_gb`, `total_gb` and `free_gb`, which is total minus
            allocated; or `error` with a text.
        """
        if not torch.cuda.is_available():
            return {"error": "CUDA not available"}
        try:
            device = torch.cuda.current_device() if gpu_id is None else gpu_id
            allocated = torch.cuda.memory_allocated(device) / _GIB
            reserved = torch.cuda.memory_reserved(device) / _GIB
            total = torch.cuda.get_device_properties(device).total_memory / _GIB
        except Exception as error:
            return {"error": str(error)}
        return {
            "allocated_gb": allocated,
            "reserved_gb": reserved,
            "total_gb": total,
            "free_gb": total - allocated,
        }

    def _create_model(
        self, model_name: str, gpu_id: int | None, model_kwargs: dict[str, Any]
    ) -> Any:
        """Loads and places a model.

        Arguments go to the loader as they are. `dtype` and its older name `torch_dtype` both work.
        Placement: where `device_map` says, else on `gpu_id` (on the CPU with a warning where CUDA
        is missing), else on the CPU.

        Raises:
            ModelCreationError: with whatever failed as its `original_error`.
        """
        try:
            loader, kwargs = self._loader(model_name, dict(model_kwargs or {}))
            model = self._load(loader, model_name, kwargs)
            if kwargs.get("device_map") is not None:
                return model
            device = _target_device(gpu_id)
            if gpu_id is not None and device == "cpu":
                self.logger.warning(
                    "no CUDA for GPU %d: %s stays on the CPU", gpu_id, model_name
                )
            return model.to(device)
        except Exception as error:
            raise ModelCreationError(model_name, gpu_id, _cause(model_name, error)) from error

    def _create_tokenizer(self, tokenizer_name: str, tokenizer_kwargs: dict[str, Any]) -> Any:
        """Loads a tokenizer; without a padding token it pads with the end-of-sequence token.

        Raises:
            TokenizerCreationError: with whatever failed as its `original_error`.
        """
        try:
            path, offline = _checkpoint(tokenizer_name)
            kwargs = {**offline, **(tokenizer_kwargs or {})}
            tokenizer = AutoTokenizer.from_pretrained(path, **kwargs)
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            return tokenizer
        except Exception as error:
            raise TokenizerCreationError(tokenizer_name, _cause(tokenizer_name, error)) from error

    def _delete_model(self, model: Any, gpu_id: int | None) -> None:
        """Moves a model off its GPU and returns the memory.

        Raises:
            ResourceCleanupError: the garbage collector failed; trouble with the GPU is logged.
        """
        try:
            on_gpu = torch.cuda.is_available() and (gpu_id is not None or _holds_cuda(model))
            if on_gpu and gpu_id is not None:
                try:
                    model.to("cpu")
                except Exception as error:  # e.g. a model spread by device_map or quantised
                    self.logger.warning("a model was not moved off GPU %d: %s", gpu_id, error)
            gc.collect()
            if on_gpu:
                try:
                    cleanup_gpu_memory(gpu_id)
                except Exception as error:
                    self.logger.warning("GPU memory was not cleaned up: %s", error)
        except Exception as error:
            raise ResourceCleanupError("model", "model", error) from error

    def _delete_tokenizer(self, tokenizer: Any) -> None:
        """Frees a tokenizer.

        Raises:
            ResourceCleanupError: the garbage collector failed.
        """
        try:
            gc.collect()
        except Exception as error:
            raise ResourceCleanupError("tokenizer", "tokenizer", error) from error

    def _get_model_registry(self) -> dict[str, RegistryEntry]:
        """The registry of the config, read once a path; empty without one.

        Raises:
            ModelRegistryError: the file cannot be used.
        """
        path = self.config.model_registry_path
        if not path:
            return {}
        if self._registry is None or self._registry[0] != path:
            self._registry = (path, load_model_registry(path))
        return self._registry[1]

    def _loader(self, model_name: str, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The class that loads a model, and its arguments."""
        path = self.config.model_registry_path
        entry = self._get_model_registry().get(model_name)
        if entry is None:
            if path:
                self.logger.warning("model %s is not registered in %s", model_name, path)
                if not self.config.allow_unregistered_models:
                    raise ModelRegistryError(
                        f"Model {model_name} is not registered in {path}, and "
                        "allow_unregistered_models is False"
                    )
            return AutoModelForCausalLM, kwargs
        defaults = dict(entry.default_model_kwargs)
        if kwargs.keys() & {"dtype", "torch_dtype"}:  # two names of one argument
            defaults.pop("dtype", None)
            defaults.pop("torch_dtype", None)
        loader = resolve_model_class(entry.model_class)
        return (AutoModelForCausalLM if loader is None else loader), {**defaults, **kwargs}

    def _load(self, loader: Any, model_name: str, kwargs: dict[str, Any]) -> Any:
        """Loads; a model that has no flex attention is loaded with eager attention instead."""
        path, offline = _checkpoint(model_name)
        kwargs = {**offline, **kwargs}
        try:
            return loader.from_pretrained(path, **kwargs)
        except ValueError as error:
            asked_for_flex = any(kwargs.get(name) in _FLEX_NAMES for name in _FLEX_ARGUMENTS)
            text = str(error).lower().replace("flexattention", "flex_attention")
            if not asked_for_flex or "flex_attention" not in text or "support" not in text:
                raise
            self.logger.warning(
                "%s does not support flex_attention: loading with eager attention", model_name
            )
        kwargs.pop("attention_implementation", None)
        kwargs["attn_implementation"] = "eager"
        return loader.from_pretrained(path, **kwargs)


def _checkpoint(name: str) -> tuple[str, dict[str, Any]]:
    """What to load for a name: a folder needs no network, and must not wait for one."""
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return path, {"local_files_only": True}
    return name, {}


def _cause(name: str, error: Exception) -> Exception:
    """`error` of a loading, or that a folder is missing where transformers took its path for a name of a hub."""
    path = os.path.expanduser(name)
    if (os.path.isabs(path) or name.startswith(".")) and not os.path.isdir(path):
        return FileNotFoundError(f"there is no folder {path}")
    return error


def _target_device(gpu_id: int | None) -> str:
    return f"cuda:{gpu_id}" if gpu_id is not None and torch.cuda.is_available() else "cpu"


def _holds_cuda(model: Any) -> bool:
    return isinstance(model, torch.nn.Module) and any(p.is_cuda for p in model.parameters())
