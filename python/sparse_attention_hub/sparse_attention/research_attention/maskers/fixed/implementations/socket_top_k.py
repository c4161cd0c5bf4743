"""Socket: top-k by soft collisions in hash tables, weighed by the length of the values."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import ClassVar

from ...base import MaskerConfig, MaskerRegistry
from ...core_masker import CoreMasker
from ..base import TopKMasker, TopKMaskerConfig


@dataclass
class SocketMaskerConfig(TopKMaskerConfig):
    """Config of `SocketMasker`.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys.
        K: Planes of a table, 20 at most.
        L: Tables.
        tau: Temperature: how softly a query belongs to buckets beside its own.
    """

    masker_type: ClassVar[str] = "socket_top_k"

    K: int = 4
    L: int = 1
    tau: float = 0.3

    def __post_init__(self) -> None:
        if not isinstance(self.tau, numbers.Real):
            raise ValueError(f"tau must be positive, got {self.tau!r}")
        super().__post_init__()


@MaskerRegistry.register(SocketMaskerConfig)
class SocketMasker(CoreMasker, TopKMasker):
    """Keeps the keys that share hash buckets with the query softly.

    In an attention mask True and numbers below 0 mean forbidden, as in the Python hub; nothing is added to scores.
    """

    config_class = SocketMaskerConfig
    keeps_state = True
    mask_only_forbids = True

    def __init__(self, config: MaskerConfig) -> None:
        super().__init__(config)
        self.P: int = config.K  # type: ignore[attr-defined]
        self.L: int = config.L  # type: ignore[attr-defined]
        self.tau: float = config.tau  # type: ignore[attr-defined]
