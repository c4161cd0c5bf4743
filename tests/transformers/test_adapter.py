"""ModelAdapterHF: requests with the model that ships, and what must not leak from one to the next."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from retrieval import MODEL, answers_of_cpp_host, sample
from tiny_models import tiny_model
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from sparse_attention_hub._pipeline import pipeline_json
from sparse_attention_hub.adapters.base import Request
from sparse_attention_hub.adapters.huggingface import INT_MAX, ModelAdapterHF
from sparse_attention_hub.sparse_attention import (
    LocalMaskerConfig,
    ResearchAttentionConfig,
    SinkMaskerConfig,
)
from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed import (
    OracleTopKConfig,
    QuestTopKMaskerConfig,
)
from sparse_attention_hub.sparse_attention.research_attention.maskers.sampling.implementations import (
    AdaptiveSamplingMaskerConfig,
)

CONTEXT, QUESTIONS, NUMBERS = sample(seed=1, needles=3, sentences=40)
NEW_TOKENS = {"max_new_tokens": 12}


def top_k(heavy_size: float) -> ResearchAttentionConfig:
    return ResearchAttentionConfig(
        masker_configs=[
            SinkMaskerConfig(sink_size=8),
            LocalMaskerConfig(window_size=16),
            OracleTopKConfig(heavy_size=heavy_size),
        ]
    )


def adapter(config: Any = None, **kwargs: Any) -> ModelAdapterHF:
    kwargs.setdefault("model_kwargs", {"dtype": torch.float32})
    return ModelAdapterHF(MODEL, config, device="cpu", **kwargs)


def ask(who: ModelAdapterHF, questions: Any, context: str = CONTEXT, **kwargs: Any) -> Any:
    return who.process_request(Request(context, questions), {**NEW_TOKENS, **kwargs}, {}).responses


def test_dense_and_sparse_answers_are_right() -> None:
    for config in (None, top_k(0.1)):
        answers = ask(adapter(config), QUESTIONS)
        assert [number in answer for number, answer in zip(NUMBERS, answers)] == [True] * 3, answers


def test_too_sparse_answers_are_wrong() -> None:
    local = ResearchAttentionConfig(masker_configs=[LocalMaskerConfig(window_size=4)])
    answers = ask(adapter(local), QUESTIONS)
    assert not any(number in answer for number, answer in zip(NUMBERS, answers)), answers


QUEST = ResearchAttentionConfig(
    masker_configs=[QuestTopKMaskerConfig(heavy_size=64, page_size=16, search_space={})]
)
CONFIGS = {
    "dense": None,
    "top_k": top_k(0.02),
    "vattention": ResearchAttentionConfig(
        masker_configs=[
            SinkMaskerConfig(sink_size=8),
            LocalMaskerConfig(window_size=8),
            OracleTopKConfig(heavy_size=0.02),
            AdaptiveSamplingMaskerConfig(
                base_rate_sampling=0.02, epsilon=0.1, delta=0.1, init_offset=8, local_offset=8, search_space={}
            ),
        ]
    ),
    "quest": QUEST,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_equal_those_of_the_cpp_host(name: str, tmp_path: Any) -> None:
    path = tmp_path / "pipeline.json"
    path.write_text(pipeline_json(CONFIGS[name]))
    who = adapter(CONFIGS[name])
    for seed in (2, 3):
        context, questions, _ = sample(seed, needles=2, sentences=40)
        expected = answers_of_cpp_host(context, questions, str(path), 12)
        assert "\n".join(ask(who, questions, context)) == expected


def test_one_question_and_a_list_of_questions() -> None:
    who = adapter(top_k(0.1))
    one = ask(who, QUESTIONS[0])
    assert isinstance(one, str)
    assert ask(who, [QUESTIONS[0]]) == [one]
    assert ask(who, QUESTIONS)[0] == one
    assert ask(who, []) == []


def test_answers_depend_on_nothing_that_came_before() -> None:
    """The context's indexes serve every question, and nothing of a question is left for the next one."""
    alone = [ask(adapter(QUEST), [question])[0] for question in QUESTIONS]
    who = adapter(QUEST)
    assert ask(who, QUESTIONS) == alone
    assert ask(who, list(reversed(QUESTIONS))) == list(reversed(alone))
    other, others, _ = sample(seed=9, needles=2, sentences=30)
    ask(who, others, other)
    assert ask(who, QUESTIONS) == alone


def test_the_context_is_read_once_and_logits_are_of_the_last_token() -> None:
    who = adapter(top_k(0.1))
    with who.enable_sparse_mode():
        pass  # its self-check is done
    calls: list[tuple[int, int]] = []
    forward = who.model.forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        calls.append((kwargs["input_ids"].shape[1], out.logits.shape[1]))
        return out

    counted.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    who.model.forward = counted
    try:
        ask(who, QUESTIONS)
    finally:
        del who.model.forward
    long = [read for read, _ in calls if read > 300]
    assert len(long) == 1
    assert {logits for _, logits in calls} == {1}


def test_limits_do_not_shrink_and_arguments_are_not_changed() -> None:
    who = adapter(None)
    generation, request = {"max_new_tokens": 3}, {"max_context_length": 50}
    short = who.process_request(Request(CONTEXT, QUESTIONS[0]), generation, request).responses
    assert (generation, request) == ({"max_new_tokens": 3}, {"max_context_length": 50})
    long = ask(who, QUESTIONS[0], max_new_tokens=9)
    assert len(long) > len(short)
    assert INT_MAX == 2**31 - 1


def test_long_contexts_are_cut_at_their_end() -> None:
    who = adapter(None)
    whole = who.process_request(Request(CONTEXT, QUESTIONS[0]), NEW_TOKENS, {}).responses
    assert NUMBERS[0] in whole
    cut = who.process_request(Request(CONTEXT, QUESTIONS[0]), NEW_TOKENS, {"max_context_length": 4}).responses
    assert NUMBERS[0] not in cut


def test_begin_of_text_stands_once_before_the_context() -> None:
    who = adapter(None)
    bos = who.tokenizer.bos_token_id
    prefix = who._context_prefix()
    for text in ("some text", who.tokenizer.bos_token + "some text"):
        ids = who._encode(text, prefix)[0].tolist()
        assert ids[0] == bos if prefix else True
        assert ids.count(bos) == (1 if prefix or text.startswith(who.tokenizer.bos_token) else 0)
    assert bos not in who._encode("a question", None)[0].tolist()


def test_an_end_of_text_as_first_token_ends_the_answer() -> None:
    who = adapter(None)
    first = ask(who, QUESTIONS[0], max_new_tokens=1)
    token = who.tokenizer.encode(first, add_special_tokens=False)
    before = who.model.generation_config.eos_token_id
    try:
        who.model.generation_config.eos_token_id = token[0]
        assert ask(who, QUESTIONS[0]) == first
    finally:
        who.model.generation_config.eos_token_id = before


def test_chat_templates_wrap_the_context_and_close_after_the_question() -> None:
    who = adapter(None, tokenizer_kwargs={"padding_side": "left"})
    who.tokenizer.chat_template = "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}<a>"
    assert who._split_template("context") == ("<u>context", "</u><a>")
    who.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="2 times"):
        who._split_template("context")
    who.tokenizer.chat_template = None
    assert len(who.random_separator) == 100 and who.random_separator.isalnum()


def test_wrong_requests() -> None:
    who = adapter(None)
    with pytest.raises(ValueError, match="Question tokens are empty"):
        ask(who, "")
    with pytest.raises(ValueError, match="max_new_tokens must be >= 1, got 0"):
        ask(who, QUESTIONS[0], max_new_tokens=0)


def test_an_empty_context() -> None:
    who = adapter(top_k(0.5))
    assert isinstance(ask(who, QUESTIONS[0], context=""), str)


def names() -> set[str]:
    return {n for i in (AttentionInterface(), AttentionMaskInterface()) for n in i if n.startswith("sparse_attention_")}


def test_sparse_mode_and_its_registration() -> None:
    before = names()
    who = adapter(top_k(0.1))
    assert names() == before, "nothing is registered before it is needed"
    original = who.model.config._attn_implementation
    with who.enable_sparse_mode():
        name = who.model.config._attn_implementation
        assert len(name) == len("sparse_attention_") + 8
        assert names() == before | {name}
    with pytest.raises(KeyError, match="within"), who.enable_sparse_mode():
        assert who.model.config._attn_implementation == name
        raise KeyError("within")
    assert who.model.config._attn_implementation == original
    with who.enable_sparse_mode(), torch.no_grad(), pytest.raises(
        ValueError, match="sparse_meta_data must be provided while calling model.forward"
    ):
        who.model(input_ids=torch.tensor([[1, 2, 3]]))
    who._cleanup_attention_registration()
    assert names() == before and who._registered_attention_name is None


def test_sparse_mode_without_sparse_attention() -> None:
    who = adapter(None)
    with pytest.raises(RuntimeError, match="Cannot enable sparse mode: sparse attention is not available"):
        with who.enable_sparse_mode():
            pass
    with pytest.raises(RuntimeError, match="Cannot register attention function"):
        who._ensure_attention_registered()


def test_other_attentions_are_refused_every_time_and_nothing_is_registered() -> None:
    before = names()
    who = adapter(top_k(0.1))
    who.sparse_attention = object()
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="Sparse attention is not supported for this model yet"):
            with who.enable_sparse_mode():
                pass
    assert names() == before


def test_a_model_that_bypasses_the_attention_is_refused() -> None:
    before = names()
    who = adapter(top_k(0.1))
    module = who.model.model.layers[2].self_attn
    module.forward = lambda hidden_states, *_, **__: (hidden_states, None)
    try:
        with pytest.raises(RuntimeError, match="layer 2 .model.layers.2.self_attn"), who.enable_sparse_mode():
            pass
    finally:
        del module.forward
    assert names() == before


def test_a_meta_dictionary_of_ones_own_keeps_a_sequence() -> None:
    who = adapter(top_k(0.05))
    ids = torch.tensor([who._ids(CONTEXT[:900], special=True)])
    meta: dict[str, Any] = {}
    with torch.no_grad(), who.enable_sparse_mode():
        first = who.model(input_ids=ids, sparse_meta_data=meta)
        assert meta
        again = who.model(input_ids=ids, sparse_meta_data={})
    assert torch.equal(first.logits, again.logits)


def test_python_maskers_get_an_eager_mask_and_an_empty_dictionary() -> None:
    seen: list[tuple[torch.Tensor, dict[str, Any], int]] = []
    who = adapter(top_k(0.1))
    native = ask(who, QUESTIONS[:2])
    attention = who.sparse_attention
    masker = attention.maskers[0]
    add_mask = masker.add_mask

    def watched(**kwargs: Any) -> Any:
        seen.append((kwargs["attention_mask"], dict(kwargs["sparse_meta_data"]), kwargs["layer_idx"]))
        return add_mask(**kwargs)

    masker.add_mask = watched  # no C++ masker any more, for all we know
    who._cleanup_attention_registration()
    try:
        assert ask(who, QUESTIONS[:2]) == native
    finally:
        del masker.add_mask
    layers = who.model.config.num_hidden_layers
    first = seen[:layers]
    assert [layer for _, _, layer in first] == list(range(layers))
    assert first[0][1] == {}
    mask, _, _ = first[0]
    question = mask.shape[2]
    assert mask.ndim == 4 and mask.dtype == torch.float32
    assert mask[0, 0, -1].eq(0).all() and (mask[0, 0, 0] != 0).sum() == question - 1
    assert mask.min() == torch.finfo(torch.float32).min


def test_metrics_of_the_hub(tmp_path: Any) -> None:
    from sparse_attention_hub import MicroMetricLogger

    logger = MicroMetricLogger()
    who = adapter(top_k(0.1))
    quiet = ask(who, QUESTIONS[0])
    logger.configure_logging(
        log_path=str(tmp_path), enabled_metrics=["research_attention_density", "research_attention_output_error"]
    )
    try:
        assert ask(who, QUESTIONS[0]) == quiet
        logger.flush()
    finally:
        logger.configure_logging(log_path=str(tmp_path), enabled_metrics=[])
    events = [json.loads(line) for line in (tmp_path / "micro_metrics.jsonl").read_text().splitlines()]
    values = {name: [e["value"] for e in events if e["metric"] == name] for name in {e["metric"] for e in events}}
    assert len(values["research_attention_density"]) == len(values["research_attention_output_error"])
    assert all(0.05 < value < 0.5 for value in values["research_attention_density"])
    assert all(0 < value < 1 for value in values["research_attention_output_error"])
    assert {e["metadata"]["layer_idx"] for e in events} == set(range(6))


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_next", "lfm2"])
def test_caches_of_other_models(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and recurrent states are put back between questions."""
    model = tiny_model(name)
    who = adapter(top_k(4))
    who.model = model
    who._keeps_states = who.hybrid = name != "gpt_oss"
    monkeypatch.setattr(who, "_ids", lambda text, special: [3 + ord(c) % 90 for c in text])
    monkeypatch.setattr(who.tokenizer, "decode", lambda ids, **_: " ".join(map(str, ids)), raising=False)
    context = "a context of some length, longer than a window"
    questions = ["what is it?", "and where?", "why, then?"]
    together = ask(who, questions, context)
    assert together == [ask(who, [question], context)[0] for question in questions]
    assert len(set(together)) >= 2
