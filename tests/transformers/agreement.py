#!/usr/bin/env python3
"""How many answers of the shipped model are the same through transformers and through the C++ host.

    bazel build //tools/sah && ./tools/dev python-module
    PYTHONPATH=python $(./tools/dev python-path) tests/transformers/agreement.py

test_retrieval_model.py asks for the same of fewer and shorter contexts in every test run.
"""

from __future__ import annotations

import argparse

import torch
from retrieval import CONFIGS, MODEL, NEW_TOKENS, answers_of_cpp_host, answers_of_transformers, sample
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="dense,sink_local,oracle_top_k_2,vattention_oracle_2,pq_cache_5,"
                        "hash_attention_5,quest_5")
    parser.add_argument("--contexts", type=int, default=10)
    parser.add_argument("--needles", type=int, default=4, help="questions of a context")
    parser.add_argument("--sentences", type=int, default=200, help="of a context: about 16 tokens each")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for config in args.configs.split(","):
        path = str(CONFIGS / f"{config}.json")
        equal = total = right = 0
        for seed in range(100, 100 + args.contexts):
            context, questions, numbers = sample(seed, args.needles, args.sentences)
            answers = answers_of_transformers(model, tokenizer, context, questions, path)
            of_host = answers_of_cpp_host(context, questions, path, NEW_TOKENS)
            total += len(answers)
            # An answer may hold line ends; the host prints one after the other.
            equal += len(answers) if "\n".join(answers) == of_host else 0
            right += sum(number in answer for number, answer in zip(numbers, answers))
        print(f"{config}: {equal} of {total} equal, {right} right", flush=True)


if __name__ == "__main__":
    main()
