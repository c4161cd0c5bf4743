"""Samples for the model that ships, and the C++ host's answers to them."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "models" / "retrieval-6m")
CONFIGS = ROOT / "configs"
_WORDS = "people buffer lines under state signals while every driver keeps some memory between requests and reports".split()


def sample(seed: int, needles: int, words: int) -> tuple[str, list[str], list[str]]:
    """(context, questions, what the answers should hold): magic numbers between words that mean nothing."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    keys = ["".join(rng.sample(syllables, 3)) for _ in range(needles)]
    numbers = [str(rng.randrange(10**6, 10**7)) for _ in keys]
    text = [f" {rng.choice(_WORDS)}" for _ in range(words)]
    for key, number in zip(keys, numbers):
        text.insert(rng.randrange(len(text)), f". The magic number of {key} is {number}.")
    questions = [
        f"\n\nQuestion: What is the magic number of {key}?\nAnswer: The magic number of {key} is" for key in keys
    ]
    return "".join(text), questions, numbers


def sah() -> str:
    """The command of the C++ host."""
    for path in (os.environ.get("SA_SAH", ""), "tools/sah/sah", ROOT / "bazel-bin/tools/sah/sah"):
        if path and os.path.exists(path):
            return str(path)
    pytest.skip("the sah command is not built (bazel build //tools/sah)")


def answers_of_cpp_host(context: str, questions: list[str], config: str, new_tokens: int) -> list[str]:
    """What `sah generate` answers in float32."""
    command = [sah(), "generate", "--model", MODEL, "--context", context, "--config", config, "--dtype", "float32"]
    command += ["--max-new-tokens", str(new_tokens), "--quiet"]
    answers = []
    for question in questions:  # one at a time: answers may hold newlines
        run = subprocess.run([*command, "--question", question], check=True, capture_output=True, text=True)
        answers.append(run.stdout.rstrip("\n"))
    return answers
