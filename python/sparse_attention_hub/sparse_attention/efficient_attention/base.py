"""The base of the efficient engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..base import SparseAttention, SparseAttentionConfig


@dataclass
class EfficientAttentionConfig(SparseAttentionConfig):
    """Base of the configs of efficient attention."""

    def to_entry(self) -> dict[str, Any]:
        """The config as the C++ library reads it: a JSON object with the method's name as "type".

        Raises:
            TypeError: A value has no place in JSON, or the config is not one of the C++ library.
        """
        raise TypeError(f"{type(self).__name__} is no pipeline of the C++ library")


class EfficientAttention(SparseAttention):
    """Base of attention that reads the selected keys only."""

    @classmethod
    def create_from_config(cls, config: SparseAttentionConfig) -> EfficientAttention:
        """The implementation of a config, by exactly its type.

        Raises:
            TypeError: `config` is not an `EfficientAttentionConfig`.
            ValueError: No implementation belongs to it.
        """
        from .implementations import DoubleSparsity, DoubleSparsityConfig, HashAttention, HashAttentionConfig

        if not isinstance(config, EfficientAttentionConfig):
            raise TypeError(f"Expected EfficientAttentionConfig, got {type(config)}")
        implementations: dict[type, type[EfficientAttention]] = {
            DoubleSparsityConfig: DoubleSparsity,
            HashAttentionConfig: HashAttention,
        }
        implementation = implementations.get(type(config))
        if implementation is None:
            raise ValueError(f"No efficient attention class found for config type: {type(config)}")
        return implementation.create_from_config(config)
