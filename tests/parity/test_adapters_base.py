"""Records and interfaces of the adapters, and what importing them costs."""
import contextlib
import dataclasses
import subprocess
import sys
import types

import pytest
import sparse_attention_hub.adapters as adapters
import sparse_attention_hub.model_hub as model_hub
import sparse_attention_hub.model_hub.attention_adapter as attention_adapter
from sparse_attention_hub.adapters import base
from sparse_attention_hub.adapters.base import (
    ModelAdapter,
    ModelHubAdapterInterface,
    Request,
    RequestResponse,
    SparseAttentionAdapterInterface,
)

# The name of the attention module, which these tests replace.
ATTENTION = "sparse_attention_hub.sparse_attention.base"


@pytest.fixture
def attention(monkeypatch):
    """Stands for the attention module: create_from_config returns what it was given."""
    module = types.ModuleType(ATTENTION)
    package = types.ModuleType(ATTENTION.rpartition(".")[0])
    package.__path__ = []

    class SparseAttention:
        @classmethod
        def create_from_config(cls, config):
            if config == "unknown":
                raise ValueError("no attention for this config")
            return ("built from", config)

    module.SparseAttention = SparseAttention
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, ATTENTION, module)


class Adapter(ModelAdapter):
    sparse = False

    def process_request(self, request, generation_kwargs, request_kwargs):
        return RequestResponse(responses=[f"{q}: {self.sparse}" for q in request.questions])

    def get_custom_attention_function(self, sparse_attention):
        return lambda *args, **kwargs: sparse_attention

    @contextlib.contextmanager
    def enable_sparse_mode(self):
        self.sparse = True
        yield
        self.sparse = False


def test_request_keeps_what_it_gets():
    request = Request(context="c", questions="q")
    assert (request.context, request.questions, request.answer_prefix) == ("c", "q", "")
    questions = ["q1", "q2"]
    request = Request("c", questions, "a")
    assert request.questions is questions
    assert request.answer_prefix == "a"
    assert Request("", []) == Request(context="", questions=[], answer_prefix="")
    assert Request("c", "q") != Request("c", "r")
    assert [f.name for f in dataclasses.fields(Request)] == [
        "context", "questions", "answer_prefix"]


def test_response_keeps_what_it_gets():
    assert RequestResponse("a").responses == "a"
    assert RequestResponse(responses=["a", ""]).responses == ["a", ""]
    assert RequestResponse([]).responses == []


@pytest.mark.parametrize("interface, method", [
    (ModelHubAdapterInterface, "process_request"),
    (SparseAttentionAdapterInterface, "get_custom_attention_function")])
def test_interfaces_are_abstract(interface, method):
    with pytest.raises(TypeError, match=method):
        interface()
    assert interface.__abstractmethods__ == {method}


def test_model_adapter_is_both_interfaces_and_abstract():
    assert issubclass(ModelAdapter, ModelHubAdapterInterface)
    assert issubclass(ModelAdapter, SparseAttentionAdapterInterface)
    assert ModelAdapter.__abstractmethods__ == {
        "process_request", "get_custom_attention_function", "enable_sparse_mode"}
    with pytest.raises(TypeError, match="abstract"):
        ModelAdapter("model", None)


def test_dense_only():
    adapter = Adapter("model", None)
    assert adapter.model_name == "model"
    assert adapter.sparse_attention_config is None
    assert adapter.sparse_attention is None
    assert adapter.kwargs == {}


def test_attention_is_built_from_the_config(attention):
    adapter = Adapter(model_name="model", sparse_attention_config="config", device="cpu", n=1)
    assert adapter.sparse_attention_config == "config"
    assert adapter.sparse_attention == ("built from", "config")
    assert adapter.kwargs == {"device": "cpu", "n": 1}
    attend = adapter.get_custom_attention_function(adapter.sparse_attention)
    assert attend() == adapter.sparse_attention


def test_an_unknown_config_is_an_error(attention):
    with pytest.raises(ValueError, match="no attention for this config"):
        Adapter("model", "unknown")


def test_dense_unless_sparse_mode_is_on():
    adapter = Adapter("model", None)
    request = Request("c", ["q"])
    assert adapter.process_request(request, {}, {}).responses == ["q: False"]
    with adapter.enable_sparse_mode():
        assert adapter.process_request(request, {}, {}).responses == ["q: True"]


def test_older_paths():
    for name in ("ModelAdapter", "ModelHubAdapterInterface", "Request", "RequestResponse",
                 "SparseAttentionAdapterInterface"):
        assert getattr(model_hub, name) is getattr(base, name)
        assert getattr(attention_adapter, name) is getattr(base, name)
        assert getattr(adapters, name) is getattr(base, name)


def test_every_exported_name_exists():
    for name in adapters.__all__:
        if name == "ModelAdapterHF":  # has tests of its own
            continue
        assert getattr(adapters, name).__name__ == name
    assert set(adapters.__all__) <= set(dir(adapters))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sparse_attention_hub.adapters'.*'ModelAdaptor'"):
        adapters.ModelAdaptor
    with pytest.raises(ImportError):
        from sparse_attention_hub.adapters import ModelAdaptor  # noqa: F401


def test_importing_loads_nothing_heavy():
    code = """
import sys
import sparse_attention_hub.adapters, sparse_attention_hub.adapters.model_servers
import sparse_attention_hub.adapters.model_servers.model_registry, sparse_attention_hub.model_hub
import sparse_attention_hub.metric_logging, sparse_attention_hub.plotting
from sparse_attention_hub.adapters import ModelServer, ModelServerConfig, Request
heavy = {"transformers", "yaml", "matplotlib", "ray", "pandas"} & set(sys.modules)
assert not heavy, heavy
from sparse_attention_hub.adapters.model_servers import ModelServerHF
assert "transformers" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
