"""ModelAdapterHF: questions about a context, answered by a model of `transformers`.

The context is read once and densely; every question starts from that state, and it and its answer attend sparsely.
Decoding is greedy. Text goes to the model as it is, or through the tokenizer's chat template where it has one: then
the context is the user's message up to its end, and what the template puts behind it follows every question. What the
tokenizer puts before a text (a begin-of-text token) stands once before the context and never before a question.
"""

from __future__ import annotations

import logging
import random
import string
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Callable, Iterator

import torch

from .. import _core
from .._pipeline import DENSE, pipeline_json
from ..metric_logging import MicroMetricLogger
from ..sparse_attention.efficient_attention.pipeline_attention import PipelineAttention
from ..sparse_attention.research_attention.base import DENSITY, OUTPUT_ERROR, ResearchAttention
from ..sparse_attention.research_attention.maskers.core_masker import runs_in_core
from ..sparse_attention.research_attention.maskers.fixed import CausalMasker
from ..transformers.context import attention_implementation, register_attention, sparse, unregister_attention
from ..transformers.dispatch import Dispatcher, SequenceState
from ..transformers.layers import attention_layers, has_recurrent_layers
from ..transformers.mask_function import additive_mask, sparse_mask
from ..transformers.versions import CacheMark, last_logits_only, new_cache
from .base import ModelAdapter, Request, RequestResponse
from .model_servers.base import server_for
from .model_servers.huggingface import ModelServerHF
from .utils.config import ModelServerConfig

if TYPE_CHECKING:
    from ..sparse_attention.base import SparseAttention, SparseAttentionConfig

#: The longest context and answer where no limit is given.
INT_MAX: int = 2**31 - 1

_LOGGER = logging.getLogger(__name__)
_LETTERS = string.ascii_lowercase + string.digits
_DEFAULT_NEW_TOKENS = 50
# Where a dictionary `sparse_meta_data` holds what C++ maskers remember.
_STATE = "sparse_attention_hub.sequences"


class ModelAdapterHF(ModelAdapter):
    """A model of `transformers` and its sparse attention.

    Attributes:
        model: The model, in evaluation mode when it answers.
        tokenizer: Its tokenizer; without a padding token the end-of-text token serves.
        device: Where the model was asked to be, as text ("cpu", "cuda:1").
        torch_dtype: `model_kwargs["torch_dtype"]`, float32 if it is not given.
        hybrid: Questions are read token by token, as layers with a recurrent state may need.
        random_separator: What finds the end of the context in a chat template.
    """

    def __init__(
        self,
        model_name: str,
        sparse_attention_config: SparseAttentionConfig | None,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        device: str | int | torch.device | None = None,
        hybrid: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Loads model and tokenizer, or takes them from the process's model server.

        Args:
            model_name: Name or folder of the model.
            sparse_attention_config: None for dense attention only.
            model_kwargs: For the loading of the model.
            tokenizer_kwargs: For the loading of the tokenizer.
            device: "cpu", "cuda" or "cuda:N", or N alone, or a `torch.device`; default: CUDA if there is any.
            hybrid: See the attribute; default: whether the model has layers that keep a recurrent state.
            **kwargs: `model_registry_path` (YAML file of models), `allow_unregistered_models`.

        Raises:
            ModelCreationError, TokenizerCreationError: Loading failed.
            ValueError: The config is of no known kind.
        """
        super().__init__(model_name, sparse_attention_config, **kwargs)
        self._registered_attention_name: str | None = None
        self._custom_attention_fn: Callable[..., Any] | None = None
        self._sparse_attention_available: bool = self.sparse_attention is not None
        self.model_kwargs = model_kwargs or {}
        self.tokenizer_kwargs = tokenizer_kwargs or {}
        path = kwargs.get("model_registry_path")
        self.model_registry_path: str = path if isinstance(path, str) else ""
        allow = kwargs.get("allow_unregistered_models")
        self.allow_unregistered_models: bool = allow if isinstance(allow, bool) else True
        self.device: str = _device_name(device)
        self.torch_dtype = self.model_kwargs.get("torch_dtype", torch.float32)
        self._server = server_for(
            ModelServerHF,
            ModelServerConfig(
                model_registry_path=self.model_registry_path,
                allow_unregistered_models=self.allow_unregistered_models,
            ),
        )
        self.model: Any = self._server.get_model(model_name, _gpu_of(self.device), self.model_kwargs)
        self.tokenizer: Any = self._server.get_tokenizer(model_name, self.tokenizer_kwargs)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._keeps_states = isinstance(self.model, torch.nn.Module) and has_recurrent_layers(self.model)
        self.hybrid: bool = self._keeps_states if hybrid is None else hybrid
        self.random_separator: str = "".join(random.choices(_LETTERS, k=100))

    def __del__(self) -> None:
        try:
            self._cleanup_attention_registration()
        except Exception:  # the interpreter may be ending
            pass

    # Requests

    def process_request(
        self,
        request: Request,
        generation_kwargs: dict[str, Any],
        request_kwargs: dict[str, Any],
        **kwargs: Any,
    ) -> RequestResponse:
        """Reads the context once and answers every question as if it were the only one.

        Args:
            request: A context and one or more questions.
            generation_kwargs: `max_new_tokens`, at least 1, default 50. It is not changed.
            request_kwargs: `max_context_length` in tokens: longer contexts are cut at their end.
            **kwargs: Ignored.

        Returns:
            A string for a string of `questions`, else a list in the order of the questions.

        Raises:
            ValueError: A question is empty, or max_new_tokens < 1; the chat template drops or repeats the context.
            NotImplementedError: The sparse attention is not of a kind that models can run.
        """
        max_context = int((request_kwargs or {}).get("max_context_length", INT_MAX))
        _LOGGER.debug("max_context_length %d, generation %s", max_context, generation_kwargs)
        questions = [request.questions] if isinstance(request.questions, str) else list(request.questions)
        context, suffix = self._split_template(request.context)
        context_ids = self._encode(context, self._context_prefix()).to(self._model_device())[:, :max_context]
        self.model.eval()
        responses = []
        with torch.no_grad():
            mark = self._prefill(context_ids)
            sequences = SequenceState()
            for number, question in enumerate(questions):
                ids = self._encode(question + suffix + request.answer_prefix, None).to(context_ids.device)
                cache = mark.restored(for_the_last_time=number == len(questions) - 1)
                with self.enable_sparse_mode() if self._sparse_attention_available else nullcontext():
                    responses.append(self._generate_response(ids, cache, generation_kwargs, sequences))
                sequences.rewind()
        return RequestResponse(responses=responses[0] if isinstance(request.questions, str) else responses)

    def _split_template(self, context: str) -> tuple[str, str]:
        """(the prompt up to the end of the context, what follows the question)."""
        if getattr(self.tokenizer, "chat_template", None) is None:
            return context, ""
        message = [{"role": "user", "content": context + self.random_separator}]
        text = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        parts = text.split(self.random_separator)
        if len(parts) != 2:
            raise ValueError(f"the chat template holds the user's message {len(parts) - 1} times, it must hold it once")
        return parts[0], parts[1]

    def _context_prefix(self) -> list[int]:
        """What the tokenizer puts before a text. One that says that it adds no tokens is not tried out."""
        added = getattr(self.tokenizer, "num_special_tokens_to_add", None)
        if callable(added):
            count = added()
            if not isinstance(count, int) or count < 1:
                return []
        plain = self._ids("a", special=False)
        whole = self._ids("a", special=True)
        starts = [i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain]
        return whole[: starts[0]] if starts else []

    def _ids(self, text: str, special: bool) -> list[int]:
        encoded = self.tokenizer.encode(text, return_tensors="pt", add_special_tokens=special)
        return [int(token) for token in torch.as_tensor(encoded).flatten()]

    def _encode(self, text: str, prefix: list[int] | None) -> torch.Tensor:
        """Int64 [1, tokens]: the text, and before it what `prefix` has, unless the text begins with that."""
        ids = self._ids(text, special=False) if text else []
        if prefix and ids[: len(prefix)] != prefix:
            ids = prefix + ids
        return torch.tensor([ids], dtype=torch.long)

    def _model_device(self) -> torch.device:
        device = getattr(self.model, "device", None)
        return device if isinstance(device, torch.device) else torch.device(self.device)

    def _prefill(self, ids: torch.Tensor) -> Any:
        """The cache after the context, as a `CacheMark`."""
        cache = new_cache(self.model, self._keeps_states)
        if ids.shape[1] > 0:
            out = self.model(
                input_ids=ids, past_key_values=cache, use_cache=True, **last_logits_only(self.model)
            )
            cache = out.past_key_values
        return CacheMark(cache)

    def _generate_response(
        self, question_ids: torch.Tensor, cache: Any, generation_kwargs: dict[str, Any], sequences: Any
    ) -> str:
        """The answer to a question that follows what `cache` holds."""
        if self.tokenizer is None:
            raise ValueError("Tokenizer not initialized")
        if question_ids.shape[1] == 0:
            raise ValueError("Question tokens are empty; cannot generate response")
        limit = int((generation_kwargs or {}).get("max_new_tokens", _DEFAULT_NEW_TOKENS))
        if limit < 1:
            raise ValueError(f"max_new_tokens must be >= 1, got {limit}")
        arguments: dict[str, Any] = last_logits_only(self.model)
        if self._sparse_attention_available:
            arguments["sparse_meta_data"] = _MetaData(sequences)
        stop = self._stop_tokens()

        def next_token(ids: torch.Tensor) -> int:
            nonlocal cache
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **arguments)
            cache = out.past_key_values
            return int(out.logits[0, -1].argmax())

        pieces = question_ids.split(1, dim=1) if self.hybrid else (question_ids,)
        for piece in pieces:
            token = next_token(piece)
        answer = [token]
        while token not in stop and len(answer) < limit:
            token = next_token(torch.tensor([[token]], device=question_ids.device))
            answer.append(token)
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))

    def _stop_tokens(self) -> set[int]:
        config = getattr(self.model, "generation_config", None)
        eos = getattr(config, "eos_token_id", None)
        if isinstance(eos, int):
            return {eos}
        return {int(token) for token in eos} if isinstance(eos, (list, tuple)) else set()

    # Sparse attention

    def get_custom_attention_function(self, sparse_attention: SparseAttention) -> Callable[..., Any]:
        """The attention function for `transformers` that runs `sparse_attention`.

        It takes (module, queries, keys, values, attention_mask, scaling, dropout, **kwargs) and gives back (output
        [batch, queries, query heads, value dim], weights or None). A pipeline of C++ maskers is run by
        `transformers.Dispatcher`, which takes masks, padding and caches as `sparse_attention_hub.sparse` does; any
        other one by `sparse_attention.custom_attention`, with a mask of eager attention. `sparse_meta_data`, a
        dictionary, must be among the keyword arguments of `model.forward`; what maskers remember is kept in it.
        """
        native = _NativePipeline.of(sparse_attention)

        def custom_attention(
            module: torch.nn.Module,
            queries: torch.Tensor,
            keys: torch.Tensor,
            values: torch.Tensor,
            attention_mask: torch.Tensor | None,
            scaling: float = 1.0,
            dropout: float = 0.0,
            **kwargs: Any,
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if hasattr(module, "layer_idx"):
                kwargs.setdefault("layer_idx", module.layer_idx)
            if "sparse_meta_data" not in kwargs:
                raise ValueError("sparse_meta_data must be provided while calling model.forward()")
            meta = kwargs["sparse_meta_data"]
            if native is None or "custom_attention" in vars(sparse_attention):  # replaced on this object
                return sparse_attention.custom_attention(
                    module=module,
                    queries=queries,
                    keys=keys,
                    values=values,
                    attention_mask=additive_mask(attention_mask, queries, keys),
                    scaling=scaling,
                    dropout=dropout,
                    **kwargs,
                )
            del kwargs["sparse_meta_data"]
            sequences = _sequences_of(meta)
            return native(module, queries, keys, values, attention_mask, scaling, dropout, sequences, **kwargs)

        return custom_attention

    @contextmanager
    def enable_sparse_mode(self) -> Iterator[None]:
        """Within it the model attends sparsely; it is dense again on exit, also after an exception.

        Raises:
            RuntimeError: The adapter is dense only; or, at the first call, see `sparse`'s self-check.
            NotImplementedError: The sparse attention is neither a `ResearchAttention` nor a `PipelineAttention`.
        """
        if not self._sparse_attention_available:
            raise RuntimeError("Cannot enable sparse mode: sparse attention is not available")
        name = self._ensure_attention_registered()
        configs = [
            module.config
            for _, module in self.model.named_modules()
            if hasattr(getattr(module, "config", None), "_attn_implementation")
        ]
        with attention_implementation(configs, name):
            yield

    def _ensure_attention_registered(self) -> str:
        """Checks the model and registers the attention at the first call; its name.

        Raises:
            RuntimeError: There is no sparse attention, or a layer of the model would bypass it (`sparse`'s self-check).
            NotImplementedError: The sparse attention is neither a `ResearchAttention` nor a `PipelineAttention`.
        """
        if not self._sparse_attention_available or self.sparse_attention is None:
            raise RuntimeError("Cannot register attention function: sparse attention is not available")
        if self._registered_attention_name is None:
            if not isinstance(self.sparse_attention, (ResearchAttention, PipelineAttention)):
                raise NotImplementedError(
                    "Sparse attention is not supported for this model yet: a model runs a ResearchAttention, "
                    f"HashAttention or DoubleSparsity, got {type(self.sparse_attention).__name__}"
                )
            if isinstance(self.model, torch.nn.Module) and attention_layers(self.model):
                with sparse(self.model, None):  # for its self-check
                    pass
            function = self.get_custom_attention_function(self.sparse_attention)
            name = self._generate_unique_attention_name()
            register_attention(name, function, sparse_mask)
            self._custom_attention_fn = function
            self._registered_attention_name = name
        return self._registered_attention_name

    def _generate_unique_attention_name(self) -> str:
        """"sparse_attention_" and 8 random letters or digits, not yet in the registries of `transformers`."""
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        while True:
            name = "sparse_attention_" + "".join(random.choices(_LETTERS, k=8))
            if name not in ALL_ATTENTION_FUNCTIONS and name not in ALL_MASK_ATTENTION_FUNCTIONS:
                return name

    def _cleanup_attention_registration(self) -> None:
        if self._registered_attention_name is not None:
            unregister_attention(self._registered_attention_name)
        self._registered_attention_name = None
        self._custom_attention_fn = None


class _MetaData(dict[str, Any]):
    """The `sparse_meta_data` of one question: empty for maskers that run in Python, and beside it what the C++ maskers
    remember of the context."""

    def __init__(self, sequences: SequenceState) -> None:
        super().__init__()
        self.sequences = sequences


def _sequences_of(meta: dict[str, Any] | None) -> SequenceState:
    """What C++ maskers remember under a `sparse_meta_data`; a new one is kept in it."""
    if meta is None:
        return SequenceState()
    if isinstance(meta, _MetaData):
        return meta.sequences
    sequences = meta.setdefault(_STATE, SequenceState())
    assert isinstance(sequences, SequenceState)
    return sequences


class _NativePipeline:
    """A pipeline whose maskers are all C++: run without its Python layer, logging what that would log."""

    def __init__(self, host: _core.HostAttention) -> None:
        self._sink = _core.MemorySink()
        self._sink_lock = threading.Lock()
        # A step that begins a sequence in sparse mode is a question without a context, not a prompt.
        self._plain = Dispatcher(host, dense_prefill=False)
        self._measured = Dispatcher(host, dense_prefill=False, sink=self._sink)
        self._dense = Dispatcher(_core.HostAttention(DENSE))

    @classmethod
    def of(cls, sparse_attention: Any) -> _NativePipeline | None:
        """None where the attention needs its Python layer."""
        if isinstance(sparse_attention, PipelineAttention):
            if type(sparse_attention).custom_attention is not PipelineAttention.custom_attention:
                return None
            return cls(sparse_attention.host())
        if type(sparse_attention) is not ResearchAttention:
            return None
        if not all(runs_in_core(masker) or type(masker) is CausalMasker for masker in sparse_attention.maskers):
            return None
        try:
            return cls(_core.HostAttention(pipeline_json(sparse_attention.sparse_attention_config)))
        except TypeError:  # weights in memory have no place in JSON
            return None

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
        sequences: SequenceState,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """One step of one layer, as `Dispatcher` takes it."""

        def attend(dispatcher: Dispatcher, state: SequenceState) -> tuple[torch.Tensor, None]:
            return dispatcher(module, query, key, value, mask, scaling, dropout, state, **kwargs)

        logger = MicroMetricLogger()
        if not (logger.is_metric_enabled(DENSITY) or logger.is_metric_enabled(OUTPUT_ERROR)):
            return attend(self._plain, sequences)
        with self._sink_lock:
            out, weights = attend(self._measured, sequences)
            densities = [r["value"] for r in self._sink.records() if r["metric"] == DENSITY]
            self._sink.clear()
        metadata = {"layer_idx": kwargs.get("layer_idx", -1)}
        if logger.is_metric_enabled(DENSITY) and densities:
            logger.log(DENSITY, sum(densities) / len(densities), metadata)
        if logger.is_metric_enabled(OUTPUT_ERROR):
            dense = attend(self._dense, SequenceState())[0].float()
            error = torch.linalg.vector_norm(dense - out.float()) / torch.linalg.vector_norm(dense)
            logger.log(OUTPUT_ERROR, float(error), metadata)
        return out, weights


def _device_name(device: str | int | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{device}" if isinstance(device, int) else str(device)


def _gpu_of(device: str) -> int | None:
    """The number of the GPU that a device's name means, None for none."""
    if device == "cuda":
        return 0 if torch.cuda.is_available() else None
    if device.startswith("cuda:"):
        number = device.removeprefix("cuda:")
        return int(number) if number.isdecimal() else None
    return None
