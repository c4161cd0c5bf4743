"""ModelAdapterHF with a model and a tokenizer that are not there: what it asks for and what it keeps."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import MagicMock, Mock, patch

import pytest
import torch

from sparse_attention_hub import ModelAdapterHF, Request, ResearchAttentionConfig
from sparse_attention_hub.adapters.model_servers.base import ModelServer
from sparse_attention_hub.sparse_attention import (
    HashAttentionConfig,
    LocalMaskerConfig,
    SinkMaskerConfig,
    SparseAttention,
    SparseAttentionConfig,
)

SERVER = "sparse_attention_hub.adapters.model_servers.huggingface"
CONFIG = ResearchAttentionConfig(masker_configs=[SinkMaskerConfig(sink_size=4), LocalMaskerConfig(window_size=4)])


@pytest.fixture(autouse=True)
def fresh_server():
    ModelServer._instance = None
    yield
    ModelServer._instance = None


@pytest.fixture
def loaders():
    """(the class of models, the class of tokenizers), both replaced."""
    with patch(f"{SERVER}.AutoModelForCausalLM") as models, patch(f"{SERVER}.AutoTokenizer") as tokenizers:
        model = MagicMock()
        model.to.return_value = model
        model.named_modules.return_value = []
        models.from_pretrained.return_value = model
        tokenizer = MagicMock(pad_token=None, eos_token="<end>")
        tokenizers.from_pretrained.return_value = tokenizer
        yield models, tokenizers


def test_defaults(loaders):
    adapter = ModelAdapterHF("some/model", CONFIG)
    assert adapter.model is loaders[0].from_pretrained.return_value
    assert adapter.model_kwargs == {} and adapter.tokenizer_kwargs == {}
    assert adapter.torch_dtype is torch.float32
    assert adapter.hybrid is False
    assert adapter.model_registry_path == "" and adapter.allow_unregistered_models is True
    assert adapter.tokenizer.pad_token == "<end>"
    assert adapter._sparse_attention_available and adapter._registered_attention_name is None
    assert len(adapter.random_separator) == 100


def test_arguments_reach_the_loaders(loaders):
    adapter = ModelAdapterHF(
        "some/model",
        None,
        model_kwargs={"torch_dtype": torch.bfloat16},
        tokenizer_kwargs={"padding_side": "left"},
        device="cpu",
        hybrid=True,
        model_registry_path=3,
        allow_unregistered_models="yes",
    )
    assert adapter.torch_dtype is torch.bfloat16 and adapter.hybrid is True and adapter.device == "cpu"
    assert adapter.model_registry_path == "" and adapter.allow_unregistered_models is True
    assert loaders[0].from_pretrained.call_args.kwargs["torch_dtype"] is torch.bfloat16
    assert loaders[1].from_pretrained.call_args.kwargs["padding_side"] == "left"
    assert not adapter._sparse_attention_available


@pytest.mark.parametrize("cuda", [True, False])
@pytest.mark.parametrize(
    "device, gpu",
    [
        ("cuda", 0),
        ("cuda:0", 0),
        ("cuda:3", 3),
        ("cuda:x", None),
        ("cpu", None),
        ("mps", None),
        (0, 0),
        (2, 2),
        (torch.device("cuda", 1), 1),
        (torch.device("cpu"), None),
    ],
)
def test_the_gpu_of_a_device(loaders, device, gpu, cuda):
    with patch("torch.cuda.is_available", return_value=cuda), patch(
        "sparse_attention_hub.adapters.huggingface.ModelServerHF.get_model"
    ) as get_model:
        ModelAdapterHF("some/model", None, device=device)
    assert get_model.call_args.args[1] == (None if device == "cuda" and not cuda else gpu)


@pytest.mark.parametrize(
    "device, name", [(3, "cuda:3"), (torch.device("cpu"), "cpu"), (torch.device("cuda", 1), "cuda:1"), ("cuda", "cuda")]
)
def test_the_device_is_kept_as_text(loaders, device, name):
    assert ModelAdapterHF("some/model", None, device=device).device == name


def test_the_attention_function_is_made_and_its_name_is_unique(loaders):
    adapter = ModelAdapterHF("some/model", CONFIG, device="cpu")
    assert callable(adapter.get_custom_attention_function(adapter.sparse_attention))
    names = {adapter._generate_unique_attention_name() for _ in range(50)}
    assert len(names) == 50
    for name in names:
        prefix, tail = name[:17], name[17:]
        assert prefix == "sparse_attention_" and len(tail) == 8
        assert all(c.isdigit() or ("a" <= c <= "z") for c in tail)


def test_sparse_mode_changes_every_module_with_a_config_and_puts_it_back(loaders):
    configs = [SimpleNamespace(_attn_implementation="eager"), SimpleNamespace(_attn_implementation="sdpa")]
    modules = [("a", SimpleNamespace(config=configs[0])), ("b", SimpleNamespace()), ("c", SimpleNamespace(config=configs[1]))]
    loaders[0].from_pretrained.return_value.named_modules.return_value = modules
    adapter = ModelAdapterHF("some/model", CONFIG, device="cpu")
    with adapter.enable_sparse_mode():
        first = adapter._registered_attention_name
        assert [c._attn_implementation for c in configs] == [first, first]
    assert [c._attn_implementation for c in configs] == ["eager", "sdpa"]
    with pytest.raises(ZeroDivisionError), adapter.enable_sparse_mode():
        raise ZeroDivisionError
    assert [c._attn_implementation for c in configs] == ["eager", "sdpa"]
    assert adapter._registered_attention_name == first, "the name is used again"


def test_sparse_mode_of_a_dense_adapter(loaders):
    adapter = ModelAdapterHF("some/model", None, device="cpu")
    with pytest.raises(RuntimeError, match="^Cannot enable sparse mode: sparse attention is not available"):
        with adapter.enable_sparse_mode():
            pass


def test_other_kinds_of_attention(loaders):
    class Mine(SparseAttention):
        def custom_attention(self, *args, **kwargs):
            raise AssertionError("not called")

    adapter = ModelAdapterHF("some/model", CONFIG, device="cpu")
    adapter.sparse_attention = Mine(SparseAttentionConfig())
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="^Sparse attention is not supported for this model yet"):
            with adapter.enable_sparse_mode():
                pass
        assert adapter._registered_attention_name is None


def test_methods_of_the_efficient_engine_run_in_it(loaders, tmp_path):
    layer = {
        f"{side}_{kind}": [torch.randn(4, 8, 16) if kind == "matrix" else torch.randn(4, 16)]
        for side in ("query", "key")
        for kind in ("matrix", "bias")
    }
    sizes = {"heavy_size": 4, "sink_size": 1, "local_size": 1}
    config = HashAttentionConfig(**sizes, hat_weights={7: layer}, hat_bits=16, hat_mlp_layers=1, hat_mlp_hidden_size=8)
    adapter = ModelAdapterHF("some/model", config, device="cpu")
    with adapter.enable_sparse_mode():
        assert adapter._registered_attention_name is not None
    function = adapter.get_custom_attention_function(adapter.sparse_attention)
    q, k = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 40, 8)
    module = SimpleNamespace(layer_idx=7, num_key_value_groups=2, training=False)
    out, weights = function(module, q, k, k, None, scaling=8**-0.5, sparse_meta_data={})
    expected, _ = adapter.sparse_attention.custom_attention(
        None, q, k, k, None, 8**-0.5, 0.0, sparse_meta_data={}, layer_idx=7
    )
    assert torch.equal(out, expected) and weights is None


def test_the_attention_function_forwards_to_custom_attention(loaders):
    class Attention:
        def custom_attention(self, **kwargs):
            self.kwargs = kwargs
            return "out", "weights"

    attention = Attention()
    function = ModelAdapterHF("some/model", CONFIG, device="cpu").get_custom_attention_function(attention)
    q, k = torch.randn(1, 4, 2, 8), torch.randn(1, 2, 6, 8)
    module = SimpleNamespace(layer_idx=7)
    with pytest.raises(ValueError, match="sparse_meta_data must be provided while calling model.forward"):
        function(module, q, k, k, None)
    meta = {"x": 1}
    assert function(module, q, k, k, None, sparse_meta_data=meta, s_aux="sinks") == ("out", "weights")
    assert attention.kwargs["layer_idx"] == 7 and attention.kwargs["sparse_meta_data"] is meta
    assert attention.kwargs["scaling"] == 1.0 and attention.kwargs["dropout"] == 0.0
    assert attention.kwargs["queries"] is q and attention.kwargs["s_aux"] == "sinks"


def test_a_custom_attention_replaced_on_the_object_is_called(loaders):
    """A pipeline of C++ maskers too then goes through its Python layer, and again past it afterwards."""
    adapter = ModelAdapterHF("some/model", CONFIG, device="cpu")
    function = adapter.get_custom_attention_function(adapter.sparse_attention)
    q, k = torch.randn(1, 4, 1, 8), torch.randn(1, 2, 20, 8)
    module = SimpleNamespace(layer_idx=0, num_key_value_groups=2, training=False)
    with patch.object(adapter.sparse_attention, "custom_attention", return_value=("mine", None)) as replaced:
        assert function(module, q, k, k, None, sparse_meta_data={}) == ("mine", None)
    assert replaced.call_args.kwargs["layer_idx"] == 0 and replaced.call_args.kwargs["queries"] is q
    out, _ = function(module, q, k, k, None, sparse_meta_data={})
    assert out.shape == (1, 1, 4, 8)
    replaced.assert_called_once()


@pytest.mark.parametrize("added", [0, 1, None])
def test_the_tokenizer_is_tried_out_only_if_it_adds_tokens(loaders, added):
    model, tokenizer = loaders[0].from_pretrained.return_value, loaders[1].from_pretrained.return_value
    cache = Mock()  # of a kind nobody knows
    model.side_effect = lambda **kwargs: SimpleNamespace(logits=torch.tensor([[[0.0, 1.0]]]), past_key_values=cache)
    model.generation_config = SimpleNamespace(eos_token_id=1)
    model.device = torch.device("cpu")
    tokenizer.chat_template = None
    tokenizer.encode.side_effect = lambda text, return_tensors, add_special_tokens: torch.tensor([[len(text)]])
    tokenizer.decode.side_effect = ["first", "second"]
    if added is None:
        del tokenizer.num_special_tokens_to_add  # it cannot tell
    else:
        tokenizer.num_special_tokens_to_add.return_value = added
    adapter = ModelAdapterHF("some/model", None, device="cpu")
    response = adapter.process_request(Request("a context", ["one", "two"]), {}, {})
    assert response.responses == ["first", "second"]
    texts = [call.args[0] for call in tokenizer.encode.call_args_list]
    assert texts[-3:] == ["a context", "one", "two"]
    assert len(texts) == (3 if added == 0 else 5)


def test_a_request_through_stand_ins(loaders):
    """The calls of model and tokenizer for two questions of a chat model."""
    model, tokenizer = loaders[0].from_pretrained.return_value, loaders[1].from_pretrained.return_value
    seen = []

    def forward(input_ids, past_key_values, use_cache, **kwargs):
        seen.append(input_ids.tolist()[0])
        logits = torch.zeros(1, 1, 5)
        logits[0, 0, 3] = 1
        return SimpleNamespace(logits=logits, past_key_values=past_key_values)

    model.side_effect = forward
    model.device = torch.device("cpu")
    model.generation_config = SimpleNamespace(eos_token_id=[4])
    tokenizer.encode.side_effect = lambda text, return_tensors, add_special_tokens: torch.tensor(
        [[1] * add_special_tokens + [ord(c) for c in text]]
    )
    tokenizer.num_special_tokens_to_add.return_value = 1
    tokenizer.apply_chat_template.side_effect = lambda m, tokenize, add_generation_prompt: f"<{m[0]['content']}>"
    tokenizer.decode.side_effect = lambda ids, skip_special_tokens: str(list(ids))
    adapter = ModelAdapterHF("some/model", None, device="cpu")
    response = adapter.process_request(Request("ab", ["c", "d"], "e"), {"max_new_tokens": 2}, {"max_context_length": 3})
    assert response.responses == ["[3, 3]", "[3, 3]"]
    context = [1, ord("<"), ord("a")]
    assert seen == [context, [ord(x) for x in "c>e"], [3], [ord(x) for x in "d>e"], [3]]
