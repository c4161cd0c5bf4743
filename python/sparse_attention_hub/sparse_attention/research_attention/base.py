"""ResearchAttention: a pipeline of maskers and attention through the mask that they build."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

import torch

from ... import _core
from ...metric_logging import MicroMetricLogger
from ..base import SparseAttention, SparseAttentionConfig
from ..utils.mask import Mask
from ..utils.mask_attention_utils import get_masked_attention_output
from .maskers.base import MaskerConfig, ResearchMasker, SparseMetaData
from .maskers.core_masker import CoreMasker, PipelineOptions, additive_mask, has_low_terms, runs_in_core, session_of
from .maskers.fixed import CausalMasker, FixedMaskerConfig
from .maskers.sampling.base import SamplingMasker

DENSITY = "research_attention_density"
OUTPUT_ERROR = "research_attention_output_error"

MicroMetricLogger.register_metric(DENSITY, float)
MicroMetricLogger.register_metric(OUTPUT_ERROR, float)


@dataclass
class ResearchAttentionConfig(SparseAttentionConfig):
    """Config of `ResearchAttention`.

    Attributes:
        masker_configs: Of the maskers, in the order in which they run. None at all: dense attention.
        seed: Of every random draw of the pipeline.
        selection: "query_head": every query head selects for itself; "kv_group": the query heads that share a KV
            head select together.
        group_reduce: With "kv_group", how scores of a group become one: "max", "mean" or "sum".
    """

    masker_configs: list[MaskerConfig]
    seed: int = field(default=42, kw_only=True)
    selection: str = field(default="query_head", kw_only=True)
    group_reduce: str = field(default="max", kw_only=True)


def pipeline_of_config(config: ResearchAttentionConfig) -> dict[str, Any]:
    """The JSON pipeline of a config.

    Raises:
        TypeError: A masker is not one of the C++ library, or its weights are in memory.
    """
    maskers = []
    for entry in config.masker_configs:
        if type(entry) is FixedMaskerConfig:  # the causal masker passes every mask through
            continue
        if getattr(entry, "hat_weights", None) is not None:
            raise TypeError("HashAttentionTopKMaskerConfig: weights in memory have no place in JSON; give a hat_weight_file")
        maskers.append(entry.to_entry())
    return {
        "type": "research",
        "seed": config.seed,
        "selection": config.selection,
        "group_reduce": config.group_reduce,
        "maskers": maskers,
    }


@dataclass
class _Step:
    """The arguments of one call of `custom_attention`."""

    module: torch.nn.Module | None
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    attention_mask: torch.Tensor | None
    scaling: float
    dropout: float
    kwargs: dict[str, Any]

    @property
    def sinks(self) -> torch.Tensor | None:
        sinks = self.kwargs.get("s_aux")
        return sinks if isinstance(sinks, torch.Tensor) else None

    @property
    def drops_weights(self) -> bool:
        return self.dropout > 0 and self.module is not None and self.module.training

    def core_inputs(self, maskers: Sequence[CoreMasker]) -> _core.AttentionInputs:
        bias = self.attention_mask
        if bias is not None:
            forbids = any(masker.mask_only_forbids for masker in maskers)
            bias = additive_mask(bias, self.queries.shape[2], forbids, "ResearchAttention")
        return _core.AttentionInputs(
            self.queries,
            self.keys,
            self.values,
            bias=bias,
            scale=self.scaling,
            softcap=self.kwargs.get("softcap"),
            sink_logits=self.sinks,
            layer=max(0, int(self.kwargs.get("layer_idx") or 0)),
        )


def _is_core(masker: ResearchMasker) -> bool:
    return runs_in_core(masker) or type(masker) is CausalMasker


class ResearchAttention(SparseAttention):
    """Builds an explicit mask with the pipeline's maskers and attends through it: exact and easy to inspect."""

    #: Whether `custom_attention` returns the attention weights, which cost as much as the attention itself.
    return_attention_weights: bool = True

    def __init__(self, sparse_attention_config: SparseAttentionConfig, maskers: Sequence[ResearchMasker]) -> None:
        """
        Raises:
            ValueError: There is more than one sampling masker.
        """
        super().__init__(sparse_attention_config)
        if sum(isinstance(masker, SamplingMasker) for masker in maskers) > 1:
            raise ValueError(
                "Only one sampling masker supported for efficiency; "
                "consider implementing all sampling logic in one masker"
            )
        self.maskers = list(maskers)

    @classmethod
    def create_from_config(cls, config: SparseAttentionConfig) -> ResearchAttention:
        """The engine of a config.

        Raises:
            TypeError: `config` is not a `ResearchAttentionConfig`.
            ValueError: A masker is not registered, or its config is wrong.
        """
        if not isinstance(config, ResearchAttentionConfig):
            raise TypeError(f"Expected ResearchAttentionConfig, got {type(config)}")
        options = PipelineOptions(config.seed, config.selection, config.group_reduce)
        maskers = [ResearchMasker.create_masker_from_config(entry) for entry in config.masker_configs]
        if options != PipelineOptions():
            for masker in maskers:
                if isinstance(masker, CoreMasker):
                    masker.set_options(options)
                elif options.selection != "query_head":
                    raise ValueError(
                        f"selection \"{options.selection}\" needs maskers of the C++ library, {type(masker).__name__} is none"
                    )
        return cls(config, maskers)

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

        Logs the density of the mask and the relative error of the output where these metrics are enabled.

        Raises:
            ValueError: `sparse_meta_data` is missing, or shapes do not fit.
        """
        if "sparse_meta_data" not in kwargs:
            raise ValueError("sparse_meta_data must be provided in kwargs while calling custom_attention()")
        sparse_meta_data: SparseMetaData = kwargs.pop("sparse_meta_data")
        step = _Step(module, queries, keys, values, attention_mask, scaling, dropout, kwargs)
        if self._runs_in_core(step):
            output, weights, density = self._attend_in_core(step, sparse_meta_data)
        else:
            output, weights, density = self._attend_in_python(step, sparse_meta_data)
        self._log(step, density, output)
        return output, weights

    def _runs_in_core(self, step: _Step) -> bool:
        """Whether the C++ library can do a step at once: with its own maskers, which agree on the attention mask."""
        if step.drops_weights or not all(_is_core(masker) for masker in self.maskers):
            return False
        forbids = any(isinstance(masker, CoreMasker) and masker.mask_only_forbids for masker in self.maskers)
        return not (forbids and step.attention_mask is not None and has_low_terms(step.attention_mask))

    def _attend_in_core(
        self, step: _Step, sparse_meta_data: SparseMetaData
    ) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """All of a step in the C++ library: logits are computed once."""
        maskers = [masker for masker in self.maskers if isinstance(masker, CoreMasker)]
        for masker in maskers:
            if masker.needs_meta_data:
                masker._validate_inputs(sparse_meta_data, step.kwargs)
        inputs = step.core_inputs(maskers)
        session = session_of(sparse_meta_data) or _core.Session()
        mask = _core.add_masks([m.compiled() for m in maskers], [m._place for m in maskers], inputs, session)
        if sparse_meta_data is not None:
            for masker in maskers:
                masker.show_state(sparse_meta_data, session, step.queries, step.keys, step.kwargs)
        density = mask.density()
        if mask.is_empty:  # nobody selected: attention is dense
            mask = _core.Mask.full(list(inputs.shape), step.queries.device)
        output, _ = _core.masked_attention(inputs, mask)
        weights = None
        if self.return_attention_weights:
            weights = _core.masked_attention_weights(inputs, mask).to(step.queries.dtype)
        return output.to(step.queries.dtype).transpose(1, 2).contiguous(), weights, density

    def _attend_in_python(
        self, step: _Step, sparse_meta_data: SparseMetaData
    ) -> tuple[torch.Tensor, torch.Tensor | None, float]:
        """Masker after masker, for those written in Python, and with dropout.

        Raises:
            NotImplementedError: There is a softcap.
        """
        if step.kwargs.get("softcap") is not None:
            raise NotImplementedError(
                f"softcap {step.kwargs['softcap']} is supported where all maskers run in the C++ library, and without dropout"
            )
        mask = self.build_mask(
            step.queries,
            step.keys,
            step.values,
            step.attention_mask,
            step.scaling,
            step.dropout,
            sparse_meta_data,
            **step.kwargs,
        )
        kwargs = {name: value for name, value in step.kwargs.items() if name != "s_aux"}
        output, weights = get_masked_attention_output(
            module=step.module,
            queries=step.queries,
            keys=step.keys,
            values=step.values,
            attention_mask=step.attention_mask,
            sinks=step.sinks,
            scaling=step.scaling,
            dropout=step.dropout,
            sparse_attention_mask=mask,
            return_attention_weights=True,
            **kwargs,
        )
        return output, weights if self.return_attention_weights else None, mask.get_density()

    def build_mask(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
        sparse_meta_data: SparseMetaData,
        **kwargs: Any,
    ) -> Mask:
        """The mask alone, [batch, query heads, queries, keys]; an empty one means dense attention."""
        shape = (queries.shape[0], queries.shape[1], queries.shape[2], keys.shape[2])
        mask = Mask.create_empty_mask(shape, queries.dtype, queries.device)
        for masker in self.maskers:
            mask = masker.add_mask(
                keys=keys,
                queries=queries,
                values=values,
                attention_mask=attention_mask,
                scaling=scaling,
                dropout=dropout,
                sparse_meta_data=sparse_meta_data,
                previous_mask=mask,
                **kwargs,
            )
        return mask

    def _log(self, step: _Step, density: float, output: torch.Tensor) -> None:
        logger = MicroMetricLogger()
        metadata = {"layer_idx": step.kwargs.get("layer_idx", -1)}
        if logger.is_metric_enabled(DENSITY):
            logger.log(DENSITY, density, metadata)
        if logger.is_metric_enabled(OUTPUT_ERROR):
            maskers = [masker for masker in self.maskers if isinstance(masker, CoreMasker)]
            dense, _ = _core.dense_attention(step.core_inputs(maskers))
            difference = dense.transpose(1, 2) - output.float()
            error = torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(dense)
            logger.log(OUTPUT_ERROR, float(error), metadata)
