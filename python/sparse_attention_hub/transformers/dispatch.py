"""The attention function that `transformers` calls, and what it remembers of sequences.

A call brings one layer's queries, and its keys and values after the cache. It is taken apart into rows of equal
padding, cut to the keys that are written and belong to the row, and attended each with a `_core.Sequence` of its own,
so that a row's result does not depend on the rows beside it.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Iterator

import torch
from torch import nn

from .. import _core
from .._pipeline import DENSE
from .mask_function import MaskFacts, is_facts, read_facts
from .python_engine import PythonHost, PythonSequence

#: Arguments that change what attention means and that no engine of ours takes.
_UNSUPPORTED = {
    "cu_seq_lens_q": "sequences packed into one row",
    "cu_seq_lens_k": "sequences packed into one row",
    "block_indices": "blocks that the model selects itself",
    "position_bias": "a learned bias of positions",
    "head_mask": "masked heads",
    "block_table": "paged caches",
    "cache": "paged caches",
}

#: Queries of a prompt that attend sparsely at a time: the engine holds [heads, queries, keys] logits.
_SPARSE_QUERIES_PER_PASS = 256


@dataclass(frozen=True)
class LayerStep:
    """One layer's attention of one step: queries and keys of rows that share their positions."""

    layer: int
    query: torch.Tensor  # [batch, query heads, queries, dim]
    key: torch.Tensor  # [batch, KV heads, keys, dim]; key j has the position j
    value: torch.Tensor  # [batch, KV heads, keys, value dim]
    first: int  # position of the first query
    begins: bool  # the first query is the first token of its sequence; false too where older keys were dropped
    scale: float | None = None
    softcap: float | None = None
    window: int | None = None
    sinks: torch.Tensor | None = None  # [query heads]
    bias: torch.Tensor | None = None  # additive, [batch or 1, heads or 1, queries, keys]; then it alone masks

    def attend(self, sequence: Any) -> torch.Tensor:
        """[batch, query heads, queries, value dim] in the query's type."""
        if isinstance(sequence, PythonSequence):
            return sequence.attend(self)
        return torch.ops.sparse_attention_hub.attend(
            sequence.handle,
            self.query,
            self.key,
            self.value,
            self.bias,
            self.sinks,
            self.scale,
            self.softcap,
            self.window,
            self.bias is None,
            self.layer,
            self.first,
        )

    def prepare(self, sequence: Any, keys: int) -> None:
        """Lets `sequence` index the first `keys` keys, before any query of what follows."""
        if keys == 0:
            return
        inputs = _core.AttentionInputs(
            self.query[:, :, :0],
            self.key[:, :, :keys],
            self.value[:, :, :keys],
            causal=True,
            layer=self.layer,
            first_query_position=keys,
        )
        sequence.prepare(inputs)

    def piece(self, begin: int, queries: int) -> LayerStep:
        """Some of the queries, and the keys that the last of them sees."""
        end = self.first + begin + queries
        return replace(
            self,
            query=self.query[:, :, begin : begin + queries],
            key=self.key[:, :, :end],
            value=self.value[:, :, :end],
            bias=None if self.bias is None else self.bias[:, :, begin : begin + queries, :end],
            first=self.first + begin,
        )


@functools.lru_cache(maxsize=1)
def _dense_host() -> Any:
    return _core.HostAttention(DENSE)


class SequenceState:
    """What the maskers remember of the sequences of one batch, layer by layer."""

    def __init__(self) -> None:
        # By layer, first row and row past the end.
        self._sequences: dict[tuple[int, int, int], Any] = {}
        self._dense: Any = None

    def rewind(self) -> None:
        """The caches are cut back to what was indexed first: a context, before the first question."""
        for sequence in self._sequences.values():
            sequence.rewind()

    def reset(self) -> None:
        """Forgets everything."""
        self._sequences.clear()

    def forget(self, layer: int, begin: int, end: int) -> None:
        """Rows [begin, end) of a layer begin a new sequence."""
        for place in [p for p in self._sequences if p[0] == layer and p[1] < end and begin < p[2]]:
            del self._sequences[place]

    def find(self, layer: int, begin: int, end: int) -> Any:
        """The sequence of the rows, None if they have none."""
        return self._sequences.get((layer, begin, end))

    def start(self, layer: int, begin: int, end: int, sequence: Any) -> Any:
        """Gives the rows a sequence."""
        self._sequences[layer, begin, end] = sequence
        return sequence

    def dense(self) -> Any:
        """A sequence whose every layer is dense."""
        if self._dense is None:
            self._dense = _core.Sequence(_dense_host())
        return self._dense


@dataclass
class Call:
    """What a layer's call brought, for the self-check."""

    module: nn.Module
    layer: int
    facts: MaskFacts | None
    mask: torch.Tensor | None
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    out: torch.Tensor


class _ThreadState(threading.local):
    def __init__(self) -> None:
        self.sequences = SequenceState()
        self.calls: list[Call] | None = None  # filled while a self-check runs
        # Masks that were read last: every layer of a step gets the same tensor.
        self.facts: deque[tuple[torch.Tensor, MaskFacts]] = deque(maxlen=4)


class _NoBackward(torch.autograd.Function):
    """Passes a result on; going backward through it is an error and not a silent zero."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, query: torch.Tensor) -> torch.Tensor:  # noqa: D102
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:  # noqa: D102
        raise NotImplementedError("sparse attention has no gradients")


class Dispatcher:
    """An attention function for `AttentionInterface` that runs one pipeline.

    It may be called from several threads: each has sequences of its own. A step whose first query has the position 0
    begins a new sequence; after it, and before the first step of a sequence that was read without this function, the
    maskers index the keys that precede the queries.
    """

    _numbers = itertools.count(1)
    _living: weakref.WeakValueDictionary[int, Dispatcher] = weakref.WeakValueDictionary()

    def __init__(
        self, host: Any, *, dense_prefill: bool = True, sink: Any = None, names: dict[int, str] | None = None
    ) -> None:
        """
        Args:
            host: A `_core.HostAttention` or `PythonHost`.
            dense_prefill: A step that begins a sequence attends densely.
            sink: A `_core.MetricSink` for what sparse steps measure.
            names: Paths of modules in their model by `id`, for messages.
        """
        self.host = host
        self.sink = sink
        self._dense_prefill = dense_prefill
        self._names = names or {}
        self._local = _ThreadState()
        number = next(self._numbers)
        self._living[number] = self
        # [number, steps]: how a compiled model names this object.
        self._handle = torch.tensor([number, 0])

    @property
    def sequences(self) -> SequenceState:
        """Of this thread."""
        return self._local.sequences

    @contextmanager
    def recording(self) -> Iterator[list[Call]]:
        """Within it every call of this thread is dense, changes no sequence, and is listed."""
        calls: list[Call] = []
        self._local.calls = calls
        try:
            yield calls
        finally:
            self._local.calls = None

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sequences: SequenceState | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """One step of one layer.

        Args:
            module: The attention module; its `layer_idx` is the layer.
            query: [batch, query heads, queries, dim].
            key: [batch, KV heads, keys, dim], after the cache and before they are repeated for grouped heads.
            value: [batch, KV heads, keys, value dim].
            attention_mask: Of `sparse_mask`, boolean (True: seen), additive, or None: causal, the queries are the last
                of the keys.
            scaling: Default dim ** -0.5.
            dropout: Must be 0.
            sequences: Default: those of this thread.
            **kwargs: `softcap`, `sliding_window`, `s_aux` (sink logits [query heads]), `is_causal`; others that change
                what attention means are refused, the rest is ignored.

        Returns:
            ([batch, queries, query heads, value dim], None).

        Raises:
            NotImplementedError: An argument is known and not supported.
            RuntimeError: The mask does not fit the keys.
        """
        self._refuse(module, dropout, kwargs)
        if attention_mask is None:
            causal = kwargs.get("is_causal")
            if not (getattr(module, "is_causal", True) if causal is None else causal):
                raise NotImplementedError(f"{self._name(module)}: attention that is not causal")
        window = kwargs.get("sliding_window")
        arguments = (
            query,
            key,
            value,
            attention_mask,
            kwargs.get("s_aux"),
            scaling,
            kwargs.get("softcap"),
            int(window) if window else None,
            int(getattr(module, "layer_idx", 0) or 0),
        )
        if torch.compiler.is_compiling():
            return torch.ops.sparse_attention_hub.transformers_step(self._handle, *arguments), None
        out = self.step(*arguments, module=module, sequences=sequences)
        if query.requires_grad and torch.is_grad_enabled():
            out = _NoBackward.apply(out, query)
        return out, None

    def step(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        sinks: torch.Tensor | None,
        scale: float | None,
        softcap: float | None,
        window: int | None,
        layer: int,
        *,
        module: nn.Module | None = None,
        sequences: SequenceState | None = None,
    ) -> torch.Tensor:
        """`__call__` after its arguments are checked: [batch, queries, query heads, value dim]."""
        facts = self._facts(mask, query, key)
        if facts is not None and facts.window is not None:
            window = facts.window if window is None else min(window, facts.window)
        whole = LayerStep(layer, query, key, value, 0, False, scale, softcap, window, sinks)
        calls = self._local.calls
        state = SequenceState() if calls is not None else sequences or self._local.sequences
        batch, heads, queries, _ = query.shape
        out = query.new_zeros(batch, queries, heads, value.shape[3])
        with torch.no_grad():
            if facts is None:
                assert mask is not None
                piece = self._run(_masked_step(whole, mask), state, (0, batch), calls is not None)
                out.copy_(piece.transpose(1, 2))
            else:
                for begin, end, padding in facts.runs():
                    part = self._row_step(whole, facts, begin, end, padding)
                    if part is not None:
                        piece = self._run(part, state, (begin, end), calls is not None)
                        out[begin:end, queries - piece.shape[2] :] = piece.transpose(1, 2)
        if calls is not None and module is not None:
            seen = facts if is_facts(mask) else None
            calls.append(Call(module, layer, seen, mask, window, softcap, sinks, query, key, value, out))
        return out

    def _run(self, step: LayerStep, state: SequenceState, rows: tuple[int, int], dense: bool) -> torch.Tensor:
        """Attends rows [rows[0], rows[1]) of a batch: [rows, query heads, queries, value dim]."""
        if dense or self.host.is_dense_layer(step.layer, step.query.shape[1]):
            prefill = step.begins and self._dense_prefill
            return step.attend(state.dense() if dense or prefill or self.sink is None else self._new_sequence())
        if not step.begins:
            sequence = state.find(step.layer, *rows)
            if sequence is None:
                sequence = state.start(step.layer, *rows, self._new_sequence())
                step.prepare(sequence, step.first)
            return step.attend(sequence)
        state.forget(step.layer, *rows)
        if self._dense_prefill:
            out = step.attend(state.dense())
        else:
            reading = self._new_sequence()
            count = step.query.shape[2]
            size = _SPARSE_QUERIES_PER_PASS
            pieces = [step.piece(at, min(size, count - at)).attend(reading) for at in range(0, count, size)]
            out = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2)
        # The indexes over a prompt depend on its keys alone and not on how it was read.
        step.prepare(state.start(step.layer, *rows, self._new_sequence()), step.key.shape[2])
        return out

    def _new_sequence(self) -> Any:
        if isinstance(self.host, PythonHost):
            return PythonSequence(self.host)
        return _core.Sequence(self.host, self.sink)

    def _facts(self, mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> MaskFacts | None:
        """What the mask says; None for masks that say it element by element."""
        if mask is None:
            return MaskFacts((0,) * query.shape[0], key.shape[2] - query.shape[2], 0)
        if not is_facts(mask):
            return None
        for known, facts in self._local.facts:
            if known is mask:
                return facts
        facts = read_facts(mask)
        self._local.facts.append((mask, facts))
        return facts

    def _row_step(self, whole: LayerStep, facts: MaskFacts, begin: int, end: int, padding: int) -> LayerStep | None:
        """Rows [begin, end) without their padding and without keys that are not written; None: all padding."""
        queries = whole.query.shape[2]
        skipped = max(0, padding - facts.query_offset)
        if skipped >= queries:
            return None
        head = max(0, padding - facts.key_offset)
        written = facts.query_offset + queries - facts.key_offset
        if written > whole.key.shape[2] or len(facts.paddings) != whole.query.shape[0]:
            raise RuntimeError(
                f"layer {whole.layer}: the mask is for {written} keys of {len(facts.paddings)} rows, the layer has "
                f"{whole.key.shape[2]} keys of {whole.query.shape[0]} rows"
            )
        return replace(
            whole,
            query=whole.query[begin:end, :, skipped:],
            key=whole.key[begin:end, :, head:written],
            value=whole.value[begin:end, :, head:written],
            first=facts.query_offset + skipped - facts.key_offset - head,
            begins=facts.query_offset + skipped == padding,
        )

    def _refuse(self, module: nn.Module, dropout: float, kwargs: dict[str, Any]) -> None:
        for name, meaning in _UNSUPPORTED.items():
            if kwargs.get(name) is not None:
                raise NotImplementedError(f"{self._name(module)}: {name} ({meaning}) is not supported")
        if kwargs.get("output_attentions"):
            raise NotImplementedError(
                f"{self._name(module)}: output_attentions is not supported: no attention weights are kept"
            )
        if dropout > 0:
            raise NotImplementedError(
                f"{self._name(module)}: dropout is not supported, got {dropout}; call model.eval()"
            )

    def _name(self, module: nn.Module) -> str:
        layer = getattr(module, "layer_idx", None)
        path = self._names.get(id(module), type(module).__name__)
        return path if layer is None else f"layer {layer} ({path})"

    @classmethod
    def of_handle(cls, handle: torch.Tensor) -> Dispatcher:
        """The living object of a handle."""
        dispatcher = cls._living.get(int(handle[0]))
        if dispatcher is None:
            raise RuntimeError("the compiled model belongs to a sparse_attention_hub.sparse context that has ended")
        return dispatcher


def _masked_step(whole: LayerStep, mask: torch.Tensor) -> LayerStep:
    """A step under a boolean or additive mask [batch or 1, heads or 1, queries, >= keys], cut to the keys that any
    query sees: what lies behind them in a static cache is not written yet."""
    keys = whole.key.shape[2]
    if mask.ndim != 4 or mask.shape[2] != whole.query.shape[2] or mask.shape[3] < keys:
        raise RuntimeError(
            f"layer {whole.layer}: the mask must be [batch, heads, {whole.query.shape[2]} queries, {keys} keys], "
            f"got {list(mask.shape)}"
        )
    mask = mask[..., :keys]
    if mask.dtype == torch.bool:
        seen = mask
        bias = torch.zeros(mask.shape, dtype=whole.query.dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
    elif mask.is_floating_point():
        seen = mask > torch.finfo(mask.dtype).min / 2
        bias = mask
    else:
        raise RuntimeError(f"layer {whole.layer}: the mask must be boolean or additive, got {mask.dtype}")
    columns = seen.any(0).any(0).any(0).nonzero()
    written = int(columns[-1]) + 1 if len(columns) else keys
    first = max(0, written - whole.query.shape[2])
    return replace(
        whole,
        key=whole.key[:, :, :written],
        value=whole.value[:, :, :written],
        bias=bias[..., :written],
        first=first,
        begins=first == 0,
    )


# How a compiled model runs a step: one operator, opaque to the compiler, that does what eager code does.
@torch.library.custom_op(
    "sparse_attention_hub::transformers_step", mutates_args=("handle",)
)
def _transformers_step(
    handle: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    layer: int,
) -> torch.Tensor:
    handle[1] += 1
    return Dispatcher.of_handle(handle).step(query, key, value, mask, sinks, scale, softcap, window, layer)


@_transformers_step.register_fake
def _(
    handle: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    layer: int,
) -> torch.Tensor:
    batch, heads, queries, _ = query.shape
    return query.new_empty(batch, queries, heads, value.shape[3])
