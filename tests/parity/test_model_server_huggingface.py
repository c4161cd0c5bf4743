"""The server of transformers models: loading, placing, deleting, and checkpoints in folders."""
import logging
import socket
from unittest.mock import MagicMock, Mock, patch

import pytest
import torch
import transformers
from sparse_attention_hub.adapters.model_servers import huggingface
from sparse_attention_hub.adapters.model_servers.base import ModelServer
from sparse_attention_hub.adapters.model_servers.huggingface import ModelServerHF
from sparse_attention_hub.adapters.model_servers.model_registry import (
    ModelRegistryError,
    RegistryEntry,
)
from sparse_attention_hub.adapters.utils.config import ModelServerConfig
from sparse_attention_hub.adapters.utils.exceptions import (
    ModelCreationError,
    ResourceCleanupError,
    TokenizerCreationError,
)

MODULE = "sparse_attention_hub.adapters.model_servers.huggingface"


@pytest.fixture(autouse=True)
def no_server():
    ModelServer._instance = None
    yield
    ModelServer._instance = None


@pytest.fixture
def server():
    return ModelServerHF()


@pytest.fixture
def auto_model():
    """The automatic class; it returns a model whose `to` returns the model."""
    with patch(f"{MODULE}.AutoModelForCausalLM") as auto_model:
        auto_model.from_pretrained.return_value.to.return_value = (
            auto_model.from_pretrained.return_value)
        yield auto_model


@pytest.fixture
def auto_tokenizer():
    with patch(f"{MODULE}.AutoTokenizer") as auto_tokenizer:
        auto_tokenizer.from_pretrained.return_value = Mock(pad_token=None, eos_token="</s>")
        yield auto_tokenizer


@pytest.fixture(params=[True, False], ids=["cuda", "no cuda"])
def cuda(request):
    with patch.object(torch.cuda, "is_available", return_value=request.param):
        yield request.param


@pytest.fixture
def with_cuda():
    with patch.object(torch.cuda, "is_available", return_value=True):
        yield


@pytest.fixture
def without_cuda():
    with patch.object(torch.cuda, "is_available", return_value=False):
        yield


def registry_server(tmp_path, text, **config):
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return ModelServerHF(ModelServerConfig(model_registry_path=str(path), **config))


# Loading and placing.

def test_it_is_the_process_wide_server(server):
    assert isinstance(server, ModelServer)
    assert ModelServerHF() is server
    assert ModelServerHF(ModelServerConfig(model_registry_path="")) is server


def test_a_model_goes_to_its_gpu(server, auto_model, cuda, caplog):
    with caplog.at_level(logging.WARNING):
        model = server._create_model("name", 1, {"torch_dtype": torch.float16, "use_cache": True})
    auto_model.from_pretrained.assert_called_once_with(
        "name", torch_dtype=torch.float16, use_cache=True)
    model.to.assert_called_once_with("cuda:1" if cuda else "cpu")
    assert ("no CUDA for GPU 1" in caplog.text) == (not cuda)


def test_a_model_without_a_gpu_stays_on_the_cpu(server, auto_model, cuda, caplog):
    with caplog.at_level(logging.WARNING):
        model = server._create_model("name", None, {})
    auto_model.from_pretrained.assert_called_once_with("name")
    model.to.assert_called_once_with("cpu")
    assert caplog.text == ""


@pytest.mark.parametrize("gpu_id", [None, 0])
def test_a_device_map_places_the_model(server, auto_model, with_cuda, gpu_id):
    model = server._create_model("name", gpu_id, {"device_map": "auto"})
    auto_model.from_pretrained.assert_called_once_with("name", device_map="auto")
    model.to.assert_not_called()


def test_no_device_map_is_no_device_map(server, auto_model):
    server._create_model("name", None, {"device_map": None}).to.assert_called_once_with("cpu")


def test_what_to_returns_is_the_model(server, auto_model):
    auto_model.from_pretrained.return_value.to.return_value = "moved"
    assert server._create_model("name", None, {}) == "moved"


@pytest.mark.parametrize("failing", ["from_pretrained", "to"])
def test_a_failure_is_a_creation_error(server, auto_model, failing):
    method = (auto_model.from_pretrained if failing == "from_pretrained"
              else auto_model.from_pretrained.return_value.to)
    method.side_effect = OSError("no such thing")
    for create in (server._create_model, server.get_model):
        with pytest.raises(ModelCreationError, match="no such thing") as error:
            create("name", 3, {})
        assert (error.value.model_name, error.value.gpu_id) == ("name", 3)
        assert error.value.original_error is method.side_effect


@pytest.mark.parametrize("argument", ["attn_implementation", "attention_implementation"])
@pytest.mark.parametrize("value", ["flex_attention", "flex"])
def test_no_flex_attention_falls_back_to_eager(server, auto_model, caplog, argument, value):
    model = auto_model.from_pretrained.return_value
    auto_model.from_pretrained.side_effect = [
        ValueError("SomeModel does not support an attention implementation through "
                   "torch's flex_attention."), model]
    with caplog.at_level(logging.WARNING):
        assert server._create_model("name", None, {argument: value, "a": 1}) is model
    first, second = auto_model.from_pretrained.call_args_list
    assert first.kwargs == {argument: value, "a": 1}
    assert second.kwargs == {"attn_implementation": "eager", "a": 1}
    assert "does not support flex_attention" in caplog.text


@pytest.mark.parametrize("kwargs, text", [
    ({}, "flex_attention is not supported"),
    ({"attn_implementation": "sdpa"}, "flex_attention is not supported"),
    ({"attn_implementation": "flex_attention"}, "unknown argument"),
    ({"attn_implementation": "flex_attention"}, "flex_attention needs a newer torch"),
    ({"attn_implementation": "flex_attention"}, "sdpa is not supported")])
def test_other_value_errors_are_errors(server, auto_model, kwargs, text):
    auto_model.from_pretrained.side_effect = ValueError(text)
    with pytest.raises(ModelCreationError, match=text):
        server._create_model("name", None, kwargs)
    auto_model.from_pretrained.assert_called_once()


def test_a_tokenizer_pads_with_the_end_of_the_sequence(server, auto_tokenizer):
    tokenizer = server._create_tokenizer("name", {"padding_side": "left"})
    auto_tokenizer.from_pretrained.assert_called_once_with("name", padding_side="left")
    assert tokenizer.pad_token == "</s>"


def test_a_padding_token_stays(server, auto_tokenizer):
    auto_tokenizer.from_pretrained.return_value.pad_token = "<pad>"
    assert server.get_tokenizer("name", {}).pad_token == "<pad>"
    auto_tokenizer.from_pretrained.assert_called_once_with("name")


def test_a_failed_tokenizer(server, auto_tokenizer):
    auto_tokenizer.from_pretrained.side_effect = OSError("no such thing")
    with pytest.raises(TokenizerCreationError) as error:
        server.get_tokenizer("name", {})
    assert error.value.tokenizer_name == "name"
    assert error.value.original_error is auto_tokenizer.from_pretrained.side_effect


# Deleting.

def test_a_model_is_moved_off_its_gpu(server, with_cuda):
    calls = Mock()
    model = Mock(to=calls.to)
    with patch(f"{MODULE}.gc.collect", calls.collect), \
            patch(f"{MODULE}.cleanup_gpu_memory", calls.cleanup):
        server._delete_model(model, 2)
    assert [call[0] for call in calls.mock_calls] == ["to", "collect", "cleanup"]
    calls.to.assert_called_once_with("cpu")
    calls.cleanup.assert_called_once_with(2)


@pytest.mark.parametrize("gpu_id, available", [(None, True), (None, False), (0, False)])
def test_a_model_on_the_cpu_is_only_collected(server, gpu_id, available):
    model = Mock()
    with patch.object(torch.cuda, "is_available", return_value=available), \
            patch(f"{MODULE}.gc.collect") as collect, \
            patch(f"{MODULE}.cleanup_gpu_memory") as cleanup:
        server._delete_model(model, gpu_id)
    model.to.assert_not_called()
    collect.assert_called_once_with()
    cleanup.assert_not_called()


def test_memory_of_a_model_placed_by_device_map_is_cleaned_up(server, with_cuda):
    model = torch.nn.Linear(1, 1)
    with patch(f"{MODULE}.cleanup_gpu_memory") as cleanup:
        server._delete_model(model, None)
        cleanup.assert_not_called()
        with patch.object(huggingface, "_holds_cuda", return_value=True):
            server._delete_model(model, None)
        cleanup.assert_called_once_with(None)


def test_trouble_with_the_gpu_is_a_warning(server, with_cuda, caplog):
    model = Mock()
    model.to.side_effect = RuntimeError("will not move")
    with patch(f"{MODULE}.gc.collect") as collect, \
            patch(f"{MODULE}.cleanup_gpu_memory", side_effect=RuntimeError("will not clean")), \
            caplog.at_level(logging.WARNING):
        server._delete_model(model, 0)
    collect.assert_called_once_with()
    assert "will not move" in caplog.text
    assert "will not clean" in caplog.text


@pytest.mark.parametrize("kind", ["model", "tokenizer"])
def test_other_trouble_is_a_cleanup_error(server, kind):
    failure = MemoryError("no memory")
    with patch(f"{MODULE}.gc.collect", side_effect=failure):
        with pytest.raises(ResourceCleanupError) as error:
            if kind == "model":
                server._delete_model(Mock(), None)
            else:
                server._delete_tokenizer(Mock())
    assert error.value.resource_type == kind
    assert error.value.original_error is failure


def test_a_tokenizer_is_collected(server):
    with patch(f"{MODULE}.gc.collect") as collect:
        server._delete_tokenizer(Mock())
    collect.assert_called_once_with()


def test_a_whole_life(auto_model, auto_tokenizer, without_cuda):
    server = ModelServerHF(ModelServerConfig(delete_on_zero_reference=True))
    kwargs = {"torch_dtype": torch.float16}
    model = server.get_model("name", 0, kwargs)
    assert server.get_model("name", 0, dict(kwargs)) is model
    server.get_tokenizer("name", {})
    auto_model.from_pretrained.assert_called_once()
    assert server.clear_model("name", 0, kwargs)
    assert server.get_model_stats()["total_references"] == 1
    assert server.clear_model("name", 0, kwargs)
    assert server.get_model_stats()["total_models"] == 0
    assert server.cleanup_unused()["tokenizers"] == {"deleted": 0, "skipped": 1}


# Devices.

def test_device_of_a_model(server, auto_model):
    auto_model.from_pretrained.return_value.device = torch.device("cuda", 3)
    model, device = server.get_model_with_device_info("name", 3, {})
    assert model is auto_model.from_pretrained.return_value
    assert device == "cuda:3"


@pytest.mark.parametrize("gpu", [None, 2])
def test_device_of_a_model_that_does_not_say(server, auto_model, cuda, gpu):
    model = Mock(spec=["to"])
    model.to.return_value = model
    auto_model.from_pretrained.return_value = model
    assert server.get_model_with_device_info("name", gpu, {})[1] == (
        "cuda:2" if cuda and gpu is not None else "cpu")


@pytest.mark.parametrize("gpu_id, usable", [(0, True), (1, True), (2, False), (-1, False)])
def test_usable_gpus(server, with_cuda, gpu_id, usable):
    with patch.object(torch.cuda, "device_count", return_value=2), \
            patch.object(torch.cuda, "device", MagicMock()), patch.object(torch, "zeros") as zeros:
        assert server.validate_gpu_availability(gpu_id) is usable
    assert zeros.called == usable


def test_no_cuda_no_usable_gpu(server, without_cuda):
    assert server.validate_gpu_availability(0) is False


def test_a_gpu_that_fails_is_not_usable(server, with_cuda, caplog):
    with patch.object(torch.cuda, "device_count", return_value=1), \
            patch.object(torch.cuda, "device", side_effect=RuntimeError("fell off the bus")), \
            caplog.at_level(logging.WARNING):
        assert server.validate_gpu_availability(0) is False
    assert "fell off the bus" in caplog.text


@pytest.mark.parametrize("gpu_id, device", [(1, 1), (None, 5)])
def test_gpu_memory(server, with_cuda, gpu_id, device):
    with patch.object(torch.cuda, "current_device", return_value=5), \
            patch.object(torch.cuda, "memory_allocated", return_value=3 << 29) as allocated, \
            patch.object(torch.cuda, "memory_reserved", return_value=2 << 30), \
            patch.object(torch.cuda, "get_device_properties",
                         return_value=Mock(total_memory=80 << 30)):
        assert server.get_gpu_memory_info(gpu_id) == {
            "allocated_gb": 1.5, "reserved_gb": 2.0, "total_gb": 80.0, "free_gb": 78.5}
    allocated.assert_called_once_with(device)


def test_gpu_memory_that_is_not_known(server, with_cuda):
    with patch.object(torch.cuda, "memory_allocated", side_effect=RuntimeError("fell off the bus")):
        assert server.get_gpu_memory_info(0) == {"error": "fell off the bus"}
    with patch.object(torch.cuda, "is_available", return_value=False):
        assert server.get_gpu_memory_info() == {"error": "CUDA not available"}


# Registry.

REGISTRY = """
models:
  org/one:
    model_class: LlamaForCausalLM
    default_model_kwargs: {dtype: float16, use_cache: false, a: 1}
  org/two:
    default_model_kwargs: {a: 1}
"""


def test_no_registry(server):
    assert server._get_model_registry() == {}


def test_the_registry_is_read_once(tmp_path):
    server = registry_server(tmp_path, REGISTRY)
    with patch(f"{MODULE}.load_model_registry", wraps=huggingface.load_model_registry) as load:
        assert list(server._get_model_registry()) == ["org/one", "org/two"]
        assert server._get_model_registry() is server._get_model_registry()
        assert load.call_count == 1
        (tmp_path / "other.yaml").write_text("models: {}")
        server.config.model_registry_path = str(tmp_path / "other.yaml")
        assert server._get_model_registry() == {}
        assert load.call_count == 2


def test_an_entry_gives_the_class_and_defaults(tmp_path, auto_model):
    server = registry_server(tmp_path, REGISTRY)
    with patch.object(transformers.LlamaForCausalLM, "from_pretrained") as from_pretrained:
        server.get_model("org/one", None, {"a": 2, "b": 3})
    from_pretrained.assert_called_once_with("org/one", dtype="float16", use_cache=False, a=2, b=3)
    auto_model.from_pretrained.assert_not_called()


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_the_dtype_of_the_caller_wins_under_both_names(tmp_path, name):
    server = registry_server(tmp_path, REGISTRY)
    with patch.object(transformers.LlamaForCausalLM, "from_pretrained") as from_pretrained:
        server.get_model("org/one", None, {name: torch.bfloat16})
    from_pretrained.assert_called_once_with(
        "org/one", use_cache=False, a=1, **{name: torch.bfloat16})


def test_an_entry_without_a_class(tmp_path, auto_model):
    server = registry_server(tmp_path, REGISTRY)
    server.get_model("org/two", None, {})
    auto_model.from_pretrained.assert_called_once_with("org/two", a=1)
    server.get_model("org/two", None, {"a": 2})
    assert server._get_model_registry()["org/two"].default_model_kwargs == {"a": 1}


def test_defaults_may_place_the_model(tmp_path, auto_model):
    server = registry_server(
        tmp_path, "models: {org/one: {default_model_kwargs: {device_map: auto}}}")
    server.get_model("org/one", 0, {}).to.assert_not_called()


def test_unregistered_models(tmp_path, auto_model, caplog):
    server = registry_server(tmp_path, REGISTRY)
    with caplog.at_level(logging.WARNING):
        server.get_model("org/three", None, {})
    auto_model.from_pretrained.assert_called_once_with("org/three")
    assert "org/three is not registered" in caplog.text


def test_unregistered_models_that_are_not_allowed(tmp_path, auto_model):
    server = registry_server(tmp_path, REGISTRY, allow_unregistered_models=False)
    with pytest.raises(ModelCreationError, match="org/three") as error:
        server.get_model("org/three", None, {})
    assert isinstance(error.value.original_error, ModelRegistryError)
    assert "org/three is not registered" in str(error.value.original_error)
    auto_model.from_pretrained.assert_not_called()
    server.get_model("org/two", None, {})


def test_without_a_registry_every_model_is_allowed(auto_model):
    ModelServerHF(ModelServerConfig(allow_unregistered_models=False)).get_model("name", None, {})
    auto_model.from_pretrained.assert_called_once_with("name")


def test_a_broken_registry_is_a_creation_error(auto_model, tmp_path):
    for server, text in [
            (ModelServerHF.keyed("gone", ModelServerConfig(model_registry_path="/gone.yaml")),
             "path does not exist"),
            (registry_server(tmp_path, "models: {org/one: {model_class: NoSuchModel}}"),
             "Failed to resolve model_class")]:
        with pytest.raises(ModelCreationError, match=text) as error:
            server.get_model("org/one", None, {})
        assert isinstance(error.value.original_error, ModelRegistryError)


def test_a_registry_that_somebody_else_provides(server, auto_model):
    entry = RegistryEntry("org/one", None, {"a": 1})
    with patch.object(server, "_get_model_registry", return_value={"org/one": entry}):
        server.get_model("org/one", None, {})
    auto_model.from_pretrained.assert_called_once_with("org/one", a=1)


# Checkpoints in folders.

@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random Llama of two layers with a tokenizer of single characters and no padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("checkpoint")
    vocabulary = {"</s>": 0, "<unk>": 1, **{c: i + 2 for i, c in enumerate("abcdefgh")}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Any connection is an error, and transformers is not told that there is none."""
    def refuse(*args, **kwargs):
        raise AssertionError(f"a connection was tried: {args}")

    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_folder_is_loaded_from_files_alone(server, auto_model, auto_tokenizer, tmp_path):
    server.get_model(str(tmp_path), None, {"a": 1})
    auto_model.from_pretrained.assert_called_once_with(str(tmp_path), local_files_only=True, a=1)
    server.get_tokenizer(str(tmp_path), {})
    auto_tokenizer.from_pretrained.assert_called_once_with(str(tmp_path), local_files_only=True)
    server.get_model(str(tmp_path), None, {"local_files_only": False})  # e.g. for code of others
    auto_model.from_pretrained.assert_called_with(str(tmp_path), local_files_only=False)


@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_folder_is_loaded_without_network(server, checkpoint, no_network, argument, dtype):
    model = server.get_model(str(checkpoint), None, {argument: dtype})
    assert {p.dtype for p in model.parameters()} == {dtype}
    tokenizer = server.get_tokenizer(str(checkpoint), {})
    assert tokenizer.pad_token == "</s>"
    ids = tokenizer("abc", return_tensors="pt").input_ids
    assert ids.tolist() == [[2, 3, 4]]
    with torch.no_grad():
        logits = model(ids).logits
    assert logits.shape == (1, 3, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("folder", ["/no/such/folder", "./no/such/folder", "~/no/such/folder"])
def test_a_missing_folder_is_named(server, no_network, folder):
    for call, error in ((lambda: server.get_model(folder, None, {}), ModelCreationError),
                        (lambda: server.get_tokenizer(folder, {}), TokenizerCreationError)):
        with pytest.raises(error, match="there is no folder .*no/such/folder"):
            call()


def test_the_same_weights_every_time(server, checkpoint):
    direct = transformers.LlamaForCausalLM.from_pretrained(checkpoint)
    served = server.get_model(str(checkpoint), None, {})
    assert str(served.device) == "cpu"
    for name, tensor in direct.state_dict().items():
        assert torch.equal(tensor, served.state_dict()[name])


def test_a_folder_below_the_home_folder(server, checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    model, device = server.get_model_with_device_info(f"~/{checkpoint.name}", None, {})
    assert model.config.num_hidden_layers == 2
    assert device == "cpu"


def test_a_folder_from_the_registry(tmp_path, checkpoint):
    server = registry_server(tmp_path, f"""
models:
  {checkpoint}:
    model_class: LlamaModel
    default_model_kwargs: {{dtype: bfloat16}}
""")
    model = server.get_model(str(checkpoint), None, {})
    assert type(model) is transformers.LlamaModel
    assert model.dtype == torch.bfloat16


def test_a_folder_without_a_model(server, tmp_path, no_network):
    with pytest.raises(ModelCreationError, match=str(tmp_path)):
        server.get_model(str(tmp_path), None, {})
    with pytest.raises(TokenizerCreationError, match=str(tmp_path)):
        server.get_tokenizer(str(tmp_path), {})


def test_deleting_a_real_model(server, checkpoint):
    server.get_model(str(checkpoint), None, {})
    server.clear_model(str(checkpoint), None, {})
    assert server.release_memory_and_clean(str(checkpoint), None, {}) is True
    assert server.get_model_stats()["total_models"] == 0
