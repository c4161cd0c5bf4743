#!/usr/bin/env python3
"""Trains models/retrieval-6m, the small retrieval model that ships.

  train_retrieval_model.py prepare --work W       Debian packages -> texts, tokenizer, token arrays
  torchrun --nproc-per-node G train_retrieval_model.py train --work W --out O
  train_retrieval_model.py check --work W --out O [--samples 128] [--contexts 4096,8192]

`prepare` needs apt-get, numpy and tokenizers; `train` needs torch, safetensors and a GPU (--trial
runs tiny steps and contexts on a CPU). Training stops by the clock, writes a checkpoint every minute
and ends with the accuracy of dense attention on held-out keys, variables and text.
"""

import argparse
import json
import os
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

# (share of the time at which it starts, longest context)
CURRICULUM = ((0.0, 512), (0.06, 1024), (0.11, 2048), (0.18, 4096), (0.29, 8192), (0.45, 16384),
              (0.65, 32768))
LEARNING_RATE, WARM_UP, DECAY_FROM = 3e-3, 200, 0.5
STEP_TOKENS = 262144
TRIAL_STEP_TOKENS, TRIAL_CURRICULUM = 4096, ((0.0, 256), (0.3, 512), (0.6, 1024), (0.8, 2048))
CHECKPOINT_SECONDS, CHECK_SECONDS = 55, 75


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

    def encode(documents):
        # One at a time: encodings also hold offsets and strings, gigabytes for all documents.
        return np.concatenate([np.array(tokenizer.encode(d, add_special_tokens=False).ids, np.uint16)
                               for d in documents])

    streams = {name: encode(["\n\n" + document.strip() for document in documents])
               for name, documents in corpora.items()}
    streams["held_out"] = encode([held_out])
    np.savez_compressed(work / "tokens.npz", **streams)
    (work / "persuasion.txt").write_text(held_out)
    for name, documents in corpora.items():  # texts to calibrate an index on: sah calibrate --text
        (work / f"{name}.txt").write_text("\n\n".join(documents))
    print({name: len(stream) for name, stream in streams.items()})


def learning_rate(step, progress):
    decay = 1.0 if progress < DECAY_FROM else (1.0 - progress) / (1.0 - DECAY_FROM)
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * max(decay, 0.01)


class Trainer:
    """Model, optimizer and batches of one rank; all ranks take the same steps."""

    def __init__(self, args):
        import torch
        import torch.distributed
        import retrieval_batches
        import retrieval_model
        self.begun, self.args, self.torch = time.time(), args, torch
        self.rank = int(os.environ.get("RANK", 0))
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        if self.world > 1:
            torch.distributed.init_process_group("nccl" if cuda else "gloo")
        self.curriculum = TRIAL_CURRICULUM if args.trial else CURRICULUM
        self.step_tokens = TRIAL_STEP_TOKENS if args.trial else STEP_TOKENS
        self.longest = torch.multiprocessing.Value("i", self.curriculum[0][1])
        maker, self.held_out = retrieval_batches.load_makers(args.work)
        batches = retrieval_batches.TrainingBatches(
            maker, self.longest, self.step_tokens // self.world, self.curriculum[0][1], self.rank)
        workers = 1 if args.trial else max(1, os.cpu_count() // self.world - 2)
        self.batches = iter(torch.utils.data.DataLoader(
            batches, batch_size=None, num_workers=workers, pin_memory=cuda, prefetch_factor=2,
            multiprocessing_context="fork"))
        self.params = retrieval_model.init_parameters(self.device)
        self.model = retrieval_model.Model(self.params, self.device, compile_pieces=cuda)
        matrices = [p for p in self.params.values() if p.ndim == 2]
        vectors = [p for p in self.params.values() if p.ndim == 1]
        self.flat_order = matrices + vectors
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
            lr=LEARNING_RATE, betas=(0.9, 0.95), fused=cuda)

    def seconds(self):
        return time.time() - self.begun

    def log(self, text):
        if self.rank == 0:
            print(f"{self.seconds():.0f} s: {text}", flush=True)

    def save(self):
        import retrieval_model
        if self.rank == 0:
            retrieval_model.save_checkpoint(self.params, self.args.out)

    def check(self, contexts, samples):
        import retrieval_batches
        return retrieval_batches.check(self.model, self.held_out, contexts, samples, self.rank,
                                       self.world)

    def step(self, rate):
        ids, weights = next(self.batches)
        ids = ids.to(self.device, non_blocking=True).long()
        weights = weights.to(self.device, non_blocking=True).float()[:, 1:].contiguous()
        loss = self.model.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights)
        loss.backward()
        if self.world > 1:
            self._average_gradients()
        self.torch.nn.utils.clip_grad_norm_(self.flat_order, 1.0, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _average_gradients(self):
        gradients = [p.grad for p in self.flat_order]
        flat = self.torch.cat([g.reshape(-1) for g in gradients])
        self.torch.distributed.all_reduce(flat)
        parts = (flat / self.world).split([g.numel() for g in gradients])
        self.torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients)])

    def clock(self):
        """Rank 0's clock, so that every rank changes stage, checks and stops at the same step."""
        seconds = self.torch.tensor([self.seconds()], device=self.device)
        if self.world > 1:
            self.torch.distributed.broadcast(seconds, 0)
        return float(seconds)

    def run(self):
        progress, saved, checked, step, running = 0.0, 0.0, 0.0, 0, 0.0
        while progress < 1.0:
            running = 0.98 * running + 0.02 * self.step(learning_rate(step, progress))
            step += 1
            if step % 10:
                continue
            now = self.clock()
            progress = now / self.args.seconds
            self.longest.value = max(n for start, n in self.curriculum if start <= progress)
            if step % (10 if self.args.trial else 100) == 0:
                self.log(f"step {step}, {step * self.step_tokens / 1e6:.0f} M tokens, longest "
                         f"{self.longest.value}, loss {float(running):.3f}")
            if now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = now
            if now - checked > CHECK_SECONDS:
                self.check([max(self.longest.value // 4, 256), self.longest.value], 32)
                checked = self.clock()
        self.save()
        self.log(f"trained {step} steps, {step * self.step_tokens / 1e6:.0f} M tokens")
        results = self.check(self.args.contexts, self.args.samples)
        if self.rank == 0:
            path = pathlib.Path(self.args.out) / "check.json"
            path.write_text(json.dumps(results, indent=1) + "\n")
        self.log("all done")


def train(args):
    trainer = Trainer(args)
    trainer.run()
    if trainer.world > 1:
        trainer.torch.distributed.destroy_process_group()
    os._exit(0)  # the loader's endless workers end with their parent


def check(args):
    import torch
    import retrieval_batches
    import retrieval_model
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = retrieval_model.Model(retrieval_model.load_parameters(args.out, device), device, False)
    _, held_out = retrieval_batches.load_makers(args.work)
    retrieval_batches.check(model, held_out, args.contexts, args.samples)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=("prepare", "train", "check"))
    parser.add_argument("--work", required=True, help="folder of tokenizer.json and tokens.npz")
    parser.add_argument("--packages", default="/tmp/retrieval_packages",
                        help="where to unpack the Debian packages")
    parser.add_argument("--out", help="folder of the checkpoint")
    parser.add_argument("--seconds", type=float, default=960.0,
                        help="training time, start included")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--contexts", type=lambda s: [int(c) for c in s.split(",")],
                        default=[1024, 4096, 8192, 16384, 32768])
    parser.add_argument("--trial", action="store_true", help="tiny steps and contexts for a CPU")
    args = parser.parse_args()
    if args.command != "prepare" and not args.out:
        parser.error(f"{args.command} needs --out")
    {"prepare": prepare, "train": train, "check": check}[args.command](args)


if __name__ == "__main__":
    main()
