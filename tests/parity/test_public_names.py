"""Every public name of the Python hub is here, with its parameters, their order and their defaults."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from typing import Any, Iterator, List, Tuple

import pytest
import torch

from public_names import CLASSES, DIFFERENT, EXPORTS, FUNCTIONS, MISSING, OTHERS

REQUIRED = inspect.Parameter.empty
STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def signatures() -> Iterator[Tuple[str, str, str]]:
    """(module, class or "", signature)."""
    for module, classes in CLASSES.items():
        for constructor, methods in classes.items():
            yield module, "", constructor
            for method in methods:
                yield module, constructor.split("(")[0], method
    for module, functions in FUNCTIONS.items():
        for function in functions:
            yield module, "", function


def names() -> Iterator[Tuple[str, str]]:
    for module, exported in EXPORTS.items():
        yield from ((module, name) for name in exported)
    for module, owner, signature in signatures():
        yield module, ".".join(part for part in (owner, signature.split("(")[0]) if part)
    for module, others in OTHERS.items():
        yield from ((module, name) for name in others)


def find(module: str, name: str) -> Any:
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def written(signature: str) -> Tuple[str, List[Tuple[str, Any]], bool]:
    """(name, (parameter, default) in order, whether any keyword is taken)."""
    (function,) = ast.parse(f"def {signature}: ...").body
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args.args
    defaults: List[Any] = [REQUIRED] * (len(arguments) - len(function.args.defaults))
    defaults += [eval(ast.unparse(default), {"torch": torch}) for default in function.args.defaults]
    return function.name, [(a.arg, d) for a, d in zip(arguments, defaults)], function.args.kwarg is not None


def default_of(owner: Any, parameter: inspect.Parameter) -> Any:
    """A default as a value: dataclasses keep a factory in its place."""
    if dataclasses.is_dataclass(owner):
        for field in dataclasses.fields(owner):
            if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
                return field.default_factory()
    return parameter.default


@pytest.mark.parametrize(("module", "name"), sorted(set(names())), ids=":".join)
def test_the_name_is_there(module: str, name: str) -> None:
    if f"{module}:{name}" in MISSING:
        with pytest.raises((ImportError, AttributeError)):
            find(module, name)
    else:
        assert find(module, name) is not None


def test_what_is_said_to_be_missing_or_different_is_in_the_tables() -> None:
    known = {f"{module}:{name}" for module, name in names()}
    assert set(MISSING) <= known
    assert set(DIFFERENT) <= known


@pytest.mark.parametrize(("module", "owner", "signature"), list(signatures()), ids=lambda part: part)
def test_parameters(module: str, owner: str, signature: str) -> None:
    name, expected, any_keyword = written(signature)
    path = f"{owner}.{name}" if owner else name
    key = f"{module}:{path}"
    if key in MISSING:
        return
    if key in DIFFERENT:
        _, expected, any_keyword = written(DIFFERENT[key][0])
    found = find(module, path)
    asked = found.__init__ if inspect.isclass(found) else found  # a __new__ of singletons takes anything
    parameters = [p for p in inspect.signature(asked).parameters.values() if p.name not in ("self", "cls")]
    plain = [p for p in parameters if p.kind not in STARS and p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert [p.name for p in plain[: len(expected)]] == [parameter for parameter, _ in expected]
    for parameter, (_, default) in zip(plain, expected):
        if default is not REQUIRED and default is not ...:
            assert default_of(found, parameter) == default, parameter.name
        elif default is ...:
            assert parameter.default is not REQUIRED, parameter.name
    ours = [p for p in parameters if p not in plain[: len(expected)] and p.kind not in STARS]
    assert all(p.default is not REQUIRED for p in ours), f"{[p.name for p in ours]} must have defaults"
    assert not any_keyword or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def test_packages_list_what_they_export() -> None:
    for module, exported in EXPORTS.items():
        listed = set(getattr(importlib.import_module(module), "__all__", []))
        missing = [name for name in exported if name not in listed and f"{module}:{name}" not in MISSING]
        assert not missing, f"{module}.__all__ lacks {missing}"
