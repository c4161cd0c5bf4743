"""HashAttention as an efficient engine."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import torch

from .... import _core
from ...base import SparseAttentionConfig
from ...research_attention.maskers.base import plain_value
from ...utils.hashattention_utils import is_safetensors, load_hat_weights, save_hat_weights
from ..base import EfficientAttentionConfig
from ..pipeline_attention import PipelineAttention


@dataclass
class HashAttentionConfig(EfficientAttentionConfig):
    """Config of `HashAttention`; values are checked where attention first runs. The weights decide on bits, layers and
    hidden size.

    Attributes:
        heavy_size: Keys to keep beside sinks and window: an int is a count, a float a fraction of the keys.
        sink_size: Leading keys to keep; 0: none.
        local_size: Latest keys to keep; 0: none.
        hat_weights: A safetensors file (docs/index_weights.md), which names the activation; or a pickle of the Python
            hub, or weights by layer, both as for silu.
        hat_bits: Bits of a signature.
        hat_mlp_layers: Linear maps of an MLP.
        hat_mlp_hidden_size: Width between them.
    """

    heavy_size: int | float
    sink_size: int
    local_size: int
    hat_weights: Any
    hat_bits: int
    hat_mlp_layers: int
    hat_mlp_hidden_size: int

    def to_entry(self) -> dict[str, Any]:
        if not isinstance(self.hat_weights, (str, os.PathLike)) or not is_safetensors(self.hat_weights):
            raise TypeError("HashAttentionConfig: weights in memory or in a pickle have no place in JSON; give a safetensors file")
        return self._entry(os.fspath(self.hat_weights))

    def _entry(self, file: str) -> dict[str, Any]:
        return {
            "type": "hash_attention",
            "heavy_size": plain_value(self.heavy_size),
            "sink_size": plain_value(self.sink_size),
            "local_size": plain_value(self.local_size),
            "hat_weights": file,
        }


class HashAttention(PipelineAttention):
    """Sinks, window, and top-k on learned bit signatures: what the research engine does with `SinkMaskerConfig`,
    `LocalMaskerConfig` and `HashAttentionTopKMaskerConfig`, as `sparse_attention_config` says."""

    def __init__(
        self,
        sparse_attention_config: SparseAttentionConfig,
        hat_bits: int,
        hat_mlp_layers: int,
        hat_mlp_hidden_size: int,
        hat_weights: Any,
    ) -> None:
        super().__init__(sparse_attention_config)
        self.hat_bits = hat_bits
        self.hat_mlp_layers = hat_mlp_layers
        self.hat_mlp_hidden_size = hat_mlp_hidden_size
        self.hat_weights = hat_weights

    @classmethod
    def create_from_config(cls, config: SparseAttentionConfig) -> HashAttention:
        """
        Raises:
            TypeError: `config` is not a `HashAttentionConfig`.
        """
        if not isinstance(config, HashAttentionConfig):
            raise TypeError(f"Expected HashAttentionConfig, got {type(config)}")
        return cls(config, config.hat_bits, config.hat_mlp_layers, config.hat_mlp_hidden_size, config.hat_weights)

    def make_host(self) -> _core.HostAttention:
        """See `PipelineAttention`. Weights in memory or in a pickle reach the C++ library through a temporary file."""
        config = self.sparse_attention_config
        weights: Any = getattr(config, "hat_weights", None)
        if not isinstance(config, HashAttentionConfig) or (isinstance(weights, (str, os.PathLike)) and is_safetensors(weights)):
            return super().make_host()
        if isinstance(weights, (str, os.PathLike)):
            weights = load_hat_weights(weights)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "hat_weights.safetensors")
            save_hat_weights(weights, file, torch.float32)
            return _core.HostAttention(json.dumps(config._entry(file)))
