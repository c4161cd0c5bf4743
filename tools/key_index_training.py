"""Trainable forms of the key indexes: standardised inputs, a differentiable score and a loss each.

Shapes are those of key_indexes.py. q and k are float32, positions [queries] says where they stand.
"""

import torch
import torch.nn.functional as F

import key_indexes as indexes

HIDDEN, BITS = 64, 32
INDEXER_HEADS, INDEXER_WIDTH = 4, 32
HELD_WEIGHT = 0.1       # of keys that pipelines hold anyway, against 1 for all others
RANKING_WEIGHT = 0.3    # of the indexer's ranking loss, against 1 for its divergence
ATTENTION_WEIGHT = 1.0  # of a true key's attention, against its equal share of the budget


def nth_highest(scores, eligible, counts):
    """The counts[query]-th highest eligible score of each row, [..., queries, 1]."""
    top = scores.masked_fill(~eligible, -torch.inf).topk(int(counts.max()), sorted=True).values
    return top.gather(-1, (counts - 1)[:, None].expand(*top.shape[:-1], 1))


def ranking_loss(scores, true, eligible, shares):
    """Mean over the rows of how far each true key is from outscoring all eligible others together.

    A true key counts by its share, one that pipelines hold anyway by HELD_WEIGHT of it.
    """
    others = scores.masked_fill(true | ~eligible, -1e30).logsumexp(-1, keepdim=True)
    weights = true * torch.where(eligible, 1.0, HELD_WEIGHT) * shares
    return (weights * F.softplus(others - scores)).sum(-1).mean()


class StandardisedMlp(torch.nn.Module):
    """One MLP a layer and head over inputs of mean 0 and variance 1; linears() takes them as is."""

    def __init__(self, samples, sizes):
        super().__init__()
        layers, heads = samples.shape[:2]
        self.register_buffer("mean", samples.mean(2, keepdim=True))
        self.register_buffer("deviation", samples.std(2, keepdim=True).clamp(min=1e-4))
        self.weights = torch.nn.ParameterList(
            torch.randn(layers, heads, a, b) / a ** 0.5 for a, b in zip(sizes, sizes[1:]))
        self.biases = torch.nn.ParameterList(torch.zeros(layers, heads, b) for b in sizes[1:])

    def linears(self):
        weights, biases = list(self.weights), list(self.biases)
        weights[0] = weights[0] / self.deviation.transpose(-1, -2)
        biases[0] = biases[0] - (self.mean @ weights[0]).squeeze(-2)
        return list(zip(weights, biases))


class HashAttentionTrainer(torch.nn.Module):
    """Ranks each true top key above all others, with signs whose gradient is that of tanh."""

    def __init__(self, q, k):
        super().__init__()
        sizes = (q.shape[-1], HIDDEN, BITS)
        self.query, self.key = StandardisedMlp(q, sizes), StandardisedMlp(k, sizes)
        self.log_slope = torch.nn.Parameter(torch.full((*q.shape[:2], 1, 1), -1.0))

    def index(self):
        return indexes.HashAttention(self.query.linears(), self.key.linears())

    @staticmethod
    def bits(x):
        soft = torch.tanh(x)
        return soft + (indexes.signs(x) - soft).detach()

    def loss(self, q, k, positions, density):
        counts = indexes.budgets(positions, density)
        visible, eligible = indexes.visible_and_eligible(positions, k.shape[2])
        with torch.no_grad():
            logits = indexes.attention_logits(q, k).masked_fill(~visible, -torch.inf)
            true = logits >= nth_highest(logits, eligible, counts)
            shares = 1.0 / counts[:, None] + ATTENTION_WEIGHT * logits.softmax(-1)
        index = self.index()
        scores = indexes.pair_scores(self.bits(indexes.mlp(q, index.query)),
                                     self.bits(indexes.mlp(k, index.key))) * self.log_slope.exp()
        return ranking_loss(scores, true & visible, eligible, shares)


class LightningIndexerTrainer(torch.nn.Module):
    """Divergence from the attention of all heads together, as DeepSeek-V3.2, and a little of the
    ranking loss, which the share of true keys found gains by."""

    def __init__(self, q, k):
        super().__init__()
        x, y = indexes.concatenate_heads(q), indexes.concatenate_heads(k)
        for name, values in (("x", x), ("y", y)):
            scale = values.square().mean(1).sqrt().clamp(min=1e-4) * values.shape[2] ** 0.5
            self.register_buffer(f"{name}_scale", scale.unsqueeze(-1))
        query, key, gate = (torch.randn(shape) for shape in indexes.indexer_shapes(
            len(q), q.shape[1], k.shape[1], q.shape[3], INDEXER_HEADS, INDEXER_WIDTH))
        # There are no biases. Without its part along the mean key, a key is as often on either side
        # of the relu; along the mean query, a gate is 1 for most queries.
        mean = F.normalize(y.mean(1).unsqueeze(-1) / self.y_scale, dim=1)
        key = key - mean @ (mean.transpose(-1, -2) @ key)
        mean = x.mean(1).unsqueeze(-1) / self.x_scale
        gate = 0.1 * gate + mean / mean.square().sum(1, keepdim=True)
        self.query, self.key, self.gate = map(torch.nn.Parameter, (query, key, gate))

    def index(self):
        query = self.query / self.x_scale.unsqueeze(1) / INDEXER_WIDTH ** 0.5
        return indexes.LightningIndexer(query, self.key / self.y_scale, self.gate / self.x_scale)

    def loss(self, q, k, positions, density):
        counts = indexes.budgets(positions, density)
        visible, eligible = indexes.visible_and_eligible(positions, k.shape[2])
        with torch.no_grad():
            logits = indexes.attention_logits(q, k).masked_fill(~visible, -torch.inf)
            target = logits.softmax(-1).mean(1)
            true = target >= nth_highest(target, eligible, counts)
        scores = self.index().scores(q, k).squeeze(1)
        ranking = ranking_loss(scores, true & visible, eligible, 1.0 / counts[:, None])
        return (divergence(target, scores, eligible).mean()
                + HELD_WEIGHT * divergence(target, scores, visible).mean()
                + RANKING_WEIGHT * ranking)


def divergence(target, scores, keys):
    """KL from `target`, normalised over `keys`, to the softmax of `scores` over them."""
    target = target * keys
    target = target / target.sum(-1, keepdim=True).clamp(min=1e-30)
    predicted = scores.masked_fill(~keys, -1e30).log_softmax(-1)
    return (torch.xlogy(target, target) - target * predicted.masked_fill(~keys, 0.0)).sum(-1)


LEARNING_RATES = {"hash_attention": 5e-3, "lightning_indexer": 1.5e-2}
TRAINERS = {"hash_attention": HashAttentionTrainer, "lightning_indexer": LightningIndexerTrainer}
