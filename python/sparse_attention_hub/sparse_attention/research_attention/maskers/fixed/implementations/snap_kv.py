"""SnapKV: keeps the keys that the last queries of the prompt attend to (Li et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...base import MaskerRegistry
from ...core_masker import CoreMasker
from ..base import TopKMasker, TopKMaskerConfig


@dataclass
class SnapKVMaskerConfig(TopKMaskerConfig):
    """Config of `SnapKVMasker`, which the Python hub lacks.

    Attributes:
        heavy_size: Prompt keys to keep: an int is a count, a float a fraction of the keys.
        window_size: Last queries of the prompt that choose.
        kernel_size: Width of the pooling over neighbouring keys; odd.
    """

    masker_type: ClassVar[str] = "snap_kv"

    window_size: int = 32
    kernel_size: int = 5


@MaskerRegistry.register(SnapKVMaskerConfig)
class SnapKVMasker(CoreMasker, TopKMasker):
    """Keeps the prompt keys that its last queries attend to, chosen once for all later queries."""

    config_class = SnapKVMaskerConfig
    keeps_state = True
