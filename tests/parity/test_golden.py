"""The Python package against outputs of the Python hub: every pipeline of the golden file, through the hub's own calls."""

from __future__ import annotations

import json
import math
import pathlib

import pytest
import torch
from config_types import CONFIG_TYPES

from sparse_attention_hub.sparse_attention import ResearchAttention, ResearchAttentionConfig

GOLDEN = json.loads(pathlib.Path("tests/golden/research_attention.json").read_text())


def generate(shape: tuple[int, ...], a: float, b: float, scale: float) -> torch.Tensor:
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(a * index + b) * scale).float().view(shape)


def hash_weights() -> dict[int, dict[str, list[torch.Tensor]]]:
    layer: dict[str, list[torch.Tensor]] = {}
    for side, a, offset in (("query", (0.31, 0.43, 0.17, 0.19), 0.0), ("key", (0.29, 0.41, 0.23, 0.27), 0.4)):
        layer[f"{side}_matrix"] = [
            generate((4, 8, 6), a[0], 0.05 + offset, 1),
            generate((4, 6, 5), a[1], 0.15 + offset, 1),
        ]
        layer[f"{side}_bias"] = [
            generate((4, 6), a[2], 0.25 + offset, 0.1),
            generate((4, 5), a[3], 0.35 + offset, 0.1),
        ]
    return {0: layer}


def config_of(entry: dict[str, object], folder: pathlib.Path) -> object:
    fields = {name: value for name, value in entry.items() if name != "type"}
    if entry["type"] == "double_sparsity_top_k":
        path = folder / "channels.json"
        path.write_text(json.dumps(GOLDEN["double_sparsity_channels"]))
        fields["sorted_channel_file"] = str(path)
    if entry["type"] == "hash_attention_top_k":
        del fields["hat_weight_file"]
        fields |= {"hat_bits": 5, "hat_mlp_layers": 2, "hat_mlp_hidden_size": 6, "hat_weights": hash_weights()}
    return CONFIG_TYPES[str(entry["type"])](**fields)


def run(case: dict[str, object], folder: pathlib.Path) -> tuple[torch.Tensor, torch.Tensor, object]:
    queries = generate((1, 4, 2, 8), 0.37, 0.10, 2)
    keys = generate((1, 2, 24, 8), 0.53, 0.20, 2)
    values = generate((1, 2, 24, 8), 0.71, 0.30, 1)
    attention_mask = None
    if case.get("causal"):
        attention_mask = torch.zeros(1, 1, 2, 24)
        attention_mask[0, 0, 0, 23] = torch.finfo(torch.float32).min
    attention = ResearchAttention.create_from_config(
        ResearchAttentionConfig([config_of(entry, folder) for entry in case["maskers"]])
    )
    extra = {"s_aux": torch.tensor(case["sinks"])} if "sinks" in case else {}
    step = (queries, keys, values, attention_mask, 8**-0.5, 0.0)
    layer = case.get("layer", 0)
    if "torch_seed" in case:
        torch.manual_seed(case["torch_seed"])
    mask = attention.build_mask(*step, sparse_meta_data={}, layer_idx=layer)
    if "torch_seed" in case:
        torch.manual_seed(case["torch_seed"])
    output, weights = attention.custom_attention(None, *step, sparse_meta_data={}, layer_idx=layer, **extra)
    return output, weights, mask


def weights_of(rows: list[str]) -> torch.Tensor:
    dense = torch.zeros(len(rows), 24)
    for row, text in enumerate(rows):
        for entry in text.split():
            key, _, weight = entry.partition(":")
            dense[row, int(key)] = float(weight or 1)
    return dense.view(1, 4, 2, 24)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_case(case: dict[str, object], tmp_path: pathlib.Path) -> None:
    output, weights, mask = run(case, tmp_path)
    assert output.shape == (1, 2, 4, 8)
    assert weights.shape == (1, 4, 2, 24)
    compared = 0
    if case.get("ties"):  # of keys whose scores are equal the hub keeps others, as many
        expected = weights_of(case["mask"])
        assert torch.equal(mask.get_dense_mask().sum(-1), expected.sum(-1))
        return
    if case.get("mask") == "full":
        assert mask.is_full_mask()
        compared += 1
    elif case.get("mask") == "empty":
        assert mask.is_empty_mask()
        compared += 1
    elif "mask" in case:
        torch.testing.assert_close(mask.get_dense_mask(), weights_of(case["mask"]), atol=1e-6, rtol=0)
        compared += 1
    if "density" in case:
        assert mask.get_density() == pytest.approx(case["density"], abs=1e-7)
    torch.testing.assert_close(output.reshape(8, 8), torch.tensor(case["out"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights.sum(-1).flatten(), torch.tensor(case["w_row_sums"]), atol=1e-5, rtol=0)
    assert compared == ("mask" in case)


def test_every_case_is_run() -> None:
    assert len(GOLDEN["cases"]) == 38
