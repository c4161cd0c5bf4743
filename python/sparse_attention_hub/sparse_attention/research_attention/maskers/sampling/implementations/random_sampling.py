"""Uniform random sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...base import MaskerConfig, MaskerRegistry
from ...core_masker import CoreMasker
from ..base import SamplingMasker, SamplingMaskerConfig


@dataclass
class RandomSamplingMaskerConfig(SamplingMaskerConfig):
    """Config of `RandomSamplingMasker`.

    Attributes:
        sampling_rate: Share of the keys beside those that earlier maskers keep, in (0, 1].
        search_space: For sweeps.
        estimator: "unbiased": without replacement, among keys not yet kept, draws by the pipeline's seed; "hub": the
            Python hub's rule, draws from torch's generator.
    """

    masker_type: ClassVar[str] = "random_sampling"

    sampling_rate: float
    search_space: dict[str, Any] = field(default_factory=dict)
    estimator: str = field(default="unbiased", kw_only=True)


@MaskerRegistry.register(RandomSamplingMaskerConfig)
class RandomSamplingMasker(CoreMasker, SamplingMasker):
    """Keeps a uniform random share of the keys, independently for every query."""

    config_class = RandomSamplingMaskerConfig

    def __init__(self, config: MaskerConfig) -> None:
        super().__init__(config)
        self.sampling_rate: float = config.sampling_rate  # type: ignore[attr-defined]
