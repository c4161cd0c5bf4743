"""The C++ library: masks, maskers, engines, sessions and metric sinks.

Shapes: queries [batch, query heads, queries, dim], keys [batch, KV heads, keys, dim], values [batch, KV heads, keys, value
dim]; query heads are a multiple of KV heads. Tensors of one call are of one type (float32, float16 or bfloat16) and device.
Errors: ValueError where an argument breaks a rule (the message says which), NotFoundError where a named thing does not
exist, NotImplementedError, and RuntimeError for everything else. The GIL is released while the library works.
"""

from typing import Any, Literal, Sequence as _Sequence

import torch

#: Of the torch that the module was built with.
torch_version: str

class NotFoundError(KeyError):
    """A named thing (a masker, a file, a metric) does not exist."""

class Mask:
    """Which keys each query attends to, and with what inclusion probability: immutable, [batch, heads, queries, keys]."""

    @staticmethod
    def empty(shape: _Sequence[int], device: torch.device = ...) -> Mask:
        """Nothing selected."""

    @staticmethod
    def full(shape: _Sequence[int], device: torch.device = ...) -> Mask:
        """Everything selected with weight 1."""

    @staticmethod
    def from_dense(weights: torch.Tensor) -> Mask:
        """Copies weights in [0, 1]."""

    @staticmethod
    def from_csr(
        shape: _Sequence[int], indptr: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor | None = None
    ) -> Mask:
        """Rows in (batch, head, query) order: indptr [rows + 1], ascending unique key indices [nnz], weights in (0, 1]."""

    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def is_empty(self) -> bool: ...
    @property
    def is_full(self) -> bool: ...
    def to_dense(self) -> torch.Tensor:
        """A fresh float32 tensor of the mask's shape."""

    def to_active(self) -> torch.Tensor:
        """Fresh, bool: where the weight is above 0."""

    def to_csr(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(indptr, indices, weights), for reading only."""

    def normalized(self) -> Mask:
        """The same mask as empty or full where that is what it holds."""

    def density(self) -> float:
        """Share of active entries among all."""

    def union(self, other: Mask) -> Mask:
        """clamp(a + b, 0, 1)."""

class AttentionInputs:
    """Queries, keys and values of one step and what shapes their logits. Shares logits between the calls it is given to."""

    def __init__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        bias: torch.Tensor | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sliding_window: int | None = None,
        sink_logits: torch.Tensor | None = None,
        causal: bool = False,
        layer: int = 0,
        first_query_position: int | None = None,
    ) -> None:
        """
        Args:
            bias: Additive, [batch or 1, heads or 1, queries, >= keys]; -inf and very low values forbid a key.
            scale: Of q.k; None: dim ** -0.5.
            softcap: cap * tanh(x / cap) after scaling, before the bias.
            sliding_window: Keys that a query sees, its own position included.
            sink_logits: [query heads], learned; they add mass to the denominator only.
            causal: Hides keys behind a query's position.
            layer: Of the host model.
            first_query_position: Absolute; None: the queries are the last of the keys.
        """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the mask: (batch, query heads, queries, keys)."""

def masked_attention(inputs: AttentionInputs, mask: Mask) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [batch, heads, queries, value dim], lse [batch, heads, queries]), float32. A row without keys: 0 and -inf."""

def dense_attention(inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The same over all visible keys."""

def masked_attention_weights(inputs: AttentionInputs, mask: Mask) -> torch.Tensor:
    """Normalised weights, float32 [batch, heads, queries, keys]."""

def relative_output_error(out: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """||out - dense|| / ||dense|| of each row, float32 [batch, heads, queries]."""

class Session:
    """What maskers remember of one sequence between steps. A copy is a new, empty session."""

    def __init__(self) -> None: ...
    def rewind(self) -> None:
        """The sequence is cut back to what `prepare` was given."""

    def reset(self) -> None:
        """Forgets everything: the next step starts a new sequence."""

Selection = Literal["query_head", "kv_group"]
GroupReduce = Literal["max", "mean", "sum"]

class Masker:
    """One step of a pipeline, made from its JSON entry."""

    def __init__(self, json: str, *, seed: int = 42, selection: str = "query_head", group_reduce: str = "max") -> None: ...
    @property
    def type(self) -> str: ...
    def json(self) -> str:
        """The entry, defaults included."""

    def add_mask(self, inputs: AttentionInputs, previous: Mask, session: Session | None = None, place: int = 0) -> Mask:
        """`previous` united with what the masker selects. `place` tells apart maskers that share a session."""

    def tensors(self, session: Session, layer: int, place: int = 0) -> dict[str, torch.Tensor]:
        """What the masker remembers of a layer, by name; for reading only."""

def hash_attention_masker(
    json: str,
    activation: str,
    layers: dict[int, dict[str, torch.Tensor]],
    *,
    seed: int = 42,
    selection: str = "query_head",
    group_reduce: str = "max",
) -> Masker:
    """A hash_attention_top_k masker with weights from memory: layer -> "query.0.weight" and so on -> float32 tensor."""

def add_masks(maskers: _Sequence[Masker], places: _Sequence[int], inputs: AttentionInputs, session: Session) -> Mask:
    """add_mask of each masker in turn, from an empty mask on."""

def check_masker(json: str) -> None:
    """Checks the fields of a masker's entry; files that it names are not opened."""

def masker_descriptors() -> list[dict[str, Any]]:
    """Of every masker: type, sampling, summary, source, fields."""

def read_pipeline(json: str, model_folder: str = "") -> str:
    """Checks a pipeline, or a config dumped by the Python hub, and returns it as pipeline JSON."""

def read_pipeline_file(path: str, model_folder: str = "") -> str:
    """The same of a file."""

class MetricSink:
    """Where an engine's measurements go."""

    def flush(self) -> None: ...

class MemorySink(MetricSink):
    """Keeps every record in memory (about 200 bytes each)."""

    def __init__(self) -> None: ...
    def clear(self) -> None: ...
    def records(self) -> list[dict[str, Any]]:
        """metric, value, layer, head, query_position; -1 where one does not apply."""

    def mean(self, metric: str) -> float:
        """Mean of a metric's records; NotFoundError where there are none."""

class JsonlSink(MetricSink):
    """Appends records to a file, a JSON object a line."""

    def __init__(self, path: str) -> None: ...
    def close(self) -> None: ...

def metrics() -> dict[str, str]:
    """Names and summaries of every metric."""

def read_metric_log(path: str) -> list[dict[str, Any]]:
    """All records of a log; a missing, torn or damaged log is an error."""

def crc32c(bytes: bytes) -> int:
    """CRC-32C of some bytes."""

class ResearchAttention:
    """The engine that defines what a pipeline means."""

    def __init__(self, json: str) -> None: ...
    def json(self) -> str: ...
    def run(
        self, inputs: AttentionInputs, session: Session, sink: MetricSink | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, Mask]:
        """(out, lse, mask) of one step."""

    def prepare(self, inputs: AttentionInputs, session: Session) -> None:
        """Builds the indexes over the keys of `inputs`, before any query of what follows."""

class HostAttention:
    """What a host model calls: a pipeline, dense layers included."""

    def __init__(self, json: str) -> None: ...
    def json(self) -> str: ...
    def is_dense(self, layers: int, query_heads: int) -> bool:
        """No layer below `layers` has a masker."""

    def is_oracle(self) -> bool:
        """A masker of the pipeline reads every key to choose among them."""

class Sequence:
    """A pipeline, the session of one sequence and a sink; torch.ops.sparse_attention_hub.attend takes its `handle`."""

    def __init__(self, attention: HostAttention, sink: MetricSink | None = None) -> None: ...
    @property
    def handle(self) -> torch.Tensor:
        """int64 [2] on the host: a number and the steps taken."""

    @property
    def steps(self) -> int: ...
    def prepare(self, inputs: AttentionInputs) -> None: ...
    def rewind(self) -> None: ...
    def reset(self) -> None: ...
