"""Efficient attention whose config stands for a pipeline of the C++ library."""

from __future__ import annotations

import itertools
import json
from typing import Any

import torch

from ... import _core
from ..base import SparseAttentionConfig
from ..research_attention.maskers.core_masker import additive_mask
from .base import EfficientAttention, EfficientAttentionConfig

_numbers = itertools.count(1)


class PipelineAttention(EfficientAttention):
    """Runs the pipeline of its config in the C++ library's efficient engine, on the CPU.

    The files that the config names are read at the first step.
    """

    def __init__(self, sparse_attention_config: SparseAttentionConfig) -> None:
        super().__init__(sparse_attention_config)
        self._host: _core.HostAttention | None = None
        # Where `sparse_meta_data` holds what the engine remembers of the sequences of this object.
        self._meta_key = f"sparse_attention_hub_efficient_{next(_numbers)}"

    def make_host(self) -> _core.HostAttention:
        """The pipeline, ready to run.

        Raises:
            ValueError: A field is wrong; the message begins with its path.
            KeyError: There is no such file.
            TypeError: The config is not one of the C++ library.
        """
        config = self.sparse_attention_config
        if not isinstance(config, EfficientAttentionConfig):
            raise TypeError(f"Expected EfficientAttentionConfig, got {type(config)}")
        return _core.HostAttention(json.dumps(config.to_entry()))

    def host(self) -> _core.HostAttention:
        """What `make_host` gives, made at the first use."""
        if self._host is None:
            self._host = self.make_host()
        return self._host

    def custom_attention(
        self,
        module: torch.nn.Module | None,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `SparseAttention.custom_attention`; `sparse_meta_data` must be among the keyword arguments.

        The mask must say no more than that queries are the last of the keys and causal, behind left padding; None means
        that every query sees every key. Attention weights are never formed, None stands for them.

        Raises:
            ValueError: `sparse_meta_data` is missing, a field of the config is wrong, or shapes do not fit.
            KeyError: A file that the config names is missing.
            NotImplementedError: The engine does not support the inputs, the mask, or dropout.
        """
        if "sparse_meta_data" not in kwargs:
            raise ValueError("sparse_meta_data must be provided in kwargs while calling custom_attention()")
        if dropout > 0 and module is not None and module.training:
            raise NotImplementedError(f"{type(self).__name__}: dropout is not supported, got {dropout}")
        meta = kwargs["sparse_meta_data"]
        layer = max(0, int(kwargs.get("layer_idx") or 0))
        sequences = {} if meta is None else meta.setdefault(self._meta_key, {})
        sinks = kwargs.get("s_aux")
        mask = attention_mask
        if mask is not None:
            mask = additive_mask(mask, queries.shape[2], False, type(self).__name__)
        paddings = [0] * queries.shape[0] if mask is None else self._paddings(mask, queries, keys)
        out = queries.new_zeros(queries.shape[0], queries.shape[2], queries.shape[1], values.shape[3])
        row = 0
        for padding, run in itertools.groupby(paddings):
            rows = slice(row, row + len(list(run)))
            row = rows.stop
            skipped = max(0, padding - (keys.shape[2] - queries.shape[2]))  # queries that are padding
            if skipped == queries.shape[2]:
                continue
            place = (layer, rows.start, rows.stop, padding)
            if place not in sequences:
                sequences[place] = _core.Sequence(self.host())
            piece = torch.ops.sparse_attention_hub.attend(
                sequences[place].handle,
                queries[rows, :, skipped:],
                keys[rows, :, padding:],
                values[rows, :, padding:],
                None,
                sinks if isinstance(sinks, torch.Tensor) else None,
                scaling,
                kwargs.get("softcap"),
                None,
                mask is not None,
                layer,
                None,
            )
            out[rows, skipped:] = piece.transpose(1, 2)
        return out, None

    def _paddings(self, mask: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> list[int]:
        """How many keys at the beginning of each row are padding under an additive mask that is causal beside it.

        Raises:
            NotImplementedError: The mask says something else.
        """
        count, total = queries.shape[2], keys.shape[2]
        mask = mask[..., :total]
        if mask.dim() == 4 and mask.shape[2:] == (count, total):
            seen = mask > torch.finfo(mask.dtype).min / 2
            paddings = (~seen[:, 0, -1]).sum(-1)  # the last query sees all but padding
            of = torch.arange(total, device=mask.device)
            at = of[total - count :, None]
            of_row = paddings.view(-1, 1, 1, 1)
            ignored = at < of_row  # what a padding query sees does not matter
            as_expected = seen == ((of <= at) & (of >= of_row))
            adds_nothing = (mask == 0) | ~seen
            if bool(((as_expected & adds_nothing) | ignored).all()):
                return [int(padding) for padding in paddings.expand(queries.shape[0]).tolist()]
        raise NotImplementedError(
            f"{type(self).__name__}: attention_mask must be causal, with left padding at most, and have {count} queries and "
            f"{total} keys; got {list(mask.shape)}; ResearchAttention takes any mask"
        )
