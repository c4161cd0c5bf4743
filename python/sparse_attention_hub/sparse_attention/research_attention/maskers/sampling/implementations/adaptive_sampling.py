"""vAttention: a random sample as large as a promise on its error asks for (Desai et al., 2025)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...base import MaskerConfig, MaskerRegistry
from ..base import SamplingMaskerConfig
from ._adaptive_sampling_methods import AdaptiveSamplingMethods


def _rates_and_promises() -> dict[str, Any]:
    return {
        "base_rate_sampling": {"grid_search": [0.01, 0.02, 0.03]},
        "epsilon": {"grid_search": [0.05, 0.1, 0.2, 0.3]},
        "delta": {"grid_search": [0.05, 0.1, 0.2, 0.3]},
    }


@dataclass
class AdaptiveSamplingMaskerConfig(SamplingMaskerConfig):
    """Config of `AdaptiveSamplingMasker`.

    Attributes:
        base_rate_sampling: Size of the base sample: an int is a count, a float a fraction of the keys open to
            sampling in [0, 1); at least 2; 0 switches sampling off.
        epsilon: Relative error that is promised, in (0, 1).
        delta: Probability with which the promise may fail, in (0, 1).
        init_offset: Leading keys that are not sampled: an int is a count, a float a fraction in [0, 1].
        local_offset: Latest keys that are not sampled, likewise.
        search_space: For sweeps, in Ray Tune's form of a grid search.
        estimator: "unbiased": without replacement, among keys not yet kept; "hub": the Python hub's rule.
        guarantee: What the promise is about: "denominator" or "output".
    """

    masker_type: ClassVar[str] = "adaptive_sampling"

    base_rate_sampling: float | int
    epsilon: float
    delta: float
    init_offset: float | int
    local_offset: float | int
    search_space: dict[str, Any] = field(default_factory=_rates_and_promises)
    estimator: str = field(default="unbiased", kw_only=True)
    guarantee: str = field(default="denominator", kw_only=True)

    def __post_init__(self) -> None:
        for name in ("base_rate_sampling", "init_offset", "local_offset"):
            if not isinstance(getattr(self, name), (int, float)):
                raise ValueError(f"{name} must be int or float, got {getattr(self, name)!r}")
        super().__post_init__()


@MaskerRegistry.register(AdaptiveSamplingMaskerConfig)
class AdaptiveSamplingMasker(AdaptiveSamplingMethods):
    """Samples the keys that earlier maskers leave, as many for every query as its promise asks for."""

    config_class = AdaptiveSamplingMaskerConfig
    steps = (
        "_compute_exp_attention_scores",
        "should_return_full_mask",
        "_get_sampling_range",
        "_get_base_sample_count",
        "_get_std_estimate_using_base_sample",
        "_compute_adaptive_budget",
    )

    def __init__(self, config: MaskerConfig) -> None:
        assert isinstance(config, AdaptiveSamplingMaskerConfig)
        self.base_rate_sampling = config.base_rate_sampling
        self.epsilon = config.epsilon
        self.delta = config.delta
        self.delta_ppf = float(torch.special.ndtri(torch.tensor(1 - config.delta, dtype=torch.float64)))
        self.init_offset = config.init_offset
        self.local_offset = config.local_offset
        super().__init__(config)
