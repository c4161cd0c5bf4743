"""Maskers written in Python, and weights in memory, in models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from decoding import read
from tiny_models import tiny_model, tokens

import sparse_attention_hub as sah


@dataclass
class MyWindowConfig(sah.MaskerConfig):
    size: int = 3


class MyWindow(sah.ResearchMasker):
    """The latest keys of every query, by the attention mask alone."""

    def add_mask(
        self,
        keys: torch.Tensor,
        queries: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float = 1.0,
        dropout: float = 0.0,
        sparse_meta_data: dict[str, Any] | None = None,
        previous_mask: sah.Mask | None = None,
        **kwargs: Any,
    ) -> sah.Mask:
        assert previous_mask is not None and sparse_meta_data is not None
        sparse_meta_data["calls"] = sparse_meta_data.get("calls", 0) + 1
        count, total = queries.shape[2], keys.shape[2]
        if total <= self.config.size + count:  # type: ignore[attr-defined]  # as the library's window
            return sah.Mask.create_full_mask(previous_mask.shape, previous_mask.dtype, previous_mask.device)
        last = torch.arange(total - count, total)[:, None]
        key = torch.arange(total)
        window = ((key <= last) & (key > last - self.config.size)).to(previous_mask.dtype)  # type: ignore[attr-defined]
        mine = sah.Mask.create_mask_from_dense_mask(
            previous_mask.shape, window.expand(previous_mask.shape).clone(), previous_mask.dtype
        )
        return previous_mask.merge_mask(mine, inplace=False)

    @classmethod
    def create_from_config(cls, config: sah.MaskerConfig) -> MyWindow:
        return cls(config)


@pytest.fixture(autouse=True)
def registered() -> Any:
    sah.MaskerRegistry.register(MyWindowConfig)(MyWindow)
    yield
    sah.MaskerRegistry._registry.pop(MyWindowConfig)


MINE = sah.ResearchAttentionConfig([sah.SinkMaskerConfig(2), MyWindowConfig(3), sah.OracleTopKConfig(2)])
LIBRARYS = sah.ResearchAttentionConfig([sah.SinkMaskerConfig(2), sah.LocalMaskerConfig(3), sah.OracleTopKConfig(2)])


@pytest.mark.parametrize("prefill", ["dense", "sparse"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss", "lfm2"])
def test_it_gives_what_the_same_masker_of_the_library_gives(name: str, prefill: Any) -> None:
    model, ids = tiny_model(name), tokens(2, 20)
    cache = "hybrid" if name == "lfm2" else "dynamic"
    dense = read(model, ids, first=12, cache=cache)
    with sah.sparse(model, LIBRARYS, prefill=prefill):
        expected = read(model, ids, first=12, cache=cache)
    with sah.sparse(model, MINE, prefill=prefill) as handle:
        logits = read(model, ids, first=12, cache=cache)
        assert len(handle.summary().sparse) > 0
    torch.testing.assert_close(logits[:, 12:], expected[:, 12:], atol=2e-4, rtol=2e-4)
    assert not torch.allclose(logits[:, 13:], dense[:, 13:], atol=1e-3)


def test_left_padding_leaves_a_row_as_it_is_alone() -> None:
    model, ids = tiny_model("llama"), tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    with sah.sparse(model, MINE):
        together = read(model, ids, first=12, mask=mask)
        alone = read(model, ids[1:, 5:], first=7)
    torch.testing.assert_close(together[1:, 12:], alone[:, 7:], atol=2e-5, rtol=1e-4)


def test_weights_in_memory() -> None:
    model, ids = tiny_model("llama"), tokens(1, 20)
    heads, dim = model.config.num_attention_heads, model.config.head_dim
    generator = torch.Generator().manual_seed(0)
    layer = {
        f"{side}_{kind}": [torch.randn(shape, generator=generator)]
        for side in ("query", "key")
        for kind, shape in (("matrix", (heads, dim, 8)), ("bias", (heads, 8)))
    }
    weights = {index: layer for index in range(model.config.num_hidden_layers)}
    config = sah.ResearchAttentionConfig(
        [sah.HashAttentionTopKMaskerConfig(4, 8, 1, 0, "silu", hat_weights=weights)]
    )
    with sah.sparse(model, config):
        sparse = read(model, ids, first=12)
    assert not torch.allclose(sparse[:, 13:], read(model, ids, first=12)[:, 13:], atol=1e-3)


def test_what_is_not_supported_is_said() -> None:
    with pytest.raises(NotImplementedError, match="MicroMetricLogger"):
        with sah.sparse(tiny_model("llama"), MINE, metrics=sah.MemorySink()):
            pass
    model = tiny_model("gemma2")
    with pytest.raises(NotImplementedError, match="softcap"):
        with sah.sparse(model, MINE):
            read(model, tokens(1, 20), first=12)
