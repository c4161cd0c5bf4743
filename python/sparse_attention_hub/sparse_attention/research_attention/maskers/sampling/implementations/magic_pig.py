"""MagicPIG: importance sampling by locality-sensitive hashing (Chen et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...base import MaskerConfig, MaskerRegistry
from ..base import SamplingMaskerConfig
from ._magic_pig_methods import MagicPigMethods


def _tables_and_planes() -> dict[str, Any]:
    return {"lsh_l": {"grid_search": [16, 32, 64, 128]}, "lsh_k": {"grid_search": [4, 8, 16, 32]}}


@dataclass
class MagicPigConfig(SamplingMaskerConfig):
    """Config of `MagicPig`.

    Attributes:
        lsh_l: Tables.
        lsh_k: Planes of a table, 64 at most.
        center: Subtract the mean of the keys first.
        packing: "int64" or "float32": how the Python hub keeps signatures; here they are always packed.
        seed: Of the planes, together with the pipeline's seed.
        search_space: For sweeps, in Ray Tune's form of a grid search.
        estimator: "unbiased": among visible keys not yet kept, with a radius a head; "hub": the Python hub's rule.
    """

    masker_type: ClassVar[str] = "magic_pig"

    lsh_l: int
    lsh_k: int
    center: bool = True
    packing: str = "int64"
    seed: int | None = 42
    search_space: dict[str, Any] = field(default_factory=_tables_and_planes)
    estimator: str = field(default="unbiased", kw_only=True)

    def __post_init__(self) -> None:
        if self.packing == "int64" and isinstance(self.lsh_k, int) and self.lsh_k > 64:
            raise ValueError(f"For 'int64' packing, lsh_k must be <= 64, but got {self.lsh_k}")
        if self.packing not in ("int64", "float32"):
            raise ValueError(f"packing must be 'int64' or 'float32', got {self.packing}")
        super().__post_init__()
        if self.seed is None:
            raise ValueError("seed cannot be None")


@MaskerRegistry.register(MagicPigConfig)
class MagicPig(MagicPigMethods):
    """Samples the keys that share a bucket with the query in at least one of several hash tables."""

    config_class = MagicPigConfig
    needs_meta_data = True
    keeps_state = True
    steps = (
        "_center_KQ",
        "_transform_for_mips",
        "_compute_probabilities",
        "_pack_bits",
        "_compute_signatures",
        "_determine_new_keys",
        "_update_key_signatures",
        "_compute_matches_float32",
        "_compute_matches_int64",
        "_compute_lsh_matches",
    )

    def __init__(self, config: MaskerConfig) -> None:
        assert isinstance(config, MagicPigConfig)
        self.lsh_l = config.lsh_l
        self.lsh_k = config.lsh_k
        self.center = config.center
        self.packing = config.packing
        self.seed = config.seed
        super().__init__(config)
