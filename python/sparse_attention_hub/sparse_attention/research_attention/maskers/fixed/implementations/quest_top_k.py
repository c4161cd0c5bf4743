"""Quest: top pages by an upper bound of the logits (Tang et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...base import AttentionTensorDimensions, MaskerConfig, MaskerRegistry
from ...core_masker import CoreMasker
from ..base import TopKMasker, TopKMaskerConfig


def _sizes_and_pages() -> dict[str, Any]:
    return {
        "heavy_size": {"grid_search": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10]},
        "page_size": {"grid_search": [64, 128, 256]},
    }


@dataclass
class QuestTopKMaskerConfig(TopKMaskerConfig):
    """Config of `QuestTopKMasker`.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys.
        page_size: Keys of a page.
        label_bits: Bits of a page's bounds, 1 to 16; 16: not quantised.
        search_space: For sweeps, in Ray Tune's form of a grid search.
    """

    masker_type: ClassVar[str] = "quest_top_k"

    page_size: int
    label_bits: int = 16
    search_space: dict[str, Any] = field(default_factory=_sizes_and_pages)


@MaskerRegistry.register(QuestTopKMaskerConfig)
class QuestTopKMasker(CoreMasker, TopKMasker):
    """Keeps the pages of keys whose upper bound of the product with the query is highest.

    In an attention mask True and numbers below 0 mean forbidden, as in the Python hub; nothing is added to scores.
    """

    config_class = QuestTopKMaskerConfig
    keeps_state = True
    mask_only_forbids = True

    def __init__(self, config: MaskerConfig) -> None:
        super().__init__(config)
        self.page_size: int = config.page_size  # type: ignore[attr-defined]
        self.label_bits: int = config.label_bits  # type: ignore[attr-defined]

    def _should_use_full_attention(self, dims: AttentionTensorDimensions, heavy_tokens: int) -> bool:
        return dims.seq_len_keys <= max(1, heavy_tokens)
