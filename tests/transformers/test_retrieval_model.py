"""The model that ships answers through `transformers` as it does through the C++ host, sample by sample."""

from __future__ import annotations

import pytest
import torch
from retrieval import CONFIGS, MODEL, answers_of_cpp_host, sample
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparse_attention_hub.transformers import sparse
from sparse_attention_hub.transformers.versions import CacheMark, new_cache

NEW_TOKENS = 12


def answers_of_transformers(model: object, tokenizer: object, context: str, questions: list[str], config: str) -> list[str]:
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
