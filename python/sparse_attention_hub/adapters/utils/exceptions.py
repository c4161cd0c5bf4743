"""Errors of the model servers. Every constructor argument stays readable as an attribute."""

from __future__ import annotations

from typing import Any


class ModelServerError(Exception):
    """Base of all errors here; its text is `message`, or `message: details`."""

    def __init__(self, message: str, details: str = "") -> None:
        self.message = message
        self.details = details
        super().__init__(f"{message}: {details}" if details else message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers send errors to their parent, and the constructors do not take `args`.
        return _restore, (type(self), self.args, self.__dict__)


class ModelServerConflictError(ModelServerError, ValueError):
    """The process-wide server has another class or another config than the one asked for."""


class ModelCreationError(ModelServerError):
    """A model could not be loaded or placed."""

    def __init__(
        self,
        model_name: str,
        gpu_id: int | None = None,
        original_error: Exception | None = None,
    ) -> None:
        self.model_name = model_name
        self.gpu_id = gpu_id
        self.original_error = original_error
        super().__init__(
            f"Failed to create model: {model_name}",
            f"model_name={model_name}, gpu_id={gpu_id}{_cause(original_error)}",
        )


class TokenizerCreationError(ModelServerError):
    """A tokenizer could not be loaded."""

    def __init__(self, tokenizer_name: str, original_error: Exception | None = None) -> None:
        self.tokenizer_name = tokenizer_name
        self.original_error = original_error
        super().__init__(
            f"Failed to create tokenizer: {tokenizer_name}",
            f"tokenizer_name={tokenizer_name}{_cause(original_error)}",
        )


class ReferenceCountError(ModelServerError):
    """More references were given back than taken."""

    def __init__(self, resource_key: str, operation: str, current_count: int) -> None:
        self.resource_key = resource_key
        self.operation = operation
        self.current_count = current_count
        super().__init__(
            f"Reference count error during {operation}",
            f"resource_key={resource_key}, operation={operation}, current_count={current_count}",
        )


class ResourceCleanupError(ModelServerError):
    """A model or tokenizer could not be deleted; the server still holds it."""

    def __init__(
        self, resource_key: str, resource_type: str, original_error: Exception | None = None
    ) -> None:
        self.resource_key = resource_key
        self.resource_type = resource_type
        self.original_error = original_error
        super().__init__(
            f"Failed to cleanup {resource_type}",
            f"resource_key={resource_key}, resource_type={resource_type}{_cause(original_error)}",
        )


def _cause(error: Exception | None) -> str:
    return "" if error is None else f", original_error={error}"


def _restore(
    error_class: type[ModelServerError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> ModelServerError:
    error = error_class.__new__(error_class)
    error.args = args
    error.__dict__.update(attributes)
    return error
