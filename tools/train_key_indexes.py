#!/usr/bin/env python3
"""Trains the key indexes that ship with models/retrieval-6m, and measures what they recall.

  train_key_indexes.py hash_attention --work W      -> hash_attention.safetensors
  train_key_indexes.py lightning_indexer --work W   -> lightning_indexer.safetensors
  train_key_indexes.py check                        recall of both on held-out text and tasks

W is the folder that `train_retrieval_model.py prepare --work W` filled; `check` needs only the
repository. Training reads queries and keys off the frozen model while it reads training texts and
tasks. docs/index_weights.md tells what was trained and what came out.
"""

import argparse
import pathlib
import sys
import time

import numpy as np
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import key_indexes as indexes  # noqa: E402
import key_index_training as training  # noqa: E402
import retrieval_batches  # noqa: E402
import retrieval_model  # noqa: E402
import retrieval_tasks as tasks  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAIRS_PER_STEP = 1 << 20  # queries times keys, so that a step costs the same at every context
PLAIN_SHARE, WORDS_SHARE, TASK_SHARE = 0.3, 0.1, 0.15
STATISTICS_CONTEXTS = 4
CHECKED_TASKS = ("niah_multikey", "variable_tracking")


class RecordingModel(retrieval_model.Model):
    """The frozen model, keeping what attention is given: q and k after the rotary embedding."""

    def __init__(self, folder, device):
        super().__init__(retrieval_model.load_parameters(folder, device), device, False)
        self.recorded = []

    def attend(self, q, k, v):
        self.recorded.append((q, k))
        return super().attend(q, k, v)

    @torch.no_grad()
    def queries_and_keys(self, ids):
        """ids [length] -> q [layers, heads, length, dim] and k [layers, KV heads, length, dim]."""
        self.recorded = []
        self.hidden(torch.as_tensor(ids.astype(np.int64), device=self.device)[None])
        return tuple(torch.cat(side) for side in zip(*self.recorded))


class Contexts(torch.utils.data.Dataset):
    """Training contexts: item i is (ids [length], positions of the queries to learn from).

    Half of the queries of a task are those of its questions and answers, which decode sparsely.
    """

    def __init__(self, maker, lengths, seed, count):
        self.maker, self.lengths, self.seed, self.count = maker, lengths, seed, count

    def __len__(self):
        return self.count

    def __getitem__(self, item):
        rng = np.random.default_rng([self.seed, item])
        length = int(rng.choice(self.lengths))
        sample, kind = self._draw(rng, length)
        queries = PAIRS_PER_STEP // length
        asked = np.flatnonzero(sample.weights >= 1.0) if kind != "plain" else np.array([], int)
        asked = rng.choice(asked, min(queries // 2, len(asked)), replace=False)
        others = rng.integers(min(length // 4, 1024), len(sample.ids), queries - len(asked))
        return sample.ids, np.concatenate([asked, others])

    def _draw(self, rng, length):
        kind = rng.choice(["plain", "words", "task", "mixed"],
                          p=[PLAIN_SHARE, WORDS_SHARE, TASK_SHARE,
                             1 - PLAIN_SHARE - WORDS_SHARE - TASK_SHARE])
        if kind == "plain":
            return self.maker.plain(rng, length), kind
        if kind == "mixed":
            return self.maker.mixed(rng, length, 1.0), kind
        task = "common_words" if kind == "words" else rng.choice(retrieval_batches.HAYSTACK_TASKS)
        return self.maker.task(rng, task, length, 1.0), kind


def train(args):
    begun = time.time()
    shipped, used = (pathlib.Path(folder) / "tokenizer.json" for folder in (args.model, args.work))
    if shipped.read_bytes() != used.read_bytes():
        sys.exit(f"{used} differs from {shipped}: the token arrays are not the model's")
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = RecordingModel(args.model, device)
    maker, _ = retrieval_batches.load_makers(args.work)
    contexts = Contexts(maker, args.contexts, args.seed, args.steps + STATISTICS_CONTEXTS)
    loader = iter(torch.utils.data.DataLoader(
        contexts, batch_size=None, collate_fn=lambda item: item, num_workers=args.workers,
        multiprocessing_context="fork" if args.workers else None))

    seen = [model.queries_and_keys(next(loader)[0]) for _ in range(STATISTICS_CONTEXTS)]
    q, k = (torch.cat(side, dim=2).float().cpu() for side in zip(*seen))
    torch.manual_seed(args.seed)
    index = training.TRAINERS[args.command](q, k).to(device)
    highest = args.learning_rate or training.LEARNING_RATES[args.command]
    optimizer = torch.optim.Adam(index.parameters(), lr=highest, betas=(0.9, 0.98))
    running = None
    for step, (ids, positions) in enumerate(loader):
        progress = step / args.steps
        for group in optimizer.param_groups:
            group["lr"] = highest * min(1.0, (step + 1) / 100, 2 * (1 - progress))
        q, k = model.queries_and_keys(ids)
        positions = torch.as_tensor(positions, device=device)
        loss = index.loss(q[:, :, positions].float(), k.float(), positions, args.density)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        running = loss.detach() if running is None else torch.lerp(running, loss.detach(), 0.02)
        if (step + 1) % 500 == 0:
            print(f"{time.time() - begun:.0f} s: step {step + 1}, loss {float(running):.4f}",
                  flush=True)
    out = args.out or pathlib.Path(args.model) / f"{args.command}.safetensors"
    index.index().save(out)
    print(f"{out}: {args.steps} steps, {time.time() - begun:.0f} s on "
          f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'the CPU'}", flush=True)


def held_out_maker(model_folder, text_path):
    """Samples over the novel that no training saw, from the repository alone."""
    tokenizer = Tokenizer.from_file(str(pathlib.Path(model_folder) / "tokenizer.json"))
    text = pathlib.Path(text_path).read_text(encoding="utf-8")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    haystack = tasks.Haystack(tokenizer, [np.array(ids, np.uint16)], [1.0])
    return tasks.SampleMaker(tasks.Vocabulary(tokenizer), haystack, held_out=True)


def held_out_sample(maker, kind, rng, context, queries):
    """(ids, positions of late queries): a text's last eighth; question and answer of a task."""
    if kind == "text":
        ids = maker.plain(rng, context).ids
        late = np.arange(context - context // 8, context)
    else:
        ids = maker.task(rng, kind, context, 1.0, budget=context).ids
        late = np.arange(context, len(ids))
    return ids, np.sort(rng.choice(late, min(queries, len(late)), replace=False))


@torch.no_grad()
def measure(model, maker, kind, compared, head_sums, args):
    """{name: (recall, mass)} as key_indexes.recall, means over the samples.

    With `head_sums` the true keys are the top ones of the attention that all heads give together.
    """
    totals = {}
    for number in range(args.samples):
        rng = np.random.default_rng([args.seed, number])
        ids, positions = held_out_sample(maker, kind, rng, args.context, args.queries)
        q, k = model.queries_and_keys(ids)
        positions = torch.as_tensor(positions, device=model.device)
        q, k = q[:, :, positions].float(), k.float()
        logits = indexes.attention_logits(q, k)
        visible, _ = indexes.visible_and_eligible(positions, k.shape[2])
        attention = logits.masked_fill(~visible, -torch.inf).softmax(-1)
        if head_sums:
            attention = attention.sum(1, keepdim=True)
        scores = {name: index.scores(q, k) for name, index in compared.items()}
        found = indexes.recall(attention if head_sums else logits, attention, scores, positions,
                               args.density)
        for name, figures in found.items():
            totals.setdefault(name, []).append(torch.stack(figures).cpu())
    return {name: torch.stack(figures).mean(0) for name, figures in totals.items()}


def print_table(title, results):
    """Recall and mass, means over heads, a row for each layer and one for all."""
    print(f"\n{title}\n\n| layer | recall, random | recall, trained | ratio | mass, random | "
          "mass, trained | mass, true top |\n| --- | --- | --- | --- | --- | --- | --- |")
    per_layer = {name: figures.mean(-1) for name, figures in results.items()}
    for layer in [*range(len(per_layer["true"][0])), "all"]:
        row = {name: figures.mean(1) if layer == "all" else figures[:, layer]
               for name, figures in per_layer.items()}
        (random_recall, random_mass), (recall, mass) = row["random"], row["trained"]
        print(f"| {layer} | {random_recall:.3f} | {recall:.3f} | {recall / random_recall:.2f} | "
              f"{random_mass:.3f} | {mass:.3f} | {row['true'][1]:.3f} |", flush=True)


def index_pairs(model_folder, seed):
    """{method: (the index in the model's folder, a random one of the same shape)}."""
    folder = pathlib.Path(model_folder)
    shape = (retrieval_model.LAYERS, retrieval_model.HEADS, retrieval_model.KV_HEADS,
             retrieval_model.HEAD_DIM)
    hashes = indexes.HashAttention.load(folder / "hash_attention.safetensors")
    indexer = indexes.LightningIndexer.load(folder / "lightning_indexer.safetensors")
    return {
        "hash_attention": (hashes, indexes.HashAttention.random(
            *shape, hashes.query[-1][0].shape[-1], seed)),
        "lightning_indexer": (indexer, indexes.LightningIndexer.random(
            *shape, indexer.query.shape[1], indexer.query.shape[-1], seed)),
    }


def check(args):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = RecordingModel(args.model, device)
    maker = held_out_maker(args.model, args.text)
    for method, (trained, random) in index_pairs(args.model, args.seed).items():
        compared = {"trained": trained.to(device), "random": random.to(device)}
        for kind in ("text", *CHECKED_TASKS):
            begun = time.time()
            results = measure(model, maker, kind, compared, method == "lightning_indexer", args)
            print_table(f"{method}, {kind}, {args.context} tokens, {args.density:.0%} of the keys, "
                        f"{args.samples} contexts ({time.time() - begun:.0f} s)", results)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=(*training.TRAINERS, "check"))
    parser.add_argument("--work", help="folder of tokenizer.json and tokens.npz")
    parser.add_argument("--model", default=str(ROOT / "models/retrieval-6m"))
    parser.add_argument("--out", help="default: the method's file in the model's folder")
    parser.add_argument("--seed", type=int, default=11,
                        help="of the data, the first weights and the random indexes")
    parser.add_argument("--density", type=float, default=0.05, help="share of the keys to select")
    parser.add_argument("--steps", type=int, default=4000, help="one context each")
    parser.add_argument("--learning-rate", type=float, help="default: the method's own")
    parser.add_argument("--contexts", type=lambda s: [int(c) for c in s.split(",")],
                        default=[2048, 4096, 8192, 16384], help="lengths to train at")
    parser.add_argument("--workers", type=int, default=8, help="processes that make contexts")
    parser.add_argument("--text", default=str(ROOT / "evaluation/haystack/persuasion.txt"),
                        help="held-out text of check")
    parser.add_argument("--context", type=int, default=8192, help="length of check")
    parser.add_argument("--samples", type=int, default=8, help="contexts of check")
    parser.add_argument("--queries", type=int, default=128, help="queries a context of check")
    args = parser.parse_args()
    if args.command != "check" and not args.work:
        parser.error(f"{args.command} needs --work")
    check(args) if args.command == "check" else train(args)


if __name__ == "__main__":
    main()
