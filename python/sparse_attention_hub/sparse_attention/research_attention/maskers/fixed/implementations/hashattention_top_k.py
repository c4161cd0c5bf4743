"""HashAttention: top-k on learned bit signatures (Desai et al., 2024)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...... import _core
from .....utils.hashattention_utils import is_safetensors, load_hat_weights
from ...base import AttentionTensorDimensions, MaskerConfig, MaskerRegistry
from ...core_masker import PipelineOptions
from ..base import TopKMaskerConfig
from ._hash_attention_methods import HashAttentionMethods, HatWeights
from .oracle_top_k import _heavy_sizes

_ACTIVATIONS = ("relu", "silu", "gelu", "tanh")


@dataclass
class HashAttentionTopKMaskerConfig(TopKMaskerConfig):
    """Config of `HashAttentionTopKMasker`. The weights decide on bits, layers and hidden size.

    Attributes:
        heavy_size: Keys to keep: an int is a count, a float a fraction of the keys.
        hat_bits: Bits of a signature.
        hat_mlp_layers: Linear maps of an MLP.
        hat_mlp_hidden_size: Width between them.
        hat_mlp_activation: "relu", "silu", "gelu" (erf) or "tanh".
        hat_weights: Weights by layer.
        hat_weight_file: A safetensors file (docs/index_weights.md) or a pickle of the Python hub; either this or
            `hat_weights`.
        search_space: For sweeps, in Ray Tune's form of a grid search.
    """

    masker_type: ClassVar[str] = "hash_attention_top_k"
    python_only: ClassVar[frozenset[str]] = frozenset({"search_space", "hat_weights"})

    hat_bits: int
    hat_mlp_layers: int
    hat_mlp_hidden_size: int
    hat_mlp_activation: str
    hat_weights: HatWeights | None = None
    hat_weight_file: str | None = None
    search_space: dict[str, Any] = field(default_factory=_heavy_sizes)

    def __post_init__(self) -> None:
        # Which weights there are, and the activation that they are for, is the masker's to check.
        if not self.heavy_size > 0:
            raise ValueError(f"heavy_size must be > 0, got {self.heavy_size}")


@MaskerRegistry.register(HashAttentionTopKMaskerConfig)
class HashAttentionTopKMasker(HashAttentionMethods):
    """Keeps the keys whose learned bit signatures agree most with the query's."""

    config_class = HashAttentionTopKMaskerConfig
    needs_meta_data = True
    keeps_state = True
    steps = ("_get_signatures", "_determine_new_keys", "_update_key_signatures", "_compute_hashattention_score")

    def __init__(self, config: MaskerConfig) -> None:
        assert isinstance(config, HashAttentionTopKMaskerConfig)
        if config.hat_weights is not None and config.hat_weight_file is not None:
            raise ValueError("Only one of hat_weights or hat_weight_file should be provided")
        if config.hat_weights is None and config.hat_weight_file is None:
            raise ValueError("Either hat_weights or hat_weight_file must be provided")
        self.hat_bits = config.hat_bits
        self.hat_mlp_layers = config.hat_mlp_layers
        self.hat_mlp_hidden_size = config.hat_mlp_hidden_size
        self.hat_mlp_activation = config.hat_mlp_activation
        self.hat_weight_file = config.hat_weight_file
        self.hat_weights: HatWeights | None = config.hat_weights
        if config.hat_weight_file is not None and not is_safetensors(config.hat_weight_file):
            self.hat_weights = load_hat_weights(config.hat_weight_file)
        super().__init__(config)

    def _make_core(self, options: PipelineOptions) -> _core.Masker:
        entry = self.config.to_entry()
        if self.hat_weights is None:
            return _core.Masker(json.dumps(entry), **options.as_kwargs())
        if self.hat_mlp_activation not in _ACTIVATIONS:
            raise ValueError(f"Unsupported activation function: {self.hat_mlp_activation}, must be one of {_ACTIVATIONS}")
        entry["hat_weight_file"] = self.hat_weight_file or "hat_weights"
        return _core.hash_attention_masker(
            json.dumps(entry), self.hat_mlp_activation, _tensors_of_layers(self.hat_weights), **options.as_kwargs()
        )

    def _should_use_full_attention(self, dims: AttentionTensorDimensions, heavy_size: int) -> bool:
        return dims.seq_len_keys <= heavy_size


def _tensors_of_layers(weights: HatWeights) -> dict[int, dict[str, torch.Tensor]]:
    """Weights in the hub's form as the C++ library names them."""
    layers: dict[int, dict[str, torch.Tensor]] = {}
    for layer, entry in weights.items():
        tensors = layers.setdefault(int(layer), {})
        for side in ("query", "key"):
            for kind in ("matrix", "bias"):
                part = "weight" if kind == "matrix" else "bias"
                for i, tensor in enumerate(entry[f"{side}_{kind}"]):
                    tensors[f"{side}.{i}.{part}"] = tensor.detach().to("cpu", torch.float32).contiguous()
    return layers
