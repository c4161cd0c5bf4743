#!/usr/bin/env python3
"""Trains models/retrieval-6m, the small retrieval model that ships.

  train_retrieval_model.py prepare --work W       Debian packages -> texts, tokenizer, token arrays
  torchrun --nproc-per-node G train_retrieval_model.py train --work W --out O
  train_retrieval_model.py check --work W --out O [--samples 128] [--contexts 4096,8192]

`prepare` needs apt-get, numpy and tokenizers; `train` needs torch, safetensors and a GPU (a CPU does
for a trial with `--trial`). Training stops by the clock, writes a checkpoint every minute and ends
with the accuracy of dense attention on held-out keys, names and text.
"""

import argparse
import json
import math
import os
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

CORPUS_SHARES = {"austen": 0.12, "bible": 0.10, "python": 0.25, "linux": 0.53}
# (share of the time at which it starts, longest context)
CURRICULUM = ((0.0, 512), (0.06, 1024), (0.11, 2048), (0.18, 4096), (0.29, 8192), (0.45, 16384),
              (0.65, 32768))
LEARNING_RATE, WARM_UP, DECAY_FROM = 3e-3, 200, 0.5
STEP_TOKENS = 262144
PLAIN_SHARE, WORDS_SHARE, TASK_SHARE = 0.06, 0.16, 0.16


def prepare(args):
    import retrieval_corpus
    import retrieval_model
    import retrieval_tokenizer
    work = pathlib.Path(args.work)
    retrieval_corpus.fetch_packages(args.packages)
    corpora, held_out = retrieval_corpus.load_corpora(args.packages)
    tokenizer = retrieval_tokenizer.train_tokenizer(corpora)
    retrieval_tokenizer.save_tokenizer(
        tokenizer, work, retrieval_model.CONFIG["max_position_embeddings"])
    streams = {name: np.concatenate([np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(
        ["\n\n" + d.strip() for d in documents], add_special_tokens=False)])
        for name, documents in corpora.items()}
    streams["held_out"] = np.array(tokenizer.encode(held_out, add_special_tokens=False).ids, np.uint16)
    np.savez_compressed(work / "tokens.npz", **streams)
    (work / "persuasion.txt").write_text(held_out)
    print({name: len(stream) for name, stream in streams.items()})


def load_makers(work):
    from tokenizers import Tokenizer
    import retrieval_tasks as tasks
    tokenizer = Tokenizer.from_file(str(pathlib.Path(work) / "tokenizer.json"))
    vocabulary = tasks.Vocabulary(tokenizer)
    with np.load(pathlib.Path(work) / "tokens.npz") as tokens:
        train = tasks.Haystack(tokenizer, [tokens[n] for n in CORPUS_SHARES],
                               list(CORPUS_SHARES.values()))
        held_out = tasks.Haystack(tokenizer, [tokens["held_out"]], [1.0])
    return tasks.SampleMaker(vocabulary, train), tasks.SampleMaker(vocabulary, held_out, held_out=True)


class Batches:
    """An endless data set of (ids, weights) batches; `longest` is a shared value set by the trainer."""

    def __init__(self, maker, longest, tokens, shortest, rank):
        self.maker, self.longest, self.tokens, self.shortest, self.rank = maker, longest, tokens, shortest, rank

    def __iter__(self):
        from torch.utils.data import get_worker_info
        import torch
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        rng = np.random.default_rng([20, self.rank, number])
        batch = number
        while True:
            # The length must be equal on all ranks, so it comes from the batch's own number.
            length, draw = self.longest.value, np.random.default_rng(batch).random()
            shorter = 0 if draw < 0.7 else 1 if draw < 0.85 else 2 if draw < 0.93 else 3
            length = max(length >> shorter, self.shortest)
            ids, weights = self.make(rng, length)
            yield torch.from_numpy(ids), torch.from_numpy(weights)
            batch += workers

    def make(self, rng, length):
        rows = self.tokens // length
        # Answers are a smaller share of long contexts, so their weight grows there.
        answer_weight = 12.0 * max(1.0, length / 2048) ** 0.5
        ids = np.empty((rows, length + 1), np.int16)
        weights = np.empty((rows, length + 1), np.float16)
        for row in range(rows):
            sample = self.draw(rng, length + 1, answer_weight)
            ids[row], weights[row] = sample.ids, sample.weights
        return ids, weights

    def draw(self, rng, length, answer_weight):
        import retrieval_tasks as tasks
        kind = rng.random()
        if kind < PLAIN_SHARE:
            return self.maker.plain(rng, length)
        kind -= PLAIN_SHARE
        if kind < WORDS_SHARE:
            return self.maker.task(rng, "common_words", length, answer_weight)
        kind -= WORDS_SHARE
        if kind < TASK_SHARE:
            return self.maker.task(rng, tasks.TASKS[rng.integers(4)], length, answer_weight)
        return self.maker.mixed(rng, length, answer_weight)


def check(model, maker, contexts, samples, rank, world, seed=7):
    """Exact-match accuracy under greedy decoding and text loss, by context and task.

    Greedy decoding gives the expected answer if and only if every answer token, end of text
    included, is the most likely one after the right tokens before it: one pass decides.
    """
    import torch
    import retrieval_tasks as tasks
    results = {}
    for context in contexts:
        cells = {}
        for index, task in enumerate(tasks.TASKS + ("text",)):
            made, per_batch = [], max(1, 131072 // context)
            for number in range(rank, samples, world):
                rng = np.random.default_rng([seed, context, index, number])
                made.append(maker.plain(rng, context) if task == "text"
                            else maker.task(rng, task, context, 2.0, budget=context))
            score = torch.zeros(2, device=model.device, dtype=torch.float64)
            for start in range(0, len(made), per_batch):
                score += _check_batch(model, made[start:start + per_batch], task == "text")
            if world > 1:
                torch.distributed.all_reduce(score)
            cells[task] = round(float(score[0] / score[1]), 4)
        results[context] = cells
        if rank == 0:
            print(f"check {context}: {cells}", flush=True)
    return results


def _check_batch(model, samples, text):
    import torch
    longest = max(len(s.ids) for s in samples)
    ids = np.ones((len(samples), longest), np.int64)
    weights = np.zeros((len(samples), longest), np.float32)
    for row, sample in enumerate(samples):
        ids[row, :len(sample.ids)], weights[row, :len(sample.ids)] = sample.ids, sample.weights
    ids = torch.from_numpy(ids).to(model.device)
    asked = torch.from_numpy(weights).to(model.device) == (1.0 if text else 2.0)
    asked[:, 0] = False
    rows = torch.zeros_like(asked)
    rows[:, :-1] = asked[:, 1:]
    with torch.no_grad():
        logits = model.logits(model.hidden(ids)[rows.reshape(-1)])
        targets = ids[asked]
        if text:
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum").double()
            return torch.stack([loss, torch.tensor(float(len(targets)), device=loss.device).double()])
        wrong = torch.zeros(len(samples), device=model.device)
        which = torch.nonzero(asked)[:, 0]
        wrong.index_add_(0, which, (logits.argmax(-1) != targets).float())
    return torch.tensor([float((wrong == 0).sum()), float(len(samples))], device=model.device).double()


def learning_rate(step, progress):
    decay = 1.0 if progress < DECAY_FROM else (1.0 - progress) / (1.0 - DECAY_FROM)
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * max(decay, 0.01)


def train(args):
    begun = time.time()
    import torch
    import torch.distributed as dist
    from torch.multiprocessing import Value
    import retrieval_model
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    maker, held_out = load_makers(args.work)
    step_tokens = 4096 if args.trial else STEP_TOKENS
    curriculum = [(a, n // 16 if args.trial else n) for a, n in CURRICULUM]
    if args.trial:
        curriculum = [(a, max(n, 256)) for a, n in curriculum]
    longest = Value("i", curriculum[0][1])
    batches = Batches(maker, longest, step_tokens // world, curriculum[0][1], rank)
    workers = max(1, (os.cpu_count() // world) - 2) if not args.trial else 1
    loader = iter(torch.utils.data.DataLoader(_iterable(batches), batch_size=None, num_workers=workers,
                                              pin_memory=cuda, prefetch_factor=2,
                                              multiprocessing_context="fork"))
    params = (retrieval_model.load_parameters(args.resume, device) if args.resume
              else retrieval_model.init_parameters(device))
    model = retrieval_model.Model(params, device, compile_pieces=cuda)
    matrices = [p for p in params.values() if p.ndim == 2]
    vectors = [p for p in params.values() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": vectors, "weight_decay": 0.0}],
                                  lr=LEARNING_RATE, betas=(0.9, 0.95), fused=cuda)
    everything = matrices + vectors
    sizes = [p.numel() for p in everything]

    seen, progress, last_save, last_check = 0, 0.0, time.time(), time.time()
    step, running = 0, torch.zeros((), device=device)
    while True:
        ids, weights = next(loader)
        if step == 1:
            print(f"rank {rank}: first step done after {time.time() - begun:.0f} s", flush=True)
        ids = ids.to(device, non_blocking=True).long()
        weights = weights.to(device, non_blocking=True).float()[:, 1:].contiguous()
        loss = model.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights)
        loss.backward()
        if world > 1:
            flat = torch.cat([p.grad.reshape(-1) for p in everything])
            dist.all_reduce(flat)
            torch._foreach_copy_([p.grad for p in everything], [
                part.view_as(p) for part, p in zip((flat / world).split(sizes), everything)])
        torch.nn.utils.clip_grad_norm_(everything, 1.0, foreach=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen, step, running = seen + step_tokens, step + 1, running * 0.98 + loss.detach() * 0.02
        if step % 10 == 0:
            clock = torch.tensor([(time.time() - begun) / args.seconds], device=device)
            if world > 1:
                dist.broadcast(clock, 0)
            progress = args.start + (1 - args.start) * float(clock)
            longest.value = max(n for start, n in curriculum if start <= min(progress, 1.0))
            if step % (10 if args.trial else 100) == 0 and rank == 0:
                print(f"step {step} {time.time() - begun:.0f} s progress {progress:.3f} longest "
                      f"{longest.value} loss {float(running):.3f} {seen / 1e6:.0f} M tokens", flush=True)
            if progress >= 1.0 or args.steps and step >= args.steps:
                break
            due = torch.tensor([time.time() - last_save > 55, time.time() - last_check > 75],
                               device=device, dtype=torch.int32)
            if world > 1:
                dist.broadcast(due, 0)
            if due[0] and rank == 0:
                retrieval_model.save_checkpoint(params, args.out)
            if due[0]:
                last_save = time.time()
            if due[1]:
                check(model, held_out, sorted({max(longest.value // 4, 256), longest.value}), 32, rank, world)
                last_check = time.time()
    if rank == 0:
        retrieval_model.save_checkpoint(params, args.out)
        print(f"trained {step} steps, {seen / 1e6:.0f} M tokens in {time.time() - begun:.0f} s", flush=True)
    results = check(model, held_out, args.contexts, args.samples, rank, world)
    if rank == 0:
        (pathlib.Path(args.out) / "check.json").write_text(json.dumps(results, indent=1))
        print(f"all done after {time.time() - begun:.0f} s", flush=True)
    if world > 1:
        dist.destroy_process_group()
    os._exit(0)  # the loader's endless workers end with their parent


def _iterable(batches):
    import torch

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(batches)

    return Stream()


def check_only(args):
    import torch
    import retrieval_model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = retrieval_model.Model(retrieval_model.load_parameters(args.out, device), device, False)
    _, held_out = load_makers(args.work)
    check(model, held_out, args.contexts, args.samples, 0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("prepare", "train", "check"))
    parser.add_argument("--work", required=True, help="folder of tokenizer.json and tokens.npz")
    parser.add_argument("--packages", default="/tmp/retrieval_packages", help="unpacked Debian packages")
    parser.add_argument("--out", help="folder of the checkpoint")
    parser.add_argument("--seconds", type=float, default=960.0, help="training time, start included")
    parser.add_argument("--steps", type=int, default=0, help="stop after this many steps")
    parser.add_argument("--start", type=float, default=0.0, help="progress at which to start")
    parser.add_argument("--resume", help="folder of a checkpoint to start from")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--contexts", type=lambda s: [int(c) for c in s.split(",")],
                        default=[1024, 4096, 8192, 16384, 32768])
    parser.add_argument("--trial", action="store_true", help="tiny steps and contexts for a CPU")
    args = parser.parse_args()
    {"prepare": prepare, "train": train, "check": check_only}[args.command](args)


if __name__ == "__main__":
    main()
