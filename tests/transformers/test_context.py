"""The context manager: what it restores, nesting, exceptions, threads, arguments that it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from decoding import COVERING, SPARSE, read
from tiny_models import tiny_model, tokens
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from sparse_attention_hub.transformers import sparse

TOP = {"type": "research", "maskers": [{"type": "oracle_top_k", "heavy_size": 3}]}
LOCAL = {"type": "research", "maskers": [{"type": "local", "window_size": 4}]}


def registered() -> tuple[set[str], set[str]]:
    return set(AttentionInterface()), set(AttentionMaskInterface())


def test_everything_is_restored() -> None:
    model = tiny_model("llama")
    before = registered()
    with sparse(model, SPARSE) as handle:
        assert model.config._attn_implementation == handle.name
        assert registered() == (before[0] | {handle.name}, before[1] | {handle.name})
        assert json.loads(handle.pipeline)["maskers"][0]["type"] == "sink"
    assert model.config._attn_implementation == "eager"
    assert registered() == before


def test_everything_is_restored_after_an_exception() -> None:
    model = tiny_model("llama")
    before = registered()
    with pytest.raises(KeyboardInterrupt), sparse(model, SPARSE):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="oracle_top_k.heavy_size"), sparse(
        model, {"type": "research", "maskers": [{"type": "oracle_top_k", "heavy_size": -1}]}
    ):
        pass
    assert model.config._attn_implementation == "eager"
    assert registered() == before
    with sparse(model, SPARSE):
        pass


def test_nothing_happens_at_import() -> None:
    program = (
        "import transformers, transformers.masking_utils as m; a = set(transformers.AttentionInterface());"
        "b = set(m.AttentionMaskInterface()); f = m.sdpa_mask; import sparse_attention_hub.transformers;"
        "assert set(transformers.AttentionInterface()) == a and set(m.AttentionMaskInterface()) == b;"
        "assert m.sdpa_mask is f"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nested_contexts() -> None:
    model = tiny_model("llama")
    ids = tokens(1, 26)
    with sparse(model, SPARSE):
        outer = read(model, ids, first=20)
    with sparse(model, LOCAL):
        inner = read(model, ids, first=20)
    assert (outer - inner).abs().max() > 1e-2
    with sparse(model, SPARSE) as first:
        assert torch.equal(read(model, ids, first=20), outer)
        with sparse(model, LOCAL) as second:
            assert first.name != second.name
            assert torch.equal(read(model, ids, first=20), inner)
        assert model.config._attn_implementation == first.name
        assert torch.equal(read(model, ids, first=20), outer)
        with pytest.raises(RuntimeError, match="within"), sparse(model, LOCAL):
            raise RuntimeError("within")
        assert torch.equal(read(model, ids, first=20), outer)
    assert model.config._attn_implementation == "eager"


def in_thread(work: Any) -> Any:
    """The result of `work()` in a thread of its own, or its exception."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(work())
        except Exception as error:  # handed to the caller
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return box[0]


def test_another_thread_cannot_open_a_context_on_the_same_model() -> None:
    model = tiny_model("llama")

    def enter() -> None:
        with sparse(model, LOCAL):
            pass

    with sparse(model, SPARSE) as handle:
        error = in_thread(enter)
        assert isinstance(error, RuntimeError) and "another thread" in str(error)
        assert model.config._attn_implementation == handle.name
    assert in_thread(enter) is None


def test_threads_within_a_context_have_sequences_of_their_own() -> None:
    model = tiny_model("llama")
    quest = {"type": "research", "maskers": [{"type": "quest_top_k", "heavy_size": 12, "page_size": 4}]}
    ids = [tokens(1, 40, seed=s) for s in range(4)]
    with sparse(model, quest):
        expected = [read(model, x, first=30) for x in ids]
        results: dict[int, torch.Tensor] = {}

        def work(which: int) -> None:
            for _ in range(3):
                results[which] = read(model, ids[which], first=30)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for which, logits in results.items():
        torch.testing.assert_close(logits, expected[which], rtol=1e-5, atol=1e-5)
    assert len(results) == 4


def test_two_models_may_be_sparse_at_once() -> None:
    one, two = tiny_model("llama"), tiny_model("qwen3")
    with sparse(one, SPARSE), sparse(two, LOCAL):
        assert one.config._attn_implementation != two.config._attn_implementation
        in_thread(lambda: read(two, tokens(1, 20), first=10))
    assert (one.config._attn_implementation, two.config._attn_implementation) == ("eager", "eager")


def test_arguments_that_are_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="prefill"), sparse(model, SPARSE, prefill="none"):  # type: ignore[arg-type]
        pass
    with pytest.raises(TypeError, match="a pipeline is"), sparse(model, 3):  # type: ignore[arg-type]
        pass
    import transformers

    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=20)
    )
    with pytest.raises(NotImplementedError, match="encoder-decoder"), sparse(t5, SPARSE):
        pass


@pytest.mark.parametrize("prefill", ["dense", "sparse"])
def test_the_prompt_is_dense_unless_asked_otherwise(prefill: Any) -> None:
    model = tiny_model("llama")
    ids = tokens(1, 30)
    with torch.no_grad():
        dense = model(input_ids=ids).logits
        with sparse(model, TOP, prefill=prefill):
            logits = model(input_ids=ids).logits
    assert ((logits - dense).abs().max() > 1e-2) == (prefill == "sparse")


def test_known_arguments_that_are_not_supported() -> None:
    model = tiny_model("llama")
    ids = tokens(1, 8)
    lengths = torch.tensor([0, 8], dtype=torch.int32)
    with sparse(model, COVERING), torch.no_grad():
        for name, value in [
            ("cu_seq_lens_q", lengths),
            ("cu_seq_lens_k", lengths),
            ("block_indices", lengths),
            ("position_bias", torch.zeros(1, 4, 8, 8)),
        ]:
            with pytest.raises(NotImplementedError, match=f"layer 0 .model.layers.0.self_attn.: {name}"):
                model(input_ids=ids, **{name: value})
        # An argument that nobody knows, and one that the model passes on and that changes nothing.
        model(input_ids=ids, position_ids=torch.arange(8)[None], something_else=1)


def test_output_attentions_is_refused() -> None:
    model = tiny_model("llama")
    with sparse(model, COVERING), torch.no_grad():
        with pytest.raises(NotImplementedError, match="output_attentions"):
            model(input_ids=tokens(1, 8), output_attentions=True)


def test_dropout_is_refused_and_training_without_dropout_is_not() -> None:
    model = tiny_model("llama")
    with sparse(model, COVERING):
        model.train()
        model(input_ids=tokens(1, 8))
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1
        with pytest.raises(NotImplementedError, match="dropout"):
            model(input_ids=tokens(1, 8))


def test_gradients_are_refused() -> None:
    model = tiny_model("llama")
    with sparse(model, COVERING):
        loss = model(input_ids=tokens(1, 8)).logits.sum()
        with pytest.raises(NotImplementedError, match="no gradients"):
            loss.backward()


def test_long_prompts_build_no_square_mask() -> None:
    from sparse_attention_hub.transformers.mask_function import read_facts, sparse_mask
    from transformers.masking_utils import sliding_window_causal_mask_function

    padding = torch.ones(2, 1 << 17, dtype=torch.bool)
    padding[1, :9] = False
    positions = torch.arange(1 << 17)
    for function, window in ((None, None), (sliding_window_causal_mask_function(4096), 4096)):
        for where in ({"cache_position": positions}, {"q_length": 1 << 17, "q_offset": 0}):
            mask = sparse_mask(2, 1 << 17, 0, function, padding, **where)
            assert mask.numel() == 12
            facts = read_facts(mask)
            assert (facts.paddings, facts.query_offset, facts.key_offset, facts.window) == ((0, 9), 0, 0, window)


def test_a_new_batch_replaces_what_was_remembered_of_its_rows() -> None:
    """Rows of different padding are sequences of their own; nothing of them is left when others take their place."""
    model, ids = tiny_model("llama"), tokens(2, 12)
    padded = torch.ones_like(ids)
    padded[1, :3] = 0
    layers = model.config.num_hidden_layers
    with sparse(model, SPARSE) as handle:
        held = handle.dispatcher.sequences._sequences
        read(model, ids, first=8, mask=padded)
        assert len(held) == 2 * layers
        read(model, ids, first=8)
        assert len(held) == layers
        handle.reset()
        assert len(held) == 0
