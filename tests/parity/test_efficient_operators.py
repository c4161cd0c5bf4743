"""The efficient engine's operators: values by a float64 reference, torch.compile, and hostile arguments."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Dict, NamedTuple, Optional, Tuple

import pytest
import torch

from sparse_attention_hub import _core, ops

from operator_cases import NARROW, normal

UNIT = 2.0**-24  # half the spacing of float32 at 1
ROUNDING = {torch.float32: UNIT, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def step(
    dtype: torch.dtype, heads: int = 8, kv_heads: int = 2, keys: int = 300, dim: int = 32
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        normal(2, heads, 1, dim, dtype=dtype, seed=1),
        normal(2, kv_heads, keys, dim, dtype=dtype, seed=2),
        normal(2, kv_heads, keys, dim, dtype=dtype, seed=3),
    )


class Expected(NamedTuple):
    """A state in float64, and what float32 arithmetic may lose of it."""

    out: torch.Tensor
    lse: torch.Tensor
    out_error: torch.Tensor
    lse_error: torch.Tensor


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    weights: torch.Tensor,
    scale: Optional[float] = None,
    softcap: Optional[float] = None,
    sink_logits: Optional[torch.Tensor] = None,
) -> Expected:
    """weights [batch, query heads, 1, keys] are inverse probabilities, 0 where a key is not chosen.

    The errors are bounds of first order in UNIT, for sums in any order:
    - a product of `dim` terms loses (dim + 2) UNIT of the sum of their magnitudes, scaling included; tanh and what is
      around it at most 8 UNIT of the softcap; log(weight), and its sum with the logit, 2 UNIT of themselves;
    - an exponential loses what its logit lost, a rounding of its distance from the maximum, and 4 UNIT of its own;
    - sums of n such terms lose n UNIT, and as much again where the maximum moves and they are scaled.
    The log-sum-exp loses at most what its heaviest loser does; numerator and denominator of the output lose it twice.
    """
    dim = q.shape[-1]
    q, k, v = (x.double() for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scale = scale or dim**-0.5
    logits = q @ k.transpose(2, 3) * scale
    lost = (dim + 2) * (q.abs() @ k.abs().transpose(2, 3)) * abs(scale)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
        lost = lost + 8 * softcap
    logs = weights.double().log()
    chosen = weights.gt(0).expand_as(logits)
    logits = logits + logs
    lost = (lost + 2 * logs.abs() + 2 * logits.abs()).where(chosen, 0)
    if sink_logits is not None:
        sink = sink_logits.double().view(1, -1, 1, 1).expand(*logits.shape[:3], 1)
        logits, lost = torch.cat([logits, sink], -1), torch.cat([lost, 2 * sink.abs()], -1)
        v = torch.cat([v, torch.zeros_like(v[:, :, :1])], 2)
    distance = (logits.amax(-1, keepdim=True) - logits).where(logits.isfinite(), 0)
    shares, lse = logits.softmax(-1), logits.logsumexp(-1)
    sums = 2 * logits.isfinite().sum(-1)
    worst = (lost + distance + 4).amax(-1) + sums
    return Expected(
        shares @ v,
        lse,
        2 * UNIT * worst.unsqueeze(-1) * (shares @ v.abs()),
        UNIT * (worst + 2 * lse.abs() + 2),
    )


def within(actual: torch.Tensor, expected: torch.Tensor, error: torch.Tensor) -> None:
    assert actual.isfinite().all()
    excess = (actual.double() - expected).abs() - error
    assert excess.max() <= 0, f"{excess.max().item():.3g} beyond the bound"


def close(actual: Tuple[torch.Tensor, torch.Tensor], expected: Expected) -> None:
    out, lse = actual
    # One rounding to the output's type; the last term is for numbers below its normal ones.
    within(out, expected.out, expected.out_error * 1.01 + ROUNDING[out.dtype] * expected.out.abs() + 2.0**-25)
    within(lse, expected.lse, expected.lse_error)
    assert lse.dtype == torch.float32 and out.is_contiguous() and lse.is_contiguous()


@pytest.mark.parametrize("dtype", NARROW)
def test_dense_decode_with_options_and_lengths(dtype: torch.dtype) -> None:
    q, k, v = step(dtype)
    sinks = normal(8, seed=4)
    weights = torch.ones(2, 8, 1, 300)
    weights[1, :, :, 200:] = 0
    actual = ops.efficient_decode(
        q, k, v, lengths=torch.tensor([300, 200]), scale=0.3, softcap=5.0, sink_logits=sinks
    )
    close(actual, reference(q, k, v, weights, 0.3, 5.0, sinks))
    close(ops.efficient_decode(q, k, v), reference(q, k, v, torch.ones(2, 8, 1, 300)))


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("heads", [8, 2])
def test_lists_of_exact_top_k(dtype: torch.dtype, heads: int) -> None:
    q, k, v = step(dtype)
    indices = ops.exact_top_k(normal(2, heads, 300, seed=5), 40)
    inverse = normal(2, heads, 40, seed=6).exp()
    weights = torch.zeros(2, heads, 300).scatter_(2, indices, inverse).repeat_interleave(8 // heads, 1).unsqueeze(2)
    close(ops.efficient_decode(q, k, v, indices, inverse_probabilities=inverse), reference(q, k, v, weights))
    close(ops.efficient_decode(q, k, v, indices.int()), reference(q, k, v, weights.gt(0)))


def test_the_csr_form_of_a_mask() -> None:
    q, k, v = step(torch.float32)
    probabilities = normal(2, 8, 1, 300, seed=7).clamp(0, 1)
    indptr, indices, data = _core.Mask.from_dense(probabilities).to_csr()
    actual = ops.efficient_decode(q, k, v, indices, offsets=indptr, inverse_probabilities=data.reciprocal())
    close(actual, reference(q, k, v, torch.where(probabilities > 0, 1 / probabilities, 0)))


@pytest.mark.parametrize("dtype", NARROW)
def test_ranges_beside_sampled_lists(dtype: torch.dtype) -> None:
    """A step of vAttention: sinks, a window that ends with the sequence, and samples between them."""
    q, k, v = step(dtype)
    lengths = torch.tensor([300, 200])
    ranges = torch.stack([torch.tensor([[0, 16], [n - 32, n]]) for n in lengths.tolist()])
    samples = 16 + 2 * torch.arange(70).expand(2, 2, 70)
    weights = torch.zeros(2, 8, 1, 300)
    weights[:, :, :, 16:156:2] = 4
    for s, n in enumerate(lengths.tolist()):
        weights[s, :, :, :16] = weights[s, :, :, n - 32 : n] = 1
    actual = ops.efficient_decode(
        q, k, v, samples, inverse_probabilities=torch.full(samples.shape, 4.0), ranges=ranges, lengths=lengths
    )
    close(actual, reference(q, k, v, weights))
    close(ops.efficient_decode(q, k, v, ranges=ranges.int()), reference(q, k, v, weights.eq(1).float()))
    out, lse = ops.efficient_decode(q, k, v, ranges=ranges[:, :0])
    assert out.eq(0).all() and lse.eq(-math.inf).all()


@pytest.mark.parametrize("dtype", NARROW)
def test_layouts_of_keys_give_the_same_bits(dtype: torch.dtype) -> None:
    q, k, v = step(dtype)
    expected = ops.efficient_decode(q, k, v)
    tokens_first = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    joined = torch.cat([k, v], -1).split(32, -1)
    channels_first = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in (k, v))
    longer = (torch.cat([x, torch.full_like(x, math.nan)], 2)[:, :, :300] for x in (k, v))
    for keys, values in (tokens_first, joined, channels_first, longer):
        actual = ops.efficient_decode(q, keys, values)
        assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])


def test_nan_and_infinities_stay_where_they_are_chosen() -> None:
    q, k, v = step(torch.float32)
    indices = torch.tensor([0, 5, 9]).expand(2, 8, 3).clone()
    expected = ops.efficient_decode(q, k, v, indices)
    k[:, :, 1:5], v[:, :, 6:9] = math.nan, math.inf
    actual = ops.efficient_decode(q, k, v, indices)
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    indices[1, 3, 1] = 2
    out, lse = ops.efficient_decode(q, k, v, indices)
    assert out[1, 3].isnan().all() and lse[1, 3].isnan().all()
    out[1, 3], lse[1, 3] = expected[0][1, 3], expected[1][1, 3]
    assert torch.equal(out, expected[0]) and torch.equal(lse, expected[1])


@pytest.mark.parametrize("dtype", NARROW)
def test_states_of_parts_merge_to_the_whole(dtype: torch.dtype) -> None:
    q, k, v = step(dtype)
    indices = torch.arange(300).expand(2, 2, 300)
    first, second = (ops.efficient_decode(q, k, v, part) for part in (indices[..., :70], indices[..., 70:]))
    actual = ops.merge_attention_states(*first, *second)
    weights = torch.ones(2, 8, 1, 300)
    weights[..., 70:] = 0
    parts = reference(q, k, v, weights), reference(q, k, v, 1 - weights)
    out, lse, _, _ = reference(q, k, v, torch.ones(2, 8, 1, 300))
    # An output is a mean of the parts', each rounded to its type, with shares that lose what both lse lose.
    lse_error = sum(part.lse_error for part in parts) + 8 * UNIT
    largest = torch.maximum(parts[0].out.abs(), parts[1].out.abs())
    part_error = torch.maximum(parts[0].out_error, parts[1].out_error) + ROUNDING[dtype] * largest
    out_error = part_error + 2 * lse_error.unsqueeze(-1) * largest
    close(actual, Expected(out, lse, out_error, lse_error + 4 * UNIT * lse.abs()))
    assert actual[0].dtype == dtype
    nothing = torch.full_like(first[0], math.nan), torch.full_like(first[1], -math.inf)
    for merged in (ops.merge_attention_states(*first, *nothing), ops.merge_attention_states(*nothing, *first)):
        assert torch.equal(merged[0], first[0]) and torch.equal(merged[1], first[1])


def test_ties_nan_and_infinities_in_top_k() -> None:
    scores = torch.tensor([1.0, 3.0, 3.0, math.nan, math.inf, -math.inf, 3.0])
    assert [ops.exact_top_k(scores, k).tolist() for k in (0, 1, 2, 4, 6)] == [
        [], [3], [3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4, 6]
    ]  # fmt: skip
    for value in (math.nan, math.inf, -math.inf, 0.0):
        assert ops.exact_top_k(torch.full((2, 500), value), 3).tolist() == [[0, 1, 2]] * 2
    assert ops.exact_top_k(torch.zeros(2, 0, 5), 3).shape == (2, 0, 3)
    assert ops.exact_top_k(torch.zeros(2, 0), 0).shape == (2, 0)


def test_compiled_in_one_graph_with_sizes_that_vary() -> None:
    graphs = []

    def backend(graph: Any, example_inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    def model(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: torch.Tensor, keep: int) -> Any:
        indices = ops.exact_top_k(scores, keep)
        heavy = ops.efficient_decode(q, k, v, indices)
        again = ops.efficient_decode(q, k, v, indices, scale=0.5)
        ranges = torch.tensor([[0, 2], [5, 6]]).expand(2, 2, 2)
        fixed = ops.efficient_decode(q, k, v, ranges=ranges)
        return ops.merge_attention_states(*ops.merge_attention_states(*heavy, *again), *fixed)

    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for keys in (40, 41, 57, 90):
        q, k, v = step(torch.float32, keys=keys)
        arguments = (q, k, v, normal(2, 2, keys, seed=keys), keys // 4)
        for actual, expected in zip(compiled(*arguments), model(*arguments)):
            assert torch.equal(actual, expected)
    assert len(graphs) == 1

    lowered = torch.compile(model, backend="aot_eager", fullgraph=True)
    for actual, expected in zip(lowered(*arguments), model(*arguments)):
        assert torch.equal(actual, expected)


def test_meta_tensors_have_shapes_alone() -> None:
    q, k, v = (x.to("meta") for x in step(torch.bfloat16))
    out, lse = ops.efficient_decode(q, k, v[..., :20])
    assert (out.shape, out.dtype, lse.shape, lse.dtype) == ((2, 8, 1, 20), torch.bfloat16, (2, 8, 1), torch.float32)
    assert ops.exact_top_k(q, 3).shape == (2, 8, 1, 3) and ops.exact_top_k(q, 3).dtype == torch.int64
    with pytest.raises(ValueError, match="k must have 4 dimensions, got 3"):
        ops.efficient_decode(q, k[0], v)
    with pytest.raises(ValueError, match=r"k must be in \[0, 32\], got 33"):
        ops.exact_top_k(q, 33)
    # Whatever brings a call to the Meta kernels, nothing on the CPU comes out of them.
    q, k, v = step(torch.float32)
    indices = torch.arange(3).expand(2, 8, 3)
    with pytest.raises(ValueError, match="q must be on the meta device, as other arguments are, got cpu"):
        ops.efficient_decode(q, k, v, indices.to("meta"))
    with pytest.raises(ValueError, match="indices must be on the meta device, as other arguments are, got cpu"):
        ops.efficient_decode(q.to("meta"), k.to("meta"), v.to("meta"), indices)
    out, lse = ops.efficient_decode(q, k, v)
    with pytest.raises(ValueError, match="lse_a must be on the meta device, as other arguments are, got cpu"):
        ops.merge_attention_states(out.to("meta"), lse, out, lse)


def test_other_layouts_of_memory_have_no_kernel() -> None:
    q, k, v = step(torch.float32)
    for arguments in ((q.to_sparse(), k, v), (q, k, v, torch.arange(3).expand(2, 8, 3).to_sparse())):
        with pytest.raises(NotImplementedError, match="efficient_decode"):
            ops.efficient_decode(*arguments)
    with pytest.raises(NotImplementedError, match="exact_top_k"):
        ops.exact_top_k(q.to_sparse(), 1)


def test_the_gil_is_released_around_work() -> None:
    q = normal(64, 16, 1, 256)
    k = normal(1, 1, 8192, 256).expand(64, 1, 8192, 256)
    ops.efficient_decode(q[:1], k[:1], k[:1])
    scores = normal(8, 1 << 20)
    for work in (lambda: ops.efficient_decode(q, k, k), lambda: ops.exact_top_k(scores, 1 << 19)):
        done = threading.Event()
        worker = threading.Thread(target=lambda: (work(), done.set()))
        turns = 0
        worker.start()
        while not done.is_set():
            time.sleep(0.0002)
            turns += 1
        worker.join()
        # Holding the GIL, the call would leave a turn before it and one behind it.
        assert turns > 5


Q, K, V = step(torch.float32, heads=4, kv_heads=2, keys=10, dim=8)
LISTS = torch.tensor([1, 3, 9]).repeat(2, 4, 1)
FLAT, OFFSETS = torch.tensor([0, 1, 5, 2]), torch.tensor([0, 1, 1, 3, 4])

RANGES = torch.tensor([[0, 1], [1, 3]]).expand(2, 2, 2)


def planted(value: float, tensor: torch.Tensor = LISTS, at: Tuple[int, ...] = (1, 2, 1)) -> torch.Tensor:
    changed = tensor.clone()
    changed[at] = value
    return changed


INVERSE = torch.ones(2, 4, 3)
HOSTILE: Dict[str, Tuple[Dict[str, Any], str]] = {
    "beyond the keys": ({"indices": planted(10)}, r"indices\[1\]\[2\]\[1\] must be in \[0, 10\).*got 10"),
    "far beyond": ({"indices": planted(2**40)}, r"indices\[1\]\[2\]\[1\].*got 1099511627776"),
    "beyond 32 bits, 1 below them": ({"indices": planted(2**32 + 5)}, r"indices.*got 4294967301"),
    "negative": ({"indices": planted(-1)}, r"indices\[1\]\[2\]\[1\] must be in \[0, 10\).*got -1"),
    "least integer": ({"indices": planted(-(2**63))}, r"indices\[1\]\[2\]\[1\].*got -9223372036854775808"),
    "twice": ({"indices": planted(1)}, r"indices\[1\]\[2\]\[1\] must be above the index before it, 1 .*got 1"),
    "descending": ({"indices": planted(0)}, r"indices\[1\]\[2\]\[1\] must be above the index before it, 1 .*got 0"),
    "beyond all, flat": ({"indices": planted(2**62, FLAT, (3,)), "offsets": OFFSETS}, r"indices\[3\].*got 4611686018427387904"),
    "in a range": (
        {"indices": LISTS, "ranges": torch.tensor([[0, 1], [3, 5]]).expand(2, 2, 2)},
        r"indices\[0\]\[0\]\[1\] must not lie in a range, \[3, 5\).*got 3",
    ),
    "range beyond": ({"ranges": RANGES + 8}, r"ranges\[0\]\[1\] must be \[begin, end\) with 9 <= begin <= end <= 10.*got \[9, 11\)"),
    "range beyond a length": ({"ranges": RANGES, "lengths": torch.tensor([3, 2])}, r"ranges\[1\]\[1\] .* <= 2.*got \[1, 3\)"),
    "range that is negative": ({"ranges": planted(-(2**63), RANGES, (1, 0, 0))}, r"ranges\[1\]\[0\] .*got \[-9223372036854775808, 1\)"),
    "range that is reversed": ({"ranges": planted(0, RANGES, (1, 1, 1))}, r"ranges\[1\]\[1\] .*got \[1, 0\)"),
    "ranges that overlap": ({"ranges": planted(2, RANGES, (1, 0, 1))}, r"ranges\[1\]\[1\] .* with 2 <= begin.*got \[1, 3\)"),
    "ranges of another batch": ({"ranges": RANGES[:1]}, r"ranges must have shape \[2, -1, 2\]"),
    "ranges of three numbers": ({"ranges": torch.zeros(2, 1, 3, dtype=torch.int64)}, r"ranges must have shape \[2, -1, 2\]"),
    "ranges of a float type": ({"ranges": RANGES.float()}, "ranges must be int64 or int32"),
    "beyond a length": (
        {"indices": LISTS, "lengths": torch.tensor([10, 9])},
        r"indices\[1\]\[0\]\[2\] must be in \[0, 9\).*got 9",
    ),
    "indices of a float type": ({"indices": LISTS.float()}, "indices must be int64 or int32, got float32"),
    "indices of bytes": ({"indices": LISTS.to(torch.uint8)}, "indices must be int64 or int32"),
    "indices as booleans": ({"indices": LISTS.bool()}, "indices must be int64 or int32, got bool"),
    "indices of another batch": ({"indices": LISTS[:1]}, r"indices must have shape \[2, 4 or 2, n\], got int64"),
    "indices of other heads": ({"indices": LISTS[:, :3]}, r"indices must have shape \[2, 4 or 2, n\]"),
    "flat without offsets": ({"indices": FLAT}, r"indices \(without offsets\) must have 3 dimensions"),
    "offsets alone": ({"offsets": OFFSETS}, "offsets needs indices"),
    "probabilities alone": ({"inverse_probabilities": INVERSE}, "inverse_probabilities needs indices"),
    "lists with offsets": ({"indices": LISTS, "offsets": OFFSETS}, r"indices \(with offsets\) must have shape"),
    "offsets from 1": ({"indices": FLAT, "offsets": planted(1, OFFSETS, (0,))}, r"offsets\[0\] must be 0, got 1"),
    "offsets fall": ({"indices": FLAT, "offsets": planted(0, OFFSETS, (2,))}, r"offsets\[2\] must be in \[1, 4\].*got 0"),
    "offsets beyond": ({"indices": FLAT, "offsets": planted(5, OFFSETS, (4,))}, r"offsets\[4\] must be in \[3, 4\].*got 5"),
    "too few offsets": ({"indices": FLAT, "offsets": OFFSETS[:4]}, r"offsets must have.*\(9\).*\(5\) entries, got int64 \[4\]"),
    "no offsets": ({"indices": FLAT, "offsets": OFFSETS[:0]}, "offsets must have"),
    "offsets of a float type": ({"indices": FLAT, "offsets": OFFSETS.float()}, "offsets must be int64 or int32"),
    "flat beyond the keys": (
        {"indices": planted(10, FLAT, (3,)), "offsets": OFFSETS},
        r"indices\[3\] must be in \[0, 10\).*got 10",
    ),
    "probability 0": (
        {"indices": LISTS, "inverse_probabilities": planted(math.inf, INVERSE)},
        r"inverse_probabilities\[1\]\[2\]\[1\] must be > 0 and finite.*got inf",
    ),
    "inverse 0": (
        {"indices": LISTS, "inverse_probabilities": planted(0, INVERSE)},
        r"inverse_probabilities\[1\]\[2\]\[1\].*got 0",
    ),
    "inverse negative": ({"indices": LISTS, "inverse_probabilities": planted(-2, INVERSE)}, "got -2"),
    "inverse NaN": ({"indices": LISTS, "inverse_probabilities": planted(math.nan, INVERSE)}, "got -?nan"),
    "inverse too large": ({"indices": LISTS, "inverse_probabilities": INVERSE.double() * 1e300}, "in float32, got inf"),
    "inverse integers": ({"indices": LISTS, "inverse_probabilities": LISTS}, "inverse_probabilities must be floating point"),
    "inverse of another shape": ({"indices": LISTS, "inverse_probabilities": INVERSE[..., :2]}, "inverse_probabilities .* must have shape"),
    "length beyond": ({"lengths": torch.tensor([10, 11])}, r"lengths\[1\] must be in \[0, 10\], got 11"),
    "length negative": ({"lengths": torch.tensor([-1, 3])}, r"lengths\[0\] must be in \[0, 10\], got -1"),
    "lengths of another batch": ({"lengths": torch.tensor([3])}, r"lengths must have shape \[2\]"),
    "lengths of a float type": ({"lengths": torch.ones(2)}, "lengths must be int64 or int32"),
    "scale 0": ({"scale": 0.0}, "scale must be finite and not 0, got 0"),
    "scale NaN": ({"scale": math.nan}, "scale must be finite"),
    "scale beyond float32": ({"scale": 1e300}, r"scale must be finite and not 0 in float32, got 1e\+300"),
    "softcap 0": ({"softcap": 0.0}, "softcap must be finite and > 0, got 0"),
    "softcap beyond float32": ({"softcap": 1e300}, "softcap must be finite and > 0 in float32"),
    "sinks of other heads": ({"sink_logits": torch.zeros(3)}, r"sink_logits must have shape \[4\]"),
    "sinks of integers": ({"sink_logits": torch.zeros(4, dtype=torch.int64)}, "sink_logits must be floating point"),
    "q of another rank": ({"q": Q[0]}, "q must have 4 dimensions"),
    "k of another dim": ({"k": K[..., :7]}, "k must have shape"),
    "v of other keys": ({"v": V[:, :, :9]}, "v must have shape"),
    "types differ": ({"k": K.half()}, "k must have the type and device of q"),
    "float64": ({"q": Q.double(), "k": K.double(), "v": V.double()}, "q must be float32, float16 or bfloat16"),
    "heads do not divide": ({"q": Q[:, :3]}, r"query heads \(3\) must be a multiple of KV heads \(2\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_arguments_of_decode_are_named(name: str) -> None:
    changes, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message):
        ops.efficient_decode(**{"q": Q, "k": K, "v": V, **changes})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 4, 2, 8), (1, 2, 9, 8), (1, 2, 9, 8)), "q must hold one query, got 2"),
        (((1, 4, 1, 257), (1, 2, 9, 257), (1, 2, 9, 8)), r"dim must be in \[1, 256\], got 257"),
        (((1, 4, 1, 8), (1, 2, 9, 8), (1, 2, 9, 0)), r"value dim must be in \[1, 256\], got 0"),
        (((1, 17, 1, 8), (1, 1, 9, 8), (1, 1, 9, 8)), "query heads a KV head must be <= 16, got 17"),
        (((1, 1, 1, 1), (1, 1, 2**31, 1), (1, 1, 2**31, 1)), r"keys must be below 2\^31, got 2147483648"),
    ],
)
def test_what_decode_does_not_support_is_named(shapes: Tuple[Tuple[int, ...], ...], message: str) -> None:
    q, k, v = (torch.zeros(1, 1, 1, 1).expand(shape) for shape in shapes)
    with pytest.raises(NotImplementedError, match=message):
        ops.efficient_decode(q, k, v)


def test_hostile_arguments_of_the_others_are_named() -> None:
    scores = torch.zeros(2, 5)
    for k in (-1, 6):
        with pytest.raises(ValueError, match=rf"k must be in \[0, 5\], got {k}"):
            ops.exact_top_k(scores, k)
    with pytest.raises(ValueError, match="scores must have at least one dimension"):
        ops.exact_top_k(torch.tensor(1.0), 0)
    for dtype in (torch.float64, torch.int64, torch.bool):
        with pytest.raises(ValueError, match="scores must be float32, float16 or bfloat16"):
            ops.exact_top_k(scores.to(dtype), 1)
    out, lse = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3)
    for arguments, message in [
        ((out.double(), lse, out, lse), "out_a must be float32, float16 or bfloat16"),
        ((out, lse, out.half(), lse), "out_b must have the type and device of out_a"),
        ((out, lse, out, lse.double()), "lse_b must be float32"),
        ((out[0], lse, out, lse), "the first state's out must have 4 dimensions"),
        ((out, lse[:, :1], out, lse), "the first state's lse must have shape"),
        ((out, lse, out[:, :1], lse), "the second state's out must have shape"),
        ((out, lse, out, lse[0]), "the second state's lse must have shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            ops.merge_attention_states(*arguments)


def test_a_backward_pass_is_an_error() -> None:
    out, lse = ops.efficient_decode(Q.clone().requires_grad_(), K, V)
    for loss in (out.sum(), ops.merge_attention_states(out, lse, out, lse)[1].sum()):
        with pytest.raises(RuntimeError, match="not implemented"):
            loss.backward()
