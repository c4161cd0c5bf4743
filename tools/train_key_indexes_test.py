"""Tests of the key indexes' scores, losses, files and recall, and of the weights that ship."""
import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))
import key_index_training as training  # noqa: E402
import key_indexes as indexes  # noqa: E402
import train_key_indexes as tool  # noqa: E402

MODEL = tool.ROOT / "models/retrieval-6m"
LAYERS, HEADS, KV_HEADS, DIM = 2, 4, 2, 6


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def queries_and_keys(queries=3, keys=5):
    return (random(LAYERS, HEADS, queries, DIM), random(LAYERS, KV_HEADS, keys, DIM, seed=2))


def every_pair(scores):
    """(layer, head, query, key, score) of a scores tensor."""
    for place in np.ndindex(*scores.shape):
        yield *place, float(scores[place])


def test_hash_attention_counts_equal_bits_of_the_group_s_key():
    q, k = queries_and_keys()
    query = [(random(LAYERS, HEADS, DIM, 4), random(LAYERS, HEADS, 4)),
             (random(LAYERS, HEADS, 4, 7), random(LAYERS, HEADS, 7))]
    key = [(random(LAYERS, KV_HEADS, DIM, 5), random(LAYERS, KV_HEADS, 5)),
           (random(LAYERS, KV_HEADS, 5, 7), random(LAYERS, KV_HEADS, 7))]

    def bits(x, linears, layer, head):
        for i, (weight, bias) in enumerate(linears):
            x = (x * torch.sigmoid(x) if i else x) @ weight[layer, head] + bias[layer, head]
        return x > 0

    scores = indexes.HashAttention(query, key).scores(q, k)
    assert scores.shape == (LAYERS, HEADS, 3, 5)
    for layer, head, t, s, score in every_pair(scores):
        ours = bits(q[layer, head, t], query, layer, head)
        theirs = bits(k[layer, head // 2, s], key, layer, head // 2)
        assert score == 2 * int((ours == theirs).sum()) - 7


def test_lightning_indexer_sums_gated_products_of_all_heads():
    q, k = queries_and_keys()
    shapes = indexes.indexer_shapes(LAYERS, HEADS, KV_HEADS, DIM, 3, 4)
    query, key, gate = (random(*shape) for shape in shapes)
    scores = indexes.LightningIndexer(query, key, gate).scores(q, k)
    assert scores.shape == (LAYERS, 1, 3, 5)
    for layer, _, t, s, score in every_pair(scores):
        x, y = q[layer, :, t].flatten(), k[layer, :, s].flatten()
        products = [float((query[layer, j].T @ x) @ (key[layer].T @ y)) for j in range(3)]
        expected = sum(float(gate[layer, :, j] @ x) * max(0.0, products[j]) for j in range(3))
        assert score == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_files_keep_names_shapes_and_metadata(tmp_path):
    path = tmp_path / "index.safetensors"
    index = indexes.HashAttention.random(LAYERS, HEADS, KV_HEADS, DIM, 8, seed=3)
    index.save(path)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "sah.hash_attention.v1", "activation": "silu"}
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}
    assert shapes["layers.1.query.0.weight"] == (HEADS, DIM, 8)
    assert shapes["layers.0.key.0.bias"] == (KV_HEADS, 8)
    assert torch.equal(indexes.HashAttention.load(path).key[0][0], index.key[0][0].half().float())
    with pytest.raises(ValueError, match="format must be sah.lightning_indexer.v1"):
        indexes.LightningIndexer.load(path)
    indexer = indexes.LightningIndexer.random(LAYERS, HEADS, KV_HEADS, DIM, 3, 4, seed=3)
    indexer.save(path)
    loaded = indexes.LightningIndexer.load(path)
    for name in ("query", "key", "gate"):
        assert torch.equal(getattr(loaded, name), getattr(indexer, name).half().float())
    indexer.gate[0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="layers.0.gate.weight has values that are not finite"):
        indexer.save(path)


def test_of_equal_scores_the_lowest_indexes_are_taken():
    scores = torch.tensor([[9.0, 1, 2, 2, 2, 1], [1, 1, 1, 1, 1, 1]])
    eligible = torch.tensor([[False, True, True, True, True, True]] * 2)
    chosen = indexes.top_mask(scores, eligible, torch.tensor([2, 4]))
    assert chosen.tolist() == [[False, False, True, True, False, False],
                               [False, True, True, True, True, False]]
    chosen = indexes.top_mask(torch.arange(3000.0)[None] % 2, torch.ones(1, 3000, dtype=torch.bool),
                              torch.tensor([40]))
    assert chosen.nonzero()[:, 1].tolist() == list(range(1, 80, 2))


def test_a_budget_larger_than_the_eligible_keys_takes_no_others():
    eligible = torch.tensor([[True, False, False, True]])
    assert torch.equal(indexes.top_mask(torch.ones(1, 4), eligible, torch.tensor([3])), eligible)


def test_recall_and_mass_of_a_small_case(monkeypatch):
    monkeypatch.setattr(indexes, "SINK", 1)
    monkeypatch.setattr(indexes, "LOCAL", 2)
    # Query 7 sees 8 keys, of which 1 to 5 are eligible; a quarter of 8 is 2. Query 3 may choose
    # key 1 alone, and its budget is 1.
    truth = torch.tensor([[9.0, 4, 3, 2, 1, 0, 9, 9], [9.0, 0, 9, 9, 9, 9, 9, 9]])[None, None]
    attention = torch.tensor([[0.5, 0.2, 0.1, 0.04, 0.03, 0.03, 0.05, 0.05],
                              [0.4, 0.2, 0.2, 0.2, 0, 0, 0, 0]])[None, None]
    index = torch.tensor([[9.0, 5, 0, 4, 3, 2, 9, 9], [0.0] * 8])[None, None]
    found = indexes.recall(truth, attention, {"index": index}, torch.tensor([7, 3]), 0.25)
    assert found["true"][0].item() == 1.0
    assert found["index"][0].item() == pytest.approx((0.5 + 1.0) / 2)
    assert found["true"][1].item() == pytest.approx((0.3 + 0.2) / (0.4 + 0.2))
    assert found["index"][1].item() == pytest.approx((0.24 + 0.2) / (0.4 + 0.2))


def test_standardisation_is_folded_into_the_first_layer():
    samples = 3.0 + 5.0 * random(LAYERS, KV_HEADS, 200, DIM)
    stack = training.StandardisedMlp(samples, (DIM, 4, 7))
    with torch.no_grad():
        stack.biases[0].add_(random(LAYERS, KV_HEADS, 4))
    expected = indexes.mlp((samples - samples.mean(2, keepdim=True)) / samples.std(2, keepdim=True),
                           list(zip(stack.weights, stack.biases)))
    assert torch.allclose(indexes.mlp(samples, stack.linears()), expected, atol=1e-4)


def test_divergence_is_zero_for_the_target_itself_and_ignores_other_keys():
    target = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    keys = torch.tensor([[True, False, True, True]])
    scores = target.log() + 3.0
    scores[0, 1] = 100.0
    assert training.divergence(target, scores, keys).item() == pytest.approx(0.0, abs=1e-6)
    uniform = training.divergence(target, torch.zeros(1, 4), keys).item()
    shares = np.array([1, 3, 4]) / 8
    assert uniform == pytest.approx(float((shares * np.log(3 * shares)).sum()), abs=1e-6)


def structured(queries=48, keys=450):
    """Queries and keys whose order is decided in 6 of 32 dimensions, beside idle offsets."""
    scale = torch.cat([torch.full((6,), 2.0), torch.full((26,), 0.1)])
    offset = 2.0 * random(32, seed=8)
    q = random(1, 2, queries, 32, seed=4) * scale + offset
    k = random(1, 1, keys, 32, seed=5) * scale + offset
    return q, k, torch.arange(keys - queries, keys)


@pytest.mark.parametrize("method", ["hash_attention", "lightning_indexer"])
def test_training_finds_structure_that_random_projections_miss(method):
    q, k, positions = structured()
    torch.manual_seed(1)
    trainer = training.TRAINERS[method](q, k)
    optimizer = torch.optim.Adam(trainer.parameters(), lr=5e-3)
    for _ in range(100):
        loss = trainer.loss(q, k, positions, 0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = indexes.attention_logits(q, k)
    visible, _ = indexes.visible_and_eligible(positions, k.shape[2])
    attention = logits.masked_fill(~visible, -torch.inf).softmax(-1)
    if method == "hash_attention":
        random_index = indexes.HashAttention.random(1, 2, 1, 32, 32, seed=9)
    else:
        attention = attention.sum(1, keepdim=True)
        logits = attention
        random_index = indexes.LightningIndexer.random(1, 2, 1, 32, 4, 32, seed=9)
    with torch.no_grad():
        scores = {"trained": trainer.index().scores(q, k), "random": random_index.scores(q, k)}
    found = indexes.recall(logits, attention, scores, positions, 0.05)
    trained, untrained = (found[name][0].mean().item() for name in ("trained", "random"))
    assert trained > 0.5
    assert trained > 1.5 * untrained


@pytest.fixture(scope="module")
def maker():
    return tool.held_out_maker(MODEL, tool.ROOT / "evaluation/haystack/persuasion.txt")


def test_contexts_depend_on_seed_and_number_alone(maker):
    contexts = tool.Contexts(maker, [2048, 4096], seed=3, count=40)
    again = tool.Contexts(maker, [2048, 4096], seed=3, count=40)
    kinds = set()
    for item in (7, 2, 30):
        (ids, positions), (same_ids, same_positions) = contexts[item], again[item]
        assert np.array_equal(ids, same_ids) and np.array_equal(positions, same_positions)
        assert len(ids) in (2048, 4096)
        assert len(positions) == tool.PAIRS_PER_STEP // len(ids)
        assert 512 <= positions.min() and positions.max() < len(ids)
        kinds.add(bytes(ids))
    assert len(kinds) == 3
    assert not np.array_equal(tool.Contexts(maker, [2048], 4, 1)[0][0],
                              tool.Contexts(maker, [2048], 3, 1)[0][0])


@pytest.mark.parametrize("method,index_class,rows", [
    ("hash_attention", indexes.HashAttention, {"layers.5.query.1.weight": (8, 64, 32),
                                               "layers.0.key.0.weight": (2, 64, 64)}),
    ("lightning_indexer", indexes.LightningIndexer, {"layers.5.query.weight": (4, 512, 32),
                                                     "layers.0.key.weight": (128, 32),
                                                     "layers.0.gate.weight": (512, 4)}),
])
def test_shipped_files_are_small_and_of_the_stated_shapes(method, index_class, rows):
    path = MODEL / f"{method}.safetensors"
    assert path.stat().st_size < 1_200_000
    with safe_open(path, "pt") as file:
        assert file.metadata()["format"] == index_class.FORMAT
        for name, shape in rows.items():
            tensor = file.get_tensor(name)
            assert tuple(tensor.shape) == shape and tensor.dtype == torch.float16


def test_the_shipped_indexes_recall_more_than_random_ones(maker):
    """2,048 tokens of the held-out novel; the figures at 8,192 are in docs/index_weights.md."""
    model = tool.RecordingModel(MODEL, torch.device("cpu"))
    args = argparse.Namespace(samples=1, context=2048, queries=32, density=0.05, seed=11)
    for method, (trained, untrained) in tool.index_pairs(MODEL, args.seed).items():
        found = tool.measure(model, maker, "text", {"trained": trained, "random": untrained},
                             method == "lightning_indexer", args)
        trained, untrained = (found[name][0].mean().item() for name in ("trained", "random"))
        assert trained > 1.5 * untrained, method
