"""The reference-counted cache of models and tokenizers that all adapters of a process share.

One process has one server, of one class and one config. Where that does not fit, `server_for`
makes another one under a key of its own. The names and rules are the Python hub's.
"""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from ..utils.config import ModelServerConfig
from ..utils.exceptions import (
    ModelCreationError,
    ModelServerConflictError,
    ReferenceCountError,
    ResourceCleanupError,
    TokenizerCreationError,
)
from ..utils.model_utils import generate_model_key, generate_tokenizer_key

if TYPE_CHECKING:
    from typing_extensions import Self

_Kind = Literal["model", "tokenizer"]
_Server = TypeVar("_Server", bound="ModelServer")


@dataclass
class ModelEntry:
    """A model that a server holds.

    Attributes:
        model: the model.
        reference_count: how many callers use it.
        gpu_id: index of its GPU; None for the CPU.
        model_kwargs: the arguments that it was loaded with.
        creation_time: local time.
        last_access_time: local time at which it was last handed out.
    """

    model: Any
    reference_count: int
    gpu_id: int | None
    model_kwargs: dict[str, Any]
    creation_time: datetime = field(default_factory=datetime.now)
    last_access_time: datetime = field(default_factory=datetime.now)


@dataclass
class TokenizerEntry:
    """A tokenizer that a server holds; the attributes are those of `ModelEntry`."""

    tokenizer: Any
    reference_count: int
    tokenizer_kwargs: dict[str, Any]
    creation_time: datetime = field(default_factory=datetime.now)
    last_access_time: datetime = field(default_factory=datetime.now)


class ModelServer(ABC):
    """Hands out models and tokenizers, loading each once. Thread-safe.

    `SomeServer(config)` is the process-wide server, made by the first call. A subclass implements
    the four hooks below; its own `__init__` runs again at every call.

    Attributes:
        config: the settings.
        logger: named after the class.
    """

    _instance: ClassVar[ModelServer | None] = None
    _keyed: ClassVar[weakref.WeakValueDictionary[tuple[type, Hashable], ModelServer]] = (
        weakref.WeakValueDictionary()
    )
    _lock: Any = threading.RLock()  # of the class: creation; of an instance: its operations

    config: ModelServerConfig
    logger: logging.Logger
    _models: dict[str, ModelEntry]
    _tokenizers: dict[str, TokenizerEntry]

    def __new__(cls, config: ModelServerConfig | None = None, *args: Any, **kwargs: Any) -> Self:
        """The process-wide server.

        Args:
            config: its settings; None for the defaults, or for those that it already has.
            *args: for the `__init__` of a subclass.
            **kwargs: for the `__init__` of a subclass.

        Raises:
            ModelServerConflictError: a ValueError; the server exists with another class or config.
        """
        with ModelServer._lock:
            server = ModelServer._instance
            if server is None:
                server = cls._make(config)
                ModelServer._instance = server
            if type(server) is not cls:
                raise ModelServerConflictError(
                    "Trying to create ModelServer with different concrete class when instance "
                    "already exists",
                    f"it is a {type(server).__name__}, asked for {cls.__name__}; server_for and "
                    "keyed make servers beside it",
                )
            _check_config(server, config)
            return server

    def __init__(self, config: ModelServerConfig | None = None) -> None:
        # __new__ has set everything up, under the lock that other threads wait for.
        pass

    @classmethod
    def keyed(cls, key: Hashable, config: ModelServerConfig | None = None) -> Self:
        """The server of this class under `key`, beside the process-wide one.

        It lives as long as somebody holds it, and takes its models with it.

        Args:
            key: any name.
            config: as for the process-wide server.

        Raises:
            ModelServerConflictError: the server under this key has another config.
        """
        with ModelServer._lock:
            server = ModelServer._keyed.get((cls, key))
            if server is None:
                server = cls._make(config)
                cls.__init__(server, config)
                ModelServer._keyed[cls, key] = server
            assert isinstance(server, cls)
            _check_config(server, config)
            return server

    @classmethod
    def _make(cls, config: ModelServerConfig | None) -> Self:
        server = object.__new__(cls)
        server.config = config if config is not None else ModelServerConfig()
        server.logger = logging.getLogger(f"{cls.__module__}.{cls.__qualname__}")
        server._models = {}
        server._tokenizers = {}
        server._lock = threading.RLock()
        return server

    def __del__(self) -> None:
        if sys.is_finalizing() or not hasattr(self, "_tokenizers"):
            return
        for kind in _KINDS:
            try:
                self._release_all(kind, force_delete=True)
            except Exception:  # a destructor has nobody to tell
                pass

    # Hooks. Whatever they raise is wrapped in the error of the operation that called them.

    @abstractmethod
    def _create_model(
        self, model_name: str, gpu_id: int | None, model_kwargs: dict[str, Any]
    ) -> Any:
        """Loads a model onto GPU `gpu_id`, or the CPU for None."""

    @abstractmethod
    def _create_tokenizer(self, tokenizer_name: str, tokenizer_kwargs: dict[str, Any]) -> Any:
        """Loads a tokenizer."""

    @abstractmethod
    def _delete_model(self, model: Any, gpu_id: int | None) -> None:
        """Frees what a model holds."""

    @abstractmethod
    def _delete_tokenizer(self, tokenizer: Any) -> None:
        """Frees what a tokenizer holds."""

    # Models.

    def get_model(self, model_name: str, gpu: int | None, model_kwargs: dict[str, Any]) -> Any:
        """A model, loaded at the first call; the caller holds one reference more.

        Args:
            model_name: name or folder.
            gpu: index of the GPU; None for the CPU.
            model_kwargs: arguments of the loader. Other arguments are another model.

        Raises:
            ModelCreationError: it cannot be loaded; nothing is kept.
        """
        key = generate_model_key(model_name, gpu, model_kwargs)
        with self._lock:
            entry = self._models.get(key)
            if entry is None:
                try:
                    model = self._create_model(model_name, gpu, model_kwargs)
                except ModelCreationError:
                    raise
                except Exception as error:
                    raise ModelCreationError(model_name, gpu, error) from error
                entry = self._models[key] = ModelEntry(model, 0, gpu, dict(model_kwargs or {}))
                self._log_stats("created", "model", key)
            entry.reference_count += 1
            entry.last_access_time = datetime.now()
            return entry.model

    def clear_model(self, model_name: str, gpu: int | None, model_kwargs: dict[str, Any]) -> bool:
        """Gives one reference back; with `delete_on_zero_reference` the last one deletes.

        Returns:
            False where the server has no such model.

        Raises:
            ReferenceCountError: no reference is out.
            ResourceCleanupError: deleting failed; the server still holds the model.
        """
        return self._clear("model", generate_model_key(model_name, gpu, model_kwargs))

    def release_memory_and_clean(
        self,
        model_name: str,
        gpu: int | None,
        model_kwargs: dict[str, Any],
        force_delete: bool = False,
    ) -> bool:
        """Deletes a model that nobody uses, or with `force_delete` any.

        Returns:
            Whether it was deleted.

        Raises:
            ResourceCleanupError: deleting failed; the server still holds the model.
        """
        key = generate_model_key(model_name, gpu, model_kwargs)
        return self._release("model", key, force_delete)

    def release_memory_and_clean_all(self, force_delete: bool = False) -> dict[str, int]:
        """Deletes all models that nobody uses, or with `force_delete` all.

        Returns:
            Counts: "deleted", and "skipped" for those in use and those that could not be deleted,
            which are logged as errors.
        """
        return self._release_all("model", force_delete)

    def get_model_stats(self) -> dict[str, Any]:
        """Counts `total_models`, `total_references`, `zero_reference_models`, and `model_keys`."""
        return self._stats("model")

    # Tokenizers.

    def get_tokenizer(self, tokenizer_name: str, tokenizer_kwargs: dict[str, Any]) -> Any:
        """A tokenizer, loaded at the first call; see `get_model`.

        Raises:
            TokenizerCreationError: it cannot be loaded; nothing is kept.
        """
        key = generate_tokenizer_key(tokenizer_name, tokenizer_kwargs)
        with self._lock:
            entry = self._tokenizers.get(key)
            if entry is None:
                try:
                    tokenizer = self._create_tokenizer(tokenizer_name, tokenizer_kwargs)
                except TokenizerCreationError:
                    raise
                except Exception as error:
                    raise TokenizerCreationError(tokenizer_name, error) from error
                entry = TokenizerEntry(tokenizer, 0, dict(tokenizer_kwargs or {}))
                self._tokenizers[key] = entry
                self._log_stats("created", "tokenizer", key)
            entry.reference_count += 1
            entry.last_access_time = datetime.now()
            return entry.tokenizer

    def clear_tokenizer(self, tokenizer_name: str, tokenizer_kwargs: dict[str, Any]) -> bool:
        """Gives one reference back; see `clear_model`."""
        return self._clear("tokenizer", generate_tokenizer_key(tokenizer_name, tokenizer_kwargs))

    def release_tokenizer_and_clean(
        self, tokenizer_name: str, tokenizer_kwargs: dict[str, Any], force_delete: bool = False
    ) -> bool:
        """Deletes a tokenizer; see `release_memory_and_clean`."""
        key = generate_tokenizer_key(tokenizer_name, tokenizer_kwargs)
        return self._release("tokenizer", key, force_delete)

    def release_tokenizers_and_clean_all(self, force_delete: bool = False) -> dict[str, int]:
        """Deletes all tokenizers; see `release_memory_and_clean_all`."""
        return self._release_all("tokenizer", force_delete)

    def get_tokenizer_stats(self) -> dict[str, Any]:
        """As `get_model_stats`, with `tokenizers` and `tokenizer` in the names."""
        return self._stats("tokenizer")

    def cleanup_unused(self) -> dict[str, dict[str, int]]:
        """Deletes what nobody uses.

        Returns:
            "models" and "tokenizers" to the counts of `release_memory_and_clean_all`.
        """
        with self._lock:
            return {f"{kind}s": self._release_all(kind, False) for kind in _KINDS}

    # What models and tokenizers have in common.

    def _entries(self, kind: _Kind) -> Mapping[str, ModelEntry | TokenizerEntry]:
        return self._models if kind == "model" else self._tokenizers

    def _clear(self, kind: _Kind, key: str) -> bool:
        with self._lock:
            entry = self._entries(kind).get(key)
            if entry is None:
                self.logger.warning("no %s %s to give back", kind, key)
                return False
            if entry.reference_count <= 0:
                raise ReferenceCountError(key, "decrement", entry.reference_count)
            entry.reference_count -= 1
            if entry.reference_count == 0 and self.config.delete_on_zero_reference:
                self._delete(kind, key)
            return True

    def _release(self, kind: _Kind, key: str, force_delete: bool) -> bool:
        with self._lock:
            entry = self._entries(kind).get(key)
            if entry is None:
                self.logger.warning("no %s %s to delete", kind, key)
                return False
            if entry.reference_count > 0 and not force_delete:
                self.logger.warning(
                    "%s %s is in use: %d references", kind, key, entry.reference_count
                )
                return False
            self._delete(kind, key)
            return True

    def _release_all(self, kind: _Kind, force_delete: bool) -> dict[str, int]:
        with self._lock:
            counts = {"deleted": 0, "skipped": 0}
            for key, entry in list(self._entries(kind).items()):
                if entry.reference_count > 0 and not force_delete:
                    counts["skipped"] += 1
                    continue
                try:
                    self._delete(kind, key)
                    counts["deleted"] += 1
                except ResourceCleanupError as error:  # the others still have to go
                    self.logger.error("%s", str(error))  # the error itself holds the server
                    counts["skipped"] += 1
            return counts

    def _delete(self, kind: _Kind, key: str) -> None:
        try:
            if kind == "model":
                model = self._models[key]
                self._delete_model(model.model, model.gpu_id)
                del self._models[key]
            else:
                self._delete_tokenizer(self._tokenizers[key].tokenizer)
                del self._tokenizers[key]
        except ResourceCleanupError as error:  # the hook does not know the key
            raise ResourceCleanupError(key, kind, error.original_error) from error
        except Exception as error:
            raise ResourceCleanupError(key, kind, error) from error
        self._log_stats("deleted", kind, key)

    def _stats(self, kind: _Kind) -> dict[str, Any]:
        with self._lock:
            counts = [entry.reference_count for entry in self._entries(kind).values()]
            return {
                f"total_{kind}s": len(counts),
                "total_references": sum(counts),
                f"zero_reference_{kind}s": counts.count(0),
                f"{kind}_keys": list(self._entries(kind)),
            }

    def _log_stats(self, action: str, kind: _Kind, key: str) -> None:
        if self.config.enable_stats_logging:
            self.logger.info(
                "%s %s %s; models: %d, tokenizers: %d",
                action, kind, key, len(self._models), len(self._tokenizers),
            )


_KINDS: tuple[_Kind, _Kind] = ("model", "tokenizer")


def server_for(server_class: type[_Server], config: ModelServerConfig) -> _Server:
    """A server of this class with this config, whatever the process-wide server is.

    The process-wide server where it fits or does not exist yet; else one beside it that all calls
    with an equal config share and that lives as long as somebody holds it. The Python hub fails
    in the second case.

    Args:
        server_class: a concrete subclass of ModelServer.
        config: the settings.

    Returns:
        The server; hold it as long as its models are needed.
    """
    try:
        return server_class(config)
    except ModelServerConflictError:
        return server_class.keyed(config.values(), config)


def _check_config(server: ModelServer, config: ModelServerConfig | None) -> None:
    if config is not None and config != server.config:
        raise ModelServerConflictError(
            "Trying to create ModelServer with different config when instance already exists",
            f"it has {server.config}, asked for {config}; server_for and keyed make servers "
            "beside it",
        )
