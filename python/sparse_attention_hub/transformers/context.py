"""`sparse`: a model of `transformers` with sparse attention for the length of a `with` statement."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import contextmanager
from typing import Any, Iterator, Literal

from torch import nn

from .. import _core
from .._pipeline import PipelineSource, pipeline_json
from ..sparse_attention.efficient_attention.base import EfficientAttention, EfficientAttentionConfig
from ..sparse_attention.efficient_attention.pipeline_attention import PipelineAttention
from ..sparse_attention.research_attention.base import ResearchAttention, ResearchAttentionConfig
from .dispatch import Dispatcher
from .layers import AttentionLayer, Summary, attention_layers, summarize, text_config
from .mask_function import sparse_mask
from .python_engine import PythonHost
from .self_check import self_check

_NAME_PREFIX = "sparse_attention_hub_"
_numbers = itertools.count(1)

_lock = threading.Lock()
# By id of a config that a context has changed: the thread that it belongs to, and how many of its contexts do so.
_owners: dict[int, tuple[int, int]] = {}


class SparseHandle:
    """What `sparse` gives: the pipeline at work on a model."""

    def __init__(
        self, model: nn.Module, name: str, dispatcher: Dispatcher, layers: list[AttentionLayer], pipeline: str
    ) -> None:
        self._model = model
        self._layers = layers
        self.dispatcher = dispatcher
        #: The name of the attention in the registries of `transformers` while the context lasts.
        self.name = name
        #: The pipeline as JSON text; of maskers written in Python the config's.
        self.pipeline = pipeline

    @property
    def metrics(self) -> Any:
        """The sink of the measurements, None if none was asked for."""
        return self.dispatcher.sink

    def summary(self) -> Summary:
        """Which layers are sparse, dense, and skipped."""
        return summarize(self._model, self._layers, self.dispatcher.host)

    def rewind(self) -> None:
        """This thread's caches are cut back to the prompt that they began with."""
        self.dispatcher.sequences.rewind()

    def reset(self) -> None:
        """Forgets this thread's sequences."""
        self.dispatcher.sequences.reset()


def register_attention(name: str, function: Any, mask_function: Any) -> None:
    """Registers an attention function and its mask function with `transformers` under one name."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, mask_function)


def unregister_attention(name: str) -> None:
    """Undoes `register_attention`; nothing happens where the name is not registered."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    for interface in (AttentionInterface, AttentionMaskInterface):
        # The registries can register, and cannot forget.
        interface._global_mapping.pop(name, None)


def _with_sub_configs(config: Any) -> list[Any]:
    """A config and those within it, outer ones first."""
    configs = [config]
    for key in getattr(config, "sub_configs", None) or {}:
        inner = getattr(config, key, None)
        if inner is not None:
            configs.extend(_with_sub_configs(inner))
    return configs


def _unique(objects: list[Any]) -> list[Any]:
    return list({id(x): x for x in objects}.values())


@contextmanager
def attention_implementation(configs: list[Any], name: str) -> Iterator[None]:
    """Within it the attention of `configs` is `name`; then it is again what it was, for each by itself."""
    every = _unique([inner for config in configs for inner in _with_sub_configs(config)])
    before = [(config, config._attn_implementation) for config in every]
    try:
        for config in configs:
            config._attn_implementation = name
        yield
    finally:
        # Setting an outer config sets those within it, which therefore come later.
        for config, implementation in before:
            config._attn_implementation = implementation


@contextmanager
def _owned(configs: list[Any]) -> Iterator[None]:
    """This thread alone changes `configs`.

    Raises:
        RuntimeError: Another thread has a context open that has changed one of them.
    """
    thread = threading.get_ident()
    with _lock:
        for config in configs:
            if _owners.get(id(config), (thread, 0))[0] != thread:
                raise RuntimeError(
                    "another thread has made this model sparse: open one context around both threads, or give each "
                    "thread a model of its own"
                )
        for config in configs:
            _owners[id(config)] = (thread, _owners.get(id(config), (thread, 0))[1] + 1)
    try:
        yield
    finally:
        with _lock:
            for config in configs:
                depth = _owners[id(config)][1] - 1
                if depth:
                    _owners[id(config)] = (thread, depth)
                else:
                    del _owners[id(config)]


@contextmanager
def _opened_sink(metrics: Any) -> Iterator[Any]:
    if not isinstance(metrics, (str, os.PathLike)):
        yield metrics
        return
    sink = _core.JsonlSink(os.fspath(metrics))
    try:
        yield sink
    finally:
        sink.close()


def _host_of(config: PipelineSource, model_folder: str) -> tuple[Any, str]:
    """(what runs the pipeline, its text)."""
    if isinstance(config, ResearchAttentionConfig):
        try:
            pipeline = pipeline_json(config, model_folder)
        except TypeError:  # a masker written in Python, or weights in memory
            return PythonHost(ResearchAttention.create_from_config(config)), repr(config)
    elif isinstance(config, EfficientAttentionConfig):
        try:
            pipeline = pipeline_json(config, model_folder)
        except TypeError:  # weights in memory
            attention = EfficientAttention.create_from_config(config)
            if not isinstance(attention, PipelineAttention):
                raise
            return attention.host(), attention.host().json()
    else:
        pipeline = pipeline_json(config, model_folder)
    return _core.HostAttention(pipeline), pipeline


@contextmanager
def sparse(
    model: nn.Module,
    config: PipelineSource,
    *,
    prefill: Literal["dense", "sparse"] = "dense",
    metrics: Any = None,
    check: bool = True,
) -> Iterator[SparseHandle]:
    """Makes the attention layers of a model attend through a pipeline.

        with sparse(model, "vattention.json") as handle:
            model.generate(**inputs, max_new_tokens=64)

    A step whose first token is the first of its sequence is the prompt; every later one is sparse. Sequences, caches
    and batches of any kind may follow one another; what maskers have indexed follows the keys. On leaving, also by an
    exception, the model and the registries of `transformers` are as before.

    Contexts of one thread nest: the inner pipeline is used, then the outer one again. While a context is open, other
    threads may call the model too (to stream, say), and do so sparsely with sequences of their own; they cannot open
    a context on it.

    Args:
        model: A decoder of `transformers` (4.57 or later) whose attention goes through its attention interface.
        config: A path, JSON text, dictionary, config object, or None for dense attention. "{model}/" in it stands for
            the model's folder.
        prefill: How a prompt attends.
        metrics: Where measurements of sparse steps go: a `_core.MetricSink`, or the path of a JSON-lines file, which
            is closed at the end.
        check: Runs the model once on a few tokens to see that every attention layer gets here with its mask, window,
            softcap and sink logits. It takes about the time of one decoding step.

    Raises:
        ValueError: The pipeline or `prefill` is wrong.
        NotImplementedError: The model is an encoder-decoder.
        RuntimeError: The self-check failed (the message names the layer), the model has no attention layers, or
            another thread has a context open on it.
    """
    if prefill not in ("dense", "sparse"):
        raise ValueError(f'prefill must be "dense" or "sparse", got {prefill!r}')
    if getattr(model.config, "is_encoder_decoder", False):
        raise NotImplementedError(f"{type(model).__name__} is an encoder-decoder; only decoders are supported")
    layers = attention_layers(model)
    if not layers:
        raise RuntimeError(f"{type(model).__name__} has no softmax attention layers that could be sparse")
    host, pipeline = _host_of(config, getattr(model, "name_or_path", "") or "")
    if isinstance(host, PythonHost) and metrics is not None:
        raise NotImplementedError("metrics of maskers written in Python go to MicroMetricLogger alone")
    configs = _unique([layer.config if layer.config is not None else text_config(model) for layer in layers])
    name = f"{_NAME_PREFIX}{next(_numbers)}"
    with _opened_sink(metrics) as sink, _owned(configs):
        dispatcher = Dispatcher(
            host,
            dense_prefill=prefill == "dense",
            sink=sink,
            names={id(module): path for path, module in model.named_modules()},
        )
        register_attention(name, dispatcher, sparse_mask)
        try:
            with attention_implementation(configs, name):
                if check:
                    self_check(model, dispatcher, layers)
                yield SparseHandle(model, name, dispatcher, layers, pipeline)
        finally:
            unregister_attention(name)
