"""HashAttention step by step: signatures, their cache, scores, and add_mask through replaced steps."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch

from sparse_attention_hub.sparse_attention import (
    HashAttentionTopKMasker,
    HashAttentionTopKMaskerConfig,
    Mask,
    ResearchAttention,
    ResearchAttentionConfig,
)

HEADS, KV_HEADS, QUERIES, KEYS, DIM, BITS = 4, 2, 3, 24, 8, 20
CLASS = "sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations.HashAttentionTopKMasker"
ACTIVATIONS = {
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
    "gelu": torch.nn.functional.gelu,
    "tanh": torch.tanh,
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(layers: int = 2, hidden: int = 12) -> dict[int, dict[str, list[torch.Tensor]]]:
    widths = [DIM] + [hidden] * (layers - 1) + [BITS]
    entry: dict[str, list[torch.Tensor]] = {}
    for number, side in enumerate(("query", "key")):
        pairs = list(zip(widths, widths[1:]))
        entry[f"{side}_matrix"] = [normal(HEADS, *pair, seed=10 * number + i) for i, pair in enumerate(pairs)]
        entry[f"{side}_bias"] = [normal(HEADS, pair[1], seed=50 + 10 * number + i) for i, pair in enumerate(pairs)]
    return {0: entry}


def masker_of(activation: str = "silu", layers: int = 2, heavy_size: int | float = 5) -> HashAttentionTopKMasker:
    config = HashAttentionTopKMaskerConfig(heavy_size, BITS, layers, 12, activation, hat_weights=weights(layers))
    return HashAttentionTopKMasker(config)


def signs(x: torch.Tensor, matrices: list[torch.Tensor], biases: list[torch.Tensor], activation: str) -> torch.Tensor:
    y = x.double()
    for i, (matrix, bias) in enumerate(zip(matrices, biases)):
        y = torch.einsum("bhnd,hde->bhne", y, matrix.double()) + bias.double()[None, :, None]
        if i + 1 < len(matrices):
            y = ACTIVATIONS[activation](y)
    return y.sign()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_signatures_are_the_signs_of_an_mlp_a_head(activation: str, layers: int) -> None:
    masker = masker_of(activation, layers)
    entry = weights(layers)[0]
    x = normal(2, HEADS, 7, DIM)
    got = masker._get_signatures(x, entry["query_matrix"], entry["query_bias"])
    assert got.shape == (2, HEADS, 7, BITS)
    assert got.dtype == x.dtype
    assert torch.equal(got.double(), signs(x, entry["query_matrix"], entry["query_bias"], activation))


def test_an_output_of_zero_has_the_sign_zero() -> None:
    got = masker_of()._get_signatures(
        normal(1, HEADS, 2, DIM), [torch.zeros(HEADS, DIM, 3)], [torch.tensor([[0.0, 2.0, -2.0]] * HEADS)]
    )
    assert torch.equal(got, torch.tensor([0.0, 1.0, -1.0]).expand(1, HEADS, 2, 3))


def test_signatures_have_the_type_of_the_input() -> None:
    entry = weights()[0]
    x = normal(1, HEADS, 4, DIM).bfloat16()
    got = masker_of()._get_signatures(x, entry["key_matrix"], entry["key_bias"])
    assert got.dtype == torch.bfloat16
    assert torch.equal(got.double(), signs(x, entry["key_matrix"], entry["key_bias"], "silu"))


def test_signature_errors() -> None:
    masker = masker_of()
    x = normal(1, HEADS, 4, DIM)
    with pytest.raises(ValueError, match=r"matrix_list\[0\]"):
        masker._get_signatures(x, [normal(HEADS, DIM + 1, 3)], [normal(HEADS, 3)])
    with pytest.raises(ValueError, match="as many of each"):
        masker._get_signatures(x, [normal(HEADS, DIM, 3)], [])
    with pytest.raises(ValueError, match="must divide"):
        masker._get_signatures(normal(1, 3, 4, DIM), [normal(HEADS, DIM, 3)], [normal(HEADS, 3)])
    masker.hat_mlp_activation = "swish"
    with pytest.raises(ValueError, match="Unsupported activation function: swish"):
        masker._get_signatures(x, [normal(HEADS, DIM, 3)], [normal(HEADS, 3)])


def test_what_is_new_among_keys() -> None:
    masker = masker_of()
    keys = normal(1, HEADS, 10, DIM)
    meta: dict[str, Any] = {}
    cached, new = masker._determine_new_keys(keys, meta, 0)
    assert cached is None and new is not None and torch.equal(new, keys)
    assert meta == {"key": {0: None}}
    meta["key"][0] = normal(1, HEADS, 7, BITS)
    cached, new = masker._determine_new_keys(keys, meta, 0)
    assert cached is meta["key"][0]
    assert new is not None and torch.equal(new, keys[:, :, 7:])
    cached, new = masker._determine_new_keys(keys[:, :, :7], meta, 0)
    assert cached is meta["key"][0] and new is None
    with pytest.raises(ValueError, match=r"Current number of keys \(6\) is less than cached number of keys \(7\)"):
        masker._determine_new_keys(keys[:, :, :6], meta, 0)


def test_signatures_of_keys_are_made_once() -> None:
    masker = masker_of()
    keys = normal(1, HEADS, 10, DIM)
    entry = weights()[0]
    expected = signs(keys, entry["key_matrix"], entry["key_bias"], "silu").float()
    meta: dict[str, Any] = {}
    asked = []
    original = masker._get_signatures
    with mock.patch.object(
        masker, "_get_signatures", lambda x, *weights: asked.append(x.shape[2]) or original(x, *weights)
    ):
        for count in (6, 6, 10):
            got = masker._update_key_signatures(keys[:, :, :count], meta, 0)
            assert torch.equal(got, expected[:, :, :count])
            assert torch.equal(meta["key"][0], got)
    assert asked == [6, 4]
    masker._update_key_signatures(keys[:, :, :3], meta | {"key": {}}, 0)
    with pytest.raises(ValueError, match="is less than cached number of keys"):
        masker._update_key_signatures(keys[:, :, :3], meta, 0)
    with pytest.raises(ValueError, match="hat_weights must have layer 5"):
        masker._update_key_signatures(keys, meta, 5)


def test_scores_are_products_of_signatures() -> None:
    masker = masker_of()
    queries, keys = normal(1, HEADS, QUERIES, DIM, seed=1), normal(1, KV_HEADS, KEYS, DIM, seed=2)
    bias = normal(1, 1, QUERIES, KEYS + 4, seed=3)
    previous = torch.zeros(1, HEADS, QUERIES, KEYS)
    previous[..., 4] = 0.5
    entry = weights()[0]
    of_queries = signs(queries, entry["query_matrix"], entry["query_bias"], "silu")
    of_keys = signs(keys.repeat_interleave(2, 1), entry["key_matrix"], entry["key_bias"], "silu")
    products = of_queries @ of_keys.transpose(2, 3)
    meta: dict[str, Any] = {}
    plain = masker._compute_hashattention_score(queries, keys, None, torch.zeros_like(previous), meta, 0)
    assert torch.equal(plain.double(), products)
    assert meta["key"][0].shape == (1, HEADS, KEYS, BITS)
    got = masker._compute_hashattention_score(queries, keys, bias, previous, meta, layer_idx=0, unknown=1)
    expected = products + bias.double()[..., :KEYS]
    held = previous != 0
    assert torch.allclose(got.double()[~held], expected[~held], atol=1e-5)
    assert bool((got[held] == torch.finfo(torch.float32).min).all())
    half = masker._compute_hashattention_score(
        queries.half(), keys.half(), None, previous, {}, 0
    )
    assert half.dtype == torch.float16
    assert bool((half[held] == torch.finfo(torch.float16).min).all())


def add_mask(masker: HashAttentionTopKMasker, meta: dict[str, Any], previous: Mask | None = None) -> torch.Tensor:
    queries, keys = normal(1, HEADS, QUERIES, DIM, seed=1), normal(1, KV_HEADS, KEYS, DIM, seed=2)
    mask = masker.add_mask(
        keys, queries, keys, None, 1.0, 0.0, sparse_meta_data=meta, previous_mask=previous, layer_idx=0
    )
    return mask.get_dense_mask()


def test_replaced_steps_count_in_add_mask() -> None:
    """A patched class, an attribute of an object, a subclass: all are asked; without them the mask is the same."""
    usual = add_mask(masker_of(), {})
    scores = torch.zeros(1, HEADS, QUERIES, KEYS)
    scores[..., 3:8] = 1
    wanted = scores
    with mock.patch(CLASS + "._compute_hashattention_score", return_value=scores):
        assert torch.equal(add_mask(masker_of(), {}), wanted)
    masker = masker_of()
    masker._compute_hashattention_score = lambda *args, **kwargs: scores  # type: ignore[method-assign]
    assert torch.equal(add_mask(masker, {}), wanted)

    class Same(HashAttentionTopKMasker):
        def _get_signatures(self, *args: Any) -> torch.Tensor:
            return super()._get_signatures(*args)

    meta: dict[str, Any] = {}
    stepwise = Same(masker_of().config)
    assert torch.equal(add_mask(stepwise, meta).sum(-1), usual.sum(-1))
    assert type(meta["key"]) is dict and meta["key"][0].shape == (1, HEADS, KEYS, BITS)
    meta = {}
    assert bool((add_mask(Same(masker_of(heavy_size=1.0).config), meta) == 1).all())
    assert meta == {}  # full attention asks for no signatures


def test_an_engine_goes_through_replaced_steps() -> None:
    engine = ResearchAttention.create_from_config(ResearchAttentionConfig([masker_of().config]))
    queries, keys = normal(1, HEADS, QUERIES, DIM, seed=1), normal(1, KV_HEADS, KEYS, DIM, seed=2)
    scores = torch.zeros(1, HEADS, QUERIES, KEYS)
    scores[..., 3:8] = 1
    engine.maskers[0]._compute_hashattention_score = lambda *args, **kwargs: scores
    output, _ = engine.custom_attention(
        None, queries, keys, keys, None, 0.3, 0.0, sparse_meta_data={}, layer_idx=0
    )
    chosen = keys.repeat_interleave(2, 1)[:, :, 3:8]
    expected = (queries @ chosen.transpose(2, 3) * 0.3).softmax(-1) @ chosen
    assert torch.allclose(output.transpose(1, 2), expected, atol=1e-5)


def test_steps_choose_the_best_keys_outside_the_previous_mask() -> None:
    class Same(HashAttentionTopKMasker):
        def _update_key_signatures(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super()._update_key_signatures(*args, **kwargs)

    held = torch.zeros(1, HEADS, QUERIES, KEYS)
    held[..., 2] = 0.25
    previous = Mask.create_mask_from_dense_mask(tuple(held.shape), held, torch.float32)
    got = add_mask(Same(masker_of().config), {}, previous)
    assert bool((got[..., 2] == 0.25).all())
    added = got - held
    assert bool((added.sum(-1) == 5).all())
    queries, keys = normal(1, HEADS, QUERIES, DIM, seed=1), normal(1, KV_HEADS, KEYS, DIM, seed=2)
    scores = masker_of()._compute_hashattention_score(queries, keys, None, held, {}, 0)
    least = scores.masked_fill(added == 0, torch.inf).amin(-1)
    left = scores.masked_fill(added != 0, -torch.inf).amax(-1)
    assert bool((least >= left).all())
