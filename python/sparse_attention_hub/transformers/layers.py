"""Which modules of a model are attention layers, and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

#: Entries of `config.layer_types` or `config.layers_block_type` whose layers have no softmax attention.
_WITHOUT_ATTENTION = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "mlp", "moe", "lightning"})


@dataclass(frozen=True)
class AttentionLayer:
    """A softmax attention module of a model."""

    #: Its path in the model, such as "model.layers.3.self_attn".
    name: str
    module: nn.Module = field(repr=False)
    #: Its number among the layers, as caches and pipelines count them.
    index: int

    @property
    def config(self) -> Any:
        """The module's config; None if it has none."""
        return getattr(self.module, "config", None)

    @property
    def sliding_window(self) -> int | None:
        """The keys that a query of this layer sees, itself included, if the model limits them."""
        if hasattr(self.module, "sliding_window"):
            own: Any = self.module.sliding_window
            return own or None
        config = self.config
        window = getattr(config, "sliding_window", None)
        if not window or not getattr(config, "use_sliding_window", True):
            return None
        types = getattr(config, "layer_types", None)
        return window if types is None or types[self.index] == "sliding_attention" else None

    @property
    def softcap(self) -> float | None:
        """The bound of the logits, if the model has one."""
        own = getattr(self.module, "attn_logit_softcapping", None)
        return own if own is not None else getattr(self.config, "attn_logit_softcapping", None)

    @property
    def has_sinks(self) -> bool:
        """The module has learned sink logits."""
        return getattr(self.module, "sinks", None) is not None


def _kind(config: Any, index: int) -> str | None:
    for name in ("layer_types", "layers_block_type"):
        types = getattr(config, name, None)
        if isinstance(types, (list, tuple)) and index < len(types):
            return str(types[index])
    return None


def attention_layers(model: nn.Module) -> list[AttentionLayer]:
    """The softmax attention modules of `model` that have a layer number, in the order of the model.

    A module is one if its class is called an attention and no module within it is one too. Attention without a layer
    number, such as that of a vision tower, keeps no keys between steps and is none of ours.
    """
    found: dict[str, AttentionLayer] = {}
    for name, module in model.named_modules():
        index = getattr(module, "layer_idx", None)
        if not isinstance(index, int) or "Attention" not in type(module).__name__:
            continue
        if _kind(getattr(module, "config", None), index) in _WITHOUT_ATTENTION:
            continue
        outer = [other for other in found if name.startswith(other + ".") or not other]
        for other in outer:
            del found[other]
        found[name] = AttentionLayer(name, module, index)
    return list(found.values())


def has_recurrent_layers(model: nn.Module) -> bool:
    """Modules other than attention keep states by layer number: such a cache cannot be cut back by length."""
    attention = [layer.name for layer in attention_layers(model)]
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "layer_idx", None), int) or "mlp" in type(module).__name__.lower():
            continue
        related = any(a == name or a.startswith(name + ".") or name.startswith(a + ".") for a in attention)
        if not related and "moe" not in type(module).__name__.lower():
            return True
    return False


def text_config(model: nn.Module) -> Any:
    """The config of the language model within `model`."""
    config: Any = model.config
    return config.get_text_config()


@dataclass(frozen=True)
class Summary:
    """What a pipeline does to the layers of a model, by their numbers."""

    #: They attend through maskers.
    sparse: tuple[int, ...]
    #: Attention layers to which the pipeline gives no masker.
    dense: tuple[int, ...]
    #: Layers without softmax attention (recurrent, convolution, ...), which are left as they are.
    skipped: tuple[int, ...]

    def __str__(self) -> str:
        parts = [f"{name}: {_ranges(getattr(self, name))}" for name in ("sparse", "dense", "skipped")]
        return "layers " + ", ".join(parts)


def _ranges(numbers: tuple[int, ...]) -> str:
    """[0, 1, 2, 5] as "0-2,5"; "none" for nothing."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in runs) or "none"


def summarize(model: nn.Module, layers: list[AttentionLayer], host: Any) -> Summary:
    """The summary of `host`, a `_core.HostAttention`, on `model`."""
    config = text_config(model)
    total = int(getattr(config, "num_hidden_layers", 0) or 0)
    heads = int(getattr(config, "num_attention_heads", 1) or 1)
    sparse: list[int] = []
    dense: list[int] = []
    for index in sorted({layer.index for layer in layers}):
        (dense if host.is_dense_layer(index, heads) else sparse).append(index)
    attention = {*sparse, *dense}
    skipped = [index for index in range(total) if index not in attention]
    return Summary(tuple(sparse), tuple(dense), tuple(skipped))
