"""The model that ships answers through `transformers` as it does through the C++ host, sample by sample."""

from __future__ import annotations

import pytest
import torch
from retrieval import CONFIGS, MODEL, NEW_TOKENS, answers_of_cpp_host, answers_of_transformers, sample
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def model() -> object:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "config", ["dense", "sink_local", "vattention_oracle_2", "pq_cache_5", "dense_first_two_oracle_top_k_2"]
)
def test_answers_equal_those_of_the_cpp_host(model: object, config: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    path = str(CONFIGS / f"{config}.json")
    right = 0
    for seed in (4, 5):
        context, questions, numbers = sample(seed, needles=2, sentences=40)
        answers = answers_of_transformers(model, tokenizer, context, questions, path)
        assert "\n".join(answers) == answers_of_cpp_host(context, questions, path, NEW_TOKENS)
        right += sum(number in answer for number, answer in zip(numbers, answers))
    assert (right == 0) if config == "sink_local" else (right >= 3)
