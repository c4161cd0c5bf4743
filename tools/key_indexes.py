"""The two learned key indexes of the shipped model: scores, files and recall.

Shapes: q [layers, heads, queries, dim] and k [layers, KV heads, keys, dim], both after the rotary
embedding; scores [layers, heads, queries, keys], with one head where a selection serves all heads.
Query head h reads KV head h // (heads / KV heads).
"""

import dataclasses
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

# Keys that pipelines hold anyway; an index is judged by the keys between them.
SINK, LOCAL = 128, 128


def pair_scores(q, k):
    """Inner products of all queries and keys, [layers, heads, queries, keys]."""
    layers, heads, queries, width = q.shape
    grouped = q.reshape(layers, k.shape[1], -1, width)
    return (grouped @ k.transpose(-1, -2)).reshape(layers, heads, queries, k.shape[2])


def attention_logits(q, k):
    return pair_scores(q, k) / math.sqrt(q.shape[-1])


def mlp(x, linears):
    """Linear layers of one MLP a layer and head, silu between them, none after the last."""
    for i, (weight, bias) in enumerate(linears):
        x = (F.silu(x) if i else x) @ weight + bias.unsqueeze(-2)
    return x


def signs(x):
    return torch.where(x > 0, 1.0, -1.0)


@dataclasses.dataclass
class HashAttention:
    """HashAttention (arXiv 2412.14468): agreeing minus disagreeing bits of learned signatures.

    `query` and `key` list linear layers as (weight [layers, heads, in, out], bias [layers, heads,
    out]); keys have KV heads, so that a key's signature is stored once for its group.
    """

    query: list
    key: list
    FORMAT = "sah.hash_attention.v1"

    @classmethod
    def random(cls, layers, heads, kv_heads, dim, bits, seed):
        """Gaussian projections, the same for queries and keys: the index to compare with."""
        generator = torch.Generator().manual_seed(seed)
        projection = torch.randn(layers, 1, dim, bits, generator=generator)
        return cls(*([(projection.expand(-1, h, -1, -1), torch.zeros(layers, h, bits))]
                     for h in (heads, kv_heads)))

    def scores(self, q, k):
        return pair_scores(signs(mlp(q, self.query)), signs(mlp(k, self.key)))

    def to(self, device):
        return HashAttention(*([tuple(t.to(device) for t in linear) for linear in side]
                               for side in (self.query, self.key)))

    def save(self, path):
        tensors = {}
        for side in ("query", "key"):
            for i, (weight, bias) in enumerate(getattr(self, side)):
                for layer in range(len(weight)):
                    tensors[f"layers.{layer}.{side}.{i}.weight"] = weight[layer]
                    tensors[f"layers.{layer}.{side}.{i}.bias"] = bias[layer]
        save_tensors(tensors, path, {"format": self.FORMAT, "activation": "silu"})

    @classmethod
    def load(cls, path):
        tensors = load_tensors(path, cls.FORMAT)
        layers = layer_count(tensors)
        linears = 0
        while f"layers.0.query.{linears}.weight" in tensors:
            linears += 1

        def stacked(side, i, part):
            return torch.stack([tensors[f"layers.{layer}.{side}.{i}.{part}"]
                                for layer in range(layers)])

        return cls(*([(stacked(side, i, "weight"), stacked(side, i, "bias"))
                      for i in range(linears)] for side in ("query", "key")))


@dataclasses.dataclass
class LightningIndexer:
    """DeepSeek-V3.2's indexer: sum over indexer heads j of gate_j(t) * relu(q_j(t) . k(s)).

    Its inputs are the queries of all heads and the keys of all KV heads, each concatenated: query
    [layers, indexer heads, heads * dim, width], key [layers, KV heads * dim, width], gate [layers,
    heads * dim, indexer heads].
    """

    query: torch.Tensor
    key: torch.Tensor
    gate: torch.Tensor
    FORMAT = "sah.lightning_indexer.v1"

    @classmethod
    def random(cls, layers, heads, kv_heads, dim, indexer_heads, width, seed):
        """Gaussian weights with gates of both signs: the index to compare with."""
        generator = torch.Generator().manual_seed(seed)
        shapes = indexer_shapes(layers, heads, kv_heads, dim, indexer_heads, width)
        return cls(*(torch.randn(shape, generator=generator) for shape in shapes))

    def scores(self, q, k):
        x, y = concatenate_heads(q), concatenate_heads(k)
        products = (x.unsqueeze(1) @ self.query) @ (y @ self.key).unsqueeze(1).transpose(-1, -2)
        gates = (x @ self.gate).transpose(1, 2).unsqueeze(-1)
        return (gates * F.relu(products)).sum(1, keepdim=True)

    def to(self, device):
        return LightningIndexer(self.query.to(device), self.key.to(device), self.gate.to(device))

    def save(self, path):
        tensors = {f"layers.{layer}.{name}.weight": getattr(self, name)[layer]
                   for name in ("query", "key", "gate") for layer in range(len(self.query))}
        save_tensors(tensors, path, {"format": self.FORMAT})

    @classmethod
    def load(cls, path):
        tensors = load_tensors(path, cls.FORMAT)
        return cls(*(torch.stack([tensors[f"layers.{layer}.{name}.weight"]
                                  for layer in range(layer_count(tensors))])
                     for name in ("query", "key", "gate")))


def indexer_shapes(layers, heads, kv_heads, dim, indexer_heads, width):
    """Shapes of an indexer's query, key and gate weights."""
    return ((layers, indexer_heads, heads * dim, width), (layers, kv_heads * dim, width),
            (layers, heads * dim, indexer_heads))


def concatenate_heads(x):
    """[layers, heads, tokens, dim] -> [layers, tokens, heads * dim]."""
    return x.transpose(1, 2).flatten(2)


def layer_count(tensors):
    return 1 + max(int(name.split(".")[1]) for name in tensors)


def save_tensors(tensors, path, metadata):
    """Writes float16 tensors; refuses values that float16 cannot hold."""
    halves = {name: tensor.detach().to("cpu", torch.float16).contiguous()
              for name, tensor in tensors.items()}
    for name, half in halves.items():
        if not torch.isfinite(half).all():
            raise ValueError(f"{name} has values that are not finite in float16")
    save_file(halves, path, metadata=metadata)
    pathlib.Path(path).chmod(0o644)


def load_tensors(path, expected_format):
    with safe_open(path, "pt") as file:
        found = (file.metadata() or {}).get("format")
        if found != expected_format:
            raise ValueError(f"{path}: format must be {expected_format}, got {found}")
        return {name: file.get_tensor(name).float() for name in file.keys()}


def visible_and_eligible(positions, keys):
    """[queries, keys]: keys up to the query's own position; those that no pipeline holds anyway."""
    positions, index = positions[:, None], torch.arange(keys, device=positions.device)
    visible = index <= positions
    return visible, visible & (index >= SINK) & (index <= positions - LOCAL)


def budgets(positions, density):
    """[queries]: how many keys `density` of the visible keys is, at least one."""
    return ((positions + 1) * density).long().clamp(min=1)


def top_mask(scores, eligible, counts):
    """True at the counts[query] highest eligible scores of a row; ties go to the lowest index."""
    masked = scores.masked_fill(~eligible, -torch.inf)
    order = masked.sort(dim=-1, descending=True, stable=True).indices
    order = order[..., :int(counts.max())]
    taken = torch.arange(order.shape[-1], device=order.device) < counts[:, None]
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, taken.expand_as(order))
    return chosen & eligible


def recall(truth, attention, indexes, positions, density):
    """{name: (recall, mass)}, each [layers, heads], of the scores in `indexes` and of "true", the
    top keys by `truth`.

    Recall is the share of the true top keys that an index selects; mass is the attention on the
    selected keys over the attention on all eligible ones, both summed over the queries.
    """
    counts = budgets(positions, density)
    _, eligible = visible_and_eligible(positions, truth.shape[-1])
    best = top_mask(truth, eligible, counts)
    found = best.sum(-1).clamp(min=1)
    available = (attention * eligible).sum((-1, -2)).clamp(min=1e-30)
    results = {}
    for name, scores in {"true": truth, **indexes}.items():
        chosen = top_mask(scores, eligible, counts)
        results[name] = (((chosen & best).sum(-1) / found).mean(-1),
                         (attention * chosen).sum((-1, -2)) / available)
    return results
