"""Samples for the model that ships, and what it answers through transformers and through the C++ host."""

from __future__ import annotations

import os
import pathlib
import random
import subprocess
from typing import Any

import pytest
import torch

from sparse_attention_hub.transformers import sparse
from sparse_attention_hub.transformers.versions import CacheMark, new_cache

ROOT = pathlib.Path(__file__).absolute().parents[2]
MODEL = str(ROOT / "models" / "retrieval-6m")
CONFIGS = ROOT / "configs"
#: Of an answer.
NEW_TOKENS = 12
_SENTENCES = (
    " The road went down to the river, and nobody was there.",
    " He looked at the house for a long time before he spoke.",
    " It was late in the evening when the letter came.",
    " She said that the old man had been seen in the garden.",
    " There was no answer, and the door stayed shut.",
)


def sample(seed: int, needles: int, sentences: int) -> tuple[str, list[str], list[str]]:
    """(context, questions, what the answers should hold): magic numbers in a text (docs/tasks.md, niah_multikey)."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    keys = ["".join(rng.sample(syllables, 3)) for _ in range(needles)]
    numbers = [str(rng.randrange(10**5, 10**6)) for _ in keys]
    text = [rng.choice(_SENTENCES) for _ in range(sentences)]
    for key, number in zip(keys, numbers):
        text.insert(rng.randrange(1, len(text)), f" The magic number of {key} is {number}.")
    questions = [
        f"\n\nQuestion: What is the magic number of {key}?\nAnswer: The magic number of {key} is" for key in keys
    ]
    return "".join(text).lstrip(), questions, numbers


def sah() -> str:
    """The command of the C++ host."""
    for path in (os.environ.get("SA_SAH", ""), "tools/sah/sah", ROOT / "bazel-bin/tools/sah/sah"):
        if path and os.path.exists(path):
            return str(path)
    pytest.skip("the sah command is not built (bazel build //tools/sah)")


def answers_of_cpp_host(context: str, questions: list[str], config: str, new_tokens: int) -> str:
    """What `sah generate` answers in float32, joined by newlines."""
    command = [sah(), "generate", "--model", MODEL, "--context", context, "--config", config, "--dtype", "float32"]
    command += ["--max-new-tokens", str(new_tokens), "--quiet"]
    for question in questions:
        command += ["--question", question]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.removesuffix("\n")


def answers_of_transformers(
    model: Any, tokenizer: Any, context: str, questions: list[str], config: str
) -> list[str]:
    """The context densely, then each question and its answer within `sparse`."""
    ids = [tokenizer.bos_token_id, *tokenizer.encode(context, add_special_tokens=False)]
    answers = []
    with torch.no_grad():
        mark = CacheMark(model(input_ids=torch.tensor([ids]), past_key_values=new_cache(model, False)).past_key_values)
        with sparse(model, config) as handle:
            for question in questions:
                cache, answer = mark.restored(), []
                step = tokenizer.encode(question, add_special_tokens=False)
                while len(answer) < NEW_TOKENS and tokenizer.eos_token_id not in answer:
                    token = int(model(input_ids=torch.tensor([step]), past_key_values=cache).logits[0, -1].argmax())
                    answer.append(token)
                    step = [token]
                answers.append(tokenizer.decode(answer, skip_special_tokens=True))
                handle.rewind()
    return answers
