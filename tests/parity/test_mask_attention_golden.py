"""Attention under the Python hub's own masks gives the Python hub's outputs (tests/golden)."""

from __future__ import annotations

import pytest
import torch

from sparse_attention_hub.sparse_attention.utils.mask import Mask
from sparse_attention_hub.sparse_attention.utils.mask_attention_utils import (
    get_masked_attention_output,
    get_true_attention_output,
)

import golden

SHAPE = (1, 4, 2, 24)
CASES = {case["name"]: case for case in golden.load("research_attention")["cases"]}


def mask_of(case):
    rows = case["mask"]
    if rows == "full":
        return Mask.create_full_mask(SHAPE)
    if rows == "empty":
        return Mask.create_empty_mask(SHAPE)
    weights = torch.zeros(8, 24)
    for row, text in enumerate(rows):
        for entry in text.split():
            column, _, weight = entry.partition(":")
            weights[row, int(column)] = float(weight) if weight else 1.0
    return Mask.create_mask_from_dense_mask(SHAPE, weights.view(SHAPE))


def numbers(lines):
    return torch.tensor([[float(x) for x in line.split()] if isinstance(line, str) else line for line in lines])


def run(case, mask):
    queries, keys, values = golden.inputs()
    bias = golden.causal() if case.get("causal") else None
    sinks = torch.tensor([float(x) for x in case["sinks"]]) if "sinks" in case else None
    out, weights = get_masked_attention_output(
        None, queries, keys, values, bias, sinks, golden.SCALING, 0.0, mask, return_attention_weights=True
    )
    true, _ = get_true_attention_output(None, queries, keys, values, bias, golden.SCALING, 0.0)
    return out, weights, true


def test_inputs():
    expected = golden.load("research_attention")["inputs_check"]
    queries, keys, values = golden.inputs()
    torch.testing.assert_close(queries.flatten()[:8], torch.tensor(expected["q_first8"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(keys.flatten()[:8], torch.tensor(expected["k_first8"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(values.flatten()[-4:], torch.tensor(expected["v_last4"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if "mask" in CASES[name]])
def test_output_density_and_error(name):
    case = CASES[name]
    mask = mask_of(case)
    out, weights, true = run(case, mask)
    assert mask.get_density() == pytest.approx(case["density"], abs=1e-6)
    torch.testing.assert_close(out.reshape(8, 8), numbers(case["out"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1).flatten(), torch.tensor(case["w_row_sums"]), rtol=0, atol=1e-5)
    error = float((out - true).norm() / true.norm())
    assert error == pytest.approx(case["rel_error"], abs=2e-5)


def test_sinks():
    case = CASES["sinks"]
    out, weights, _ = run(case, mask_of(CASES["sink3_local4_causal"]))
    torch.testing.assert_close(out.reshape(8, 8), numbers(case["out"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1).flatten(), torch.tensor(case["w_row_sums"]), rtol=0, atol=1e-5)
