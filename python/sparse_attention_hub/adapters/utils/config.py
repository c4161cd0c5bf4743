"""Settings of a model server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(eq=False)
class ModelServerConfig:
    """How a model server keeps and finds models. Mutable; compared by value.

    No registry is no registry: a path of "" equals None, unlike in the Python hub, where a server
    made with the default config made every later adapter fail.

    Attributes:
        delete_on_zero_reference: delete a model or tokenizer with its last reference; else it
            stays for the next caller until it is released.
        enable_stats_logging: log the counts after every creation and deletion.
        model_registry_path: a YAML file of models (`model_servers.model_registry`).
        allow_unregistered_models: with a registry, whether other models may be loaded too.
    """

    delete_on_zero_reference: bool = False
    enable_stats_logging: bool = True
    model_registry_path: str | None = None
    allow_unregistered_models: bool = True

    def values(self) -> tuple[bool, bool, str | None, bool]:
        """The settings in order, with None for a registry path of ""."""
        return (
            self.delete_on_zero_reference,
            self.enable_stats_logging,
            self.model_registry_path or None,
            self.allow_unregistered_models,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelServerConfig):
            return NotImplemented
        return self.values() == other.values()

    __hash__ = None  # type: ignore[assignment]  # mutable
