"""The lightning indexer of DeepSeek Sparse Attention: small heads score tokens (DeepSeek-AI, 2025)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ...base import MaskerRegistry
from ...core_masker import CoreMasker
from ..base import TopKMasker, TopKMaskerConfig


@dataclass
class LightningIndexerMaskerConfig(TopKMaskerConfig):
    """Config of `LightningIndexerMasker`, which the Python hub lacks.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys.
        weight_file: Safetensors file of the indexer (docs/index_weights.md).
    """

    masker_type: ClassVar[str] = "lightning_indexer"

    weight_file: str = field()


@MaskerRegistry.register(LightningIndexerMaskerConfig)
class LightningIndexerMasker(CoreMasker, TopKMasker):
    """Keeps the tokens that a few small heads score highest, one choice for all query heads."""

    config_class = LightningIndexerMaskerConfig
    keeps_state = True
