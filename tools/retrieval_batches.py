"""Endless training batches, and the samples and batches of the held-out check."""

import pathlib

import numpy as np
import torch
from tokenizers import Tokenizer

import retrieval_tasks as tasks

CORPUS_SHARES = {"austen": 0.12, "bible": 0.10, "python": 0.25, "linux": 0.53}
PLAIN_SHARE, WORDS_SHARE, TASK_SHARE = 0.06, 0.16, 0.16
HAYSTACK_TASKS = [task for task in tasks.TASKS if task != "common_words"]


def load_makers(work):
    """(training, held-out) sample makers from what `prepare` wrote."""
    work = pathlib.Path(work)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    vocabulary = tasks.Vocabulary(tokenizer)
    with np.load(work / "tokens.npz") as tokens:
        train = tasks.Haystack(tokenizer, [tokens[name] for name in CORPUS_SHARES],
                               list(CORPUS_SHARES.values()))
        held_out = tasks.Haystack(tokenizer, [tokens["held_out"]], [1.0])
    return (tasks.SampleMaker(vocabulary, train),
            tasks.SampleMaker(vocabulary, held_out, held_out=True))


class TrainingBatches(torch.utils.data.IterableDataset):
    """(ids, weights) of [tokens / length, length + 1]; `longest` is a shared value that the trainer
    sets, `shortest` bounds the lengths from below."""

    def __init__(self, maker, longest, tokens, shortest, rank):
        self.maker, self.longest, self.tokens = maker, longest, tokens
        self.shortest, self.rank = shortest, rank

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([20, self.rank, worker.id])
        batch = worker.id
        while True:
            # The length must be equal on all ranks, so it comes from the batch's own number.
            draw = np.random.default_rng(batch).random()
            halvings = 0 if draw < 0.7 else 1 if draw < 0.85 else 2 if draw < 0.93 else 3
            yield self._make(rng, max(self.longest.value >> halvings, self.shortest))
            batch += worker.num_workers

    def _make(self, rng, length):
        rows = self.tokens // length
        # Answers are a smaller share of long contexts, so their weight grows there.
        answer_weight = 12.0 * max(1.0, length / 2048) ** 0.5
        ids = np.empty((rows, length + 1), np.int16)
        weights = np.empty((rows, length + 1), np.float16)
        for row in range(rows):
            sample = self._draw(rng, length + 1, answer_weight)
            ids[row], weights[row] = sample.ids, sample.weights
        return torch.from_numpy(ids), torch.from_numpy(weights)

    def _draw(self, rng, length, answer_weight):
        kind = rng.random()
        if kind < PLAIN_SHARE:
            return self.maker.plain(rng, length)
        kind -= PLAIN_SHARE
        if kind < WORDS_SHARE:
            return self.maker.task(rng, "common_words", length, answer_weight)
        kind -= WORDS_SHARE
        if kind < TASK_SHARE:
            return self.maker.task(rng, rng.choice(HAYSTACK_TASKS), length, answer_weight)
        return self.maker.mixed(rng, length, answer_weight)


_ANSWER_WEIGHT, _TEXT_WEIGHT = 2.0, 1.0  # marks which tokens a check looks at


def check(model, maker, contexts, samples, rank=0, world=1, seed=7):
    """{context: {task: exact-match accuracy, "text": nats a token}} under greedy decoding.

    Greedy decoding gives the expected answer if and only if every answer token, end of text
    included, is the most likely one after the right tokens before it: one pass decides.
    """
    results = {}
    for context in contexts:
        cells, per_batch = {}, max(1, 131072 // context)
        for index, task in enumerate(tasks.TASKS + ("text",)):
            made = []
            for number in range(rank, samples, world):
                rng = np.random.default_rng([seed, context, index, number])
                made.append(maker.plain(rng, context) if task == "text" else
                            maker.task(rng, task, context, _ANSWER_WEIGHT, budget=context))
            measure = _text_loss if task == "text" else _right_answers
            score = sum(measure(model, *_padded(made[start:start + per_batch], model.device))
                        for start in range(0, len(made), per_batch))
            if world > 1:
                torch.distributed.all_reduce(score)
            cells[task] = round(float(score[0] / score[1]), 4)
        results[context] = cells
        if rank == 0:
            print(f"check {context}: {cells}", flush=True)
    return results


def _padded(samples, device):
    longest = max(len(s.ids) for s in samples)
    ids = np.ones((len(samples), longest), np.int64)
    weights = np.zeros((len(samples), longest), np.float32)
    for row, sample in enumerate(samples):
        ids[row, :len(sample.ids)], weights[row, :len(sample.ids)] = sample.ids, sample.weights
    return torch.from_numpy(ids).to(device), torch.from_numpy(weights).to(device)


@torch.no_grad()
def _logits_before(model, ids, asked):
    """Logits of the positions just before the marked tokens."""
    before = torch.zeros_like(asked)
    before[:, :-1] = asked[:, 1:]
    return model.logits(model.hidden(ids)[before.reshape(-1)])


def _right_answers(model, ids, weights):
    asked = weights == _ANSWER_WEIGHT
    wrong = torch.zeros(len(ids), device=ids.device)
    misses = _logits_before(model, ids, asked).argmax(-1) != ids[asked]
    wrong.index_add_(0, torch.nonzero(asked)[:, 0], misses.float())
    return torch.stack([(wrong == 0).sum(), torch.full_like(ids[0, 0], len(ids))]).double()


def _text_loss(model, ids, weights):
    asked = weights == _TEXT_WEIGHT
    loss = torch.nn.functional.cross_entropy(_logits_before(model, ids, asked), ids[asked],
                                             reduction="sum")
    return torch.stack([loss.double(), asked.sum().double()])
