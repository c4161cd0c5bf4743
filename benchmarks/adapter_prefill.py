#!/usr/bin/env python3
"""What reading a context once saves: `bazel run //benchmarks:adapter_prefill`.

Time of `ModelAdapterHF.process_request` for 1 and 10 questions on one context, in turns, with the model that ships; and its
peak memory over that of the model's decoder alone, at 131,072 tokens on a tiny decoder with a vocabulary of 128,256, whose
logits of the whole context would take 67 GB.
"""

from __future__ import annotations

import argparse
import gc
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import transformers

import sparse_attention_hub as sah
from sparse_attention_hub.adapters import ModelAdapterHF, Request

CONFIG = sah.ResearchAttentionConfig(
    [sah.SinkMaskerConfig(128), sah.LocalMaskerConfig(128), sah.OracleTopKConfig(0.02)])


def status_bytes(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


class Peak:
    """The highest resident memory within a `with` statement over that at its beginning."""

    def __enter__(self) -> Peak:
        gc.collect()
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        self._before = status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = status_bytes("VmHWM") - self._before


def measure_time(model: str, text: str, repetitions: int, new_tokens: int) -> dict[str, float]:
    adapter = ModelAdapterHF(model, CONFIG, device="cpu")
    prefills, one, ten, per_answer = [], [], [], []

    def run(questions: list[str]) -> float:
        start = time.perf_counter()
        adapter.process_request(Request(text, questions), {"max_new_tokens": new_tokens}, {})
        return time.perf_counter() - start

    run(["Warm up?"])
    for repetition in range(repetitions):
        questions = [f"\nQuestion {repetition}.{i}: what is written above? Answer:" for i in range(10)]
        times: list[float] = []
        original = adapter._generate_response

        def timed(*arguments: object, **options: object) -> str:
            start = time.perf_counter()
            answer = original(*arguments, **options)
            times.append(time.perf_counter() - start)
            return answer

        adapter._generate_response = timed
        first = run(questions[:1])
        all_ten = run(questions)
        adapter._generate_response = original
        one.append(first)
        ten.append(all_ten)
        per_answer.append(sum(times[1:]) / 10)
        prefills.append(first - times[0])
    t1, t10, answer = (statistics.median(x) for x in (one, ten, per_answer))
    return {
        "one_question_s": t1,
        "ten_questions_s": t10,
        "an_answer_s": answer,
        "prefill_s": statistics.median(prefills),
        "spread_of_ten": (max(ten) - min(ten)) / t10,
        # Ten questions less the decoding of nine more, over one question.
        "ratio_without_decoding": (t10 - 9 * answer) / t1,
    }


def peak_of(what: str, folder: str, tokens: int) -> int:
    """Bytes, in this process: of the decoder alone, or of a request with two questions."""
    adapter = ModelAdapterHF(folder, CONFIG, device="cpu")
    ids = torch.randint(256, 2000, (1, 4096))
    adapter._encode = lambda text, prefix: ids if prefix is not None else torch.tensor([[300, 301, 302]])

    def request() -> None:
        adapter.process_request(Request("x", ["y", "z"]), {"max_new_tokens": 4}, {})

    request()  # the first use of LibTorch reads its code and starts its threads
    ids = torch.randint(256, 2000, (1, tokens))
    with torch.no_grad(), Peak() as peak:
        if what == "decoder":
            adapter.model.model(input_ids=ids, past_key_values=transformers.DynamicCache(), use_cache=True)
        else:
            request()
    return peak.bytes


def measure_memory(tokens: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.LlamaConfig(
            vocab_size=128256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=2 * tokens)
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained("models/retrieval-6m").save_pretrained(folder)
        peaks = {}
        for what in ("decoder", "request"):  # a process each: allocators keep what they once had
            done = subprocess.run([sys.executable, __file__, "--peak-of", what, folder, str(tokens)], check=True,
                                  stdout=subprocess.PIPE, text=True)
            peaks[what] = int(done.stdout.split()[-1])
    return {
        "tokens": tokens,
        "decoder_alone_mb": peaks["decoder"] / 1e6,
        "request_mb": peaks["request"] / 1e6,
        "extra_mb": (peaks["request"] - peaks["decoder"]) / 1e6,
        "logits_of_all_tokens_mb": tokens * 128256 * 4 / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context-bytes", type=int, default=24000, help="of the context whose reading is timed")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=131072, help="of the context whose memory is measured; 0: none")
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        print(peak_of(args.peak_of[0], args.peak_of[1], int(args.peak_of[2])))
        return
    text = pathlib.Path("evaluation/haystack/persuasion.txt").read_text(encoding="utf-8")[: args.context_bytes]
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    print(json.dumps(measure_time("models/retrieval-6m", text, args.repetitions, args.new_tokens), indent=1))
    if args.tokens:
        print(json.dumps(measure_memory(args.tokens), indent=1))


if __name__ == "__main__":
    main()
