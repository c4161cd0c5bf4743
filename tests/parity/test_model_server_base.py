"""The reference-counted cache: one server a process, counting, deleting, failing."""
import dataclasses
import gc
import logging
import threading
import weakref
from datetime import datetime

import pytest
from sparse_attention_hub.adapters.model_servers.base import (
    ModelEntry,
    ModelServer,
    TokenizerEntry,
    server_for,
)
from sparse_attention_hub.adapters.utils.config import ModelServerConfig
from sparse_attention_hub.adapters.utils.exceptions import (
    ModelCreationError,
    ModelServerConflictError,
    ReferenceCountError,
    ResourceCleanupError,
    TokenizerCreationError,
)


class Thing:
    def __init__(self, name, place=None):
        self.name, self.place = name, place


class Server(ModelServer):
    """Makes and deletes things, fails where a name says so."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log = []

    def _create_model(self, model_name, gpu_id, model_kwargs):
        if "broken" in model_name:
            raise OSError("no such file")
        self.log.append(("create", model_name, gpu_id, model_kwargs))
        return Thing(model_name, gpu_id)

    def _create_tokenizer(self, tokenizer_name, tokenizer_kwargs):
        if "broken" in tokenizer_name:
            raise OSError("no such file")
        self.log.append(("create", tokenizer_name, tokenizer_kwargs))
        return Thing(tokenizer_name)

    def _delete_model(self, model, gpu_id):
        if "stuck" in model.name:
            raise RuntimeError("will not go")
        self.log.append(("delete", model.name, gpu_id))

    def _delete_tokenizer(self, tokenizer):
        if "stuck" in tokenizer.name:
            raise RuntimeError("will not go")
        self.log.append(("delete", tokenizer.name))


class OtherServer(Server):
    pass


@pytest.fixture(autouse=True)
def no_server():
    ModelServer._instance = None
    yield
    ModelServer._instance = None


@pytest.fixture(params=["model", "tokenizer"])
def kind(request):
    """The operations of a kind of thing under the same names."""
    return KINDS[request.param]


class ModelOperations:
    name, key, creation_error = "model", "m|0|empty", ModelCreationError

    @staticmethod
    def get(server, name="m", kwargs=None):
        return server.get_model(name, 0, kwargs or {})

    @staticmethod
    def clear(server, name="m"):
        return server.clear_model(name, 0, {})

    @staticmethod
    def release(server, name="m", **force):
        return server.release_memory_and_clean(name, 0, {}, **force)

    @staticmethod
    def release_all(server, **force):
        return server.release_memory_and_clean_all(**force)

    @staticmethod
    def stats(server):
        return server.get_model_stats()


class TokenizerOperations:
    name, key, creation_error = "tokenizer", "m|empty", TokenizerCreationError

    @staticmethod
    def get(server, name="m", kwargs=None):
        return server.get_tokenizer(name, kwargs or {})

    @staticmethod
    def clear(server, name="m"):
        return server.clear_tokenizer(name, {})

    @staticmethod
    def release(server, name="m", **force):
        return server.release_tokenizer_and_clean(name, {}, **force)

    @staticmethod
    def release_all(server, **force):
        return server.release_tokenizers_and_clean_all(**force)

    @staticmethod
    def stats(server):
        return server.get_tokenizer_stats()


KINDS = {"model": ModelOperations, "tokenizer": TokenizerOperations}


def stats(kind, references, zero, keys):
    return {f"total_{kind.name}s": len(keys), "total_references": references,
            f"zero_reference_{kind.name}s": zero, f"{kind.name}_keys": keys}


# Records.

def test_entries():
    before = datetime.now()
    model = ModelEntry("m", 1, None, {"a": 1})
    tokenizer = TokenizerEntry(tokenizer="t", reference_count=2, tokenizer_kwargs={})
    for entry in (model, tokenizer):
        assert before <= entry.creation_time <= datetime.now()
        assert before <= entry.last_access_time <= datetime.now()
    assert [f.name for f in dataclasses.fields(ModelEntry)] == [
        "model", "reference_count", "gpu_id", "model_kwargs", "creation_time", "last_access_time"]
    assert [f.name for f in dataclasses.fields(TokenizerEntry)] == [
        "tokenizer", "reference_count", "tokenizer_kwargs", "creation_time", "last_access_time"]


# One server.

def test_it_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        ModelServer()
    assert ModelServer._instance is None


def test_one_server_a_process():
    assert Server() is Server()
    assert ModelServer._instance is Server()
    assert Server().config == ModelServerConfig()
    assert Server().logger.name.endswith(".Server")


def test_the_first_config_stays():
    config = ModelServerConfig(delete_on_zero_reference=True)
    server = Server(config)
    assert server.config is config
    assert Server() is server
    assert Server(ModelServerConfig(delete_on_zero_reference=True)) is server


def test_another_config_is_an_error():
    Server()
    with pytest.raises(ValueError, match="^Trying to create ModelServer with different config "
                                         "when instance already exists: .*reference=True"):
        Server(ModelServerConfig(delete_on_zero_reference=True))


def test_another_class_is_an_error():
    Server()
    for config in (None, ModelServerConfig()):
        with pytest.raises(ValueError, match="^Trying to create ModelServer with different "
                           "concrete class when instance already exists: .*OtherServer"):
            OtherServer(config)


def test_no_registry_does_not_differ_from_an_empty_path():
    # The hub's adapters ask for "" and fail after a server with the default config.
    server = Server()
    assert Server(ModelServerConfig(model_registry_path="")) is server


def test_a_new_server_after_a_reset():
    first = Server()
    ModelServer._instance = None
    assert Server(ModelServerConfig(enable_stats_logging=False)) is not first


def test_threads_get_the_same_server():
    barrier = threading.Barrier(16)
    servers = []

    def make():
        barrier.wait()
        servers.append(Server())

    threads = [threading.Thread(target=make) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(servers) == 16
    assert len(set(map(id, servers))) == 1


# Servers beside it.

def test_server_for_prefers_the_process_wide_server():
    server = server_for(Server, ModelServerConfig())
    assert server is ModelServer._instance
    assert server_for(Server, ModelServerConfig(model_registry_path="")) is server


def test_server_for_another_config_or_class():
    shared = Server()
    config = ModelServerConfig(model_registry_path="models.yaml")
    other = server_for(Server, config)
    assert other is not shared
    assert other.config == config
    assert server_for(Server, ModelServerConfig(model_registry_path="models.yaml")) is other
    different_class = server_for(OtherServer, ModelServerConfig())
    assert type(different_class) is OtherServer
    assert ModelServer._instance is shared
    other.get_model("m", 0, {})
    assert shared.get_model_stats()["total_models"] == 0


def test_server_for_passes_other_errors_on():
    class Picky(Server):
        def __init__(self, config=None):
            raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        server_for(Picky, ModelServerConfig())


def test_keyed_servers():
    first = Server.keyed("first")
    assert Server.keyed("first") is first
    assert Server.keyed("second") is not first
    assert OtherServer.keyed("first") is not first
    assert ModelServer._instance is None
    with pytest.raises(ModelServerConflictError, match="different config"):
        Server.keyed("first", ModelServerConfig(delete_on_zero_reference=True))


def test_a_keyed_server_goes_with_its_last_holder_and_takes_its_models():
    server = Server.keyed("short lived")
    server.get_model("m", 0, {})
    log, ref = server.log, weakref.ref(server)
    del server
    gc.collect()
    assert ref() is None
    assert log[-1] == ("delete", "m", 0)


# Counting.

def test_a_thing_is_made_once(kind):
    server = Server()
    thing = kind.get(server)
    assert kind.get(server) is thing
    assert len(server.log) == 1
    assert kind.stats(server) == stats(kind, 2, 0, [kind.key])


def test_models_differ_by_name_place_and_arguments():
    server = Server()
    models = [server.get_model("a", 0, {}), server.get_model("b", 0, {}),
              server.get_model("a", 1, {}), server.get_model("a", None, {}),
              server.get_model("a", 0, {"dtype": "float16"})]
    assert len(set(map(id, models))) == 5
    assert server.get_model_stats()["model_keys"][3] == "a|cpu|empty"
    assert [entry.gpu_id for entry in server._models.values()] == [0, 0, 1, None, 0]
    assert server.log[-1] == ("create", "a", 0, {"dtype": "float16"})
    assert server.get_model(model_name="a", gpu=0, model_kwargs={}) is models[0]


def test_entries_keep_a_copy_of_the_arguments():
    kwargs = {"a": 1}
    server = Server()
    server.get_model("m", 0, kwargs)
    server.get_tokenizer("m", kwargs)
    kwargs["a"] = 2
    assert [e.model_kwargs for e in server._models.values()] == [{"a": 1}]
    assert [e.tokenizer_kwargs for e in server._tokenizers.values()] == [{"a": 1}]


def test_a_hit_is_noted():
    server = Server()
    server.get_model("m", 0, {})
    entry = server._models["m|0|empty"]
    created = entry.creation_time
    entry.last_access_time = datetime(2000, 1, 1)
    server.get_model("m", 0, {})
    assert entry.last_access_time >= created
    assert entry.creation_time == created


def test_references_are_given_back(kind):
    server = Server()
    kind.get(server)
    kind.get(server)
    assert kind.clear(server) is True
    assert kind.stats(server) == stats(kind, 1, 0, [kind.key])
    assert kind.clear(server) is True
    assert kind.stats(server) == stats(kind, 0, 1, [kind.key])
    assert server.log[-1][0] == "create"  # it stays for the next
    kind.get(server)
    assert len(server.log) == 1


def test_more_references_back_than_out(kind):
    server = Server()
    kind.get(server)
    kind.clear(server)
    with pytest.raises(ReferenceCountError) as error:
        kind.clear(server)
    assert (error.value.resource_key, error.value.operation) == (kind.key, "decrement")
    kind.get(server)
    assert kind.stats(server)["total_references"] == 1  # the failure left no trace


def test_unknown_things_are_warnings(kind, caplog):
    server = Server()
    with caplog.at_level(logging.WARNING):
        assert kind.clear(server) is False
        assert kind.release(server) is False
    assert len(caplog.records) == 2
    assert all(kind.key in record.getMessage() for record in caplog.records)


def test_a_failed_creation_keeps_nothing(kind):
    server = Server()
    text = f"^Failed to create {kind.name}: broken"
    with pytest.raises(kind.creation_error, match=text) as error:
        kind.get(server, "broken")
    assert isinstance(error.value.original_error, OSError)
    assert error.value.__cause__ is error.value.original_error
    assert kind.stats(server) == stats(kind, 0, 0, [])


def test_the_error_of_a_hook_is_not_wrapped_again():
    class Wrapping(Server):
        def _create_model(self, model_name, gpu_id, model_kwargs):
            raise ModelCreationError(model_name, gpu_id, OSError("inner"))

        def _create_tokenizer(self, tokenizer_name, tokenizer_kwargs):
            raise TokenizerCreationError(tokenizer_name, OSError("inner"))

    for get in (lambda s: s.get_model("m", 3, {}), lambda s: s.get_tokenizer("t", {})):
        with pytest.raises((ModelCreationError, TokenizerCreationError)) as error:
            get(Wrapping())
        assert isinstance(error.value.original_error, OSError)


# Deleting.

def test_the_last_reference_deletes_where_asked(kind):
    server = Server(ModelServerConfig(delete_on_zero_reference=True))
    kind.get(server)
    kind.get(server)
    kind.clear(server)
    assert server.log[-1][0] == "create"
    assert kind.clear(server) is True
    assert server.log[-1][0] == "delete"
    assert kind.stats(server) == stats(kind, 0, 0, [])


def test_release(kind):
    server = Server()
    kind.get(server)
    assert kind.release(server) is False  # in use
    assert kind.stats(server)["total_references"] == 1
    kind.clear(server)
    assert kind.release(server) is True
    assert server.log[-1][0] == "delete"
    assert kind.release(server) is False  # gone


def test_release_by_force(kind):
    server = Server()
    kind.get(server)
    assert kind.release(server, force_delete=True) is True
    assert kind.stats(server) == stats(kind, 0, 0, [])


def test_release_all(kind):
    server = Server()
    for name in "abc":
        kind.get(server, name)
    kind.clear(server, "a")
    kind.clear(server, "c")
    assert kind.release_all(server) == {"deleted": 2, "skipped": 1}
    assert [entry[1] for entry in server.log if entry[0] == "delete"] == ["a", "c"]
    assert kind.release_all(server, force_delete=True) == {"deleted": 1, "skipped": 0}
    assert kind.release_all(server) == {"deleted": 0, "skipped": 0}


def test_a_thing_that_cannot_be_deleted_stays(kind, caplog):
    server = Server()
    kind.get(server, "stuck")
    with pytest.raises(ResourceCleanupError) as error:
        kind.release(server, "stuck", force_delete=True)
    assert error.value.resource_type == kind.name
    assert error.value.resource_key.startswith("stuck|")
    assert isinstance(error.value.original_error, RuntimeError)
    assert kind.stats(server)["total_references"] == 1
    kind.get(server, "fine")
    with caplog.at_level(logging.ERROR):
        assert kind.release_all(server, force_delete=True) == {"deleted": 1, "skipped": 1}
    assert "will not go" in caplog.text
    assert [key.split("|")[0] for key in kind.stats(server)[f"{kind.name}_keys"]] == ["stuck"]


def test_the_key_replaces_what_a_hook_called_it(kind):
    class Wrapping(Server):
        def _delete_model(self, model, gpu_id):
            raise ResourceCleanupError("?", "model", OSError("inner"))

        def _delete_tokenizer(self, tokenizer):
            raise ResourceCleanupError("?", "tokenizer", OSError("inner"))

    server = Wrapping()
    kind.get(server)
    with pytest.raises(ResourceCleanupError) as error:
        kind.release(server, force_delete=True)
    assert error.value.resource_key == kind.key
    assert isinstance(error.value.original_error, OSError)


def test_cleanup_unused():
    server = Server()
    for name in "ab":
        server.get_model(name, 0, {})
        server.get_tokenizer(name, {})
    server.clear_model("a", 0, {})
    server.clear_tokenizer("a", {})
    server.clear_tokenizer("b", {})
    assert server.cleanup_unused() == {"models": {"deleted": 1, "skipped": 1},
                                       "tokenizers": {"deleted": 2, "skipped": 0}}


def test_the_end_of_a_server_deletes_everything_and_raises_nothing():
    server = Server()
    for name in ("a", "stuck", "b"):
        server.get_model(name, 0, {})
    server.get_tokenizer("t", {})
    log, ref = server.log, weakref.ref(server)
    ModelServer._instance = None
    del server
    gc.collect()
    assert ref() is None
    assert [entry[1] for entry in log if entry[0] == "delete"] == ["a", "b", "t"]


@pytest.mark.parametrize("wanted", [True, False])
def test_stats_are_logged_where_wanted(wanted, caplog):
    server = Server(ModelServerConfig(enable_stats_logging=wanted))
    with caplog.at_level(logging.INFO):
        server.get_model("m", 0, {})
        server.release_memory_and_clean("m", 0, {}, force_delete=True)
    assert [record.getMessage() for record in caplog.records] == (
        ["created model m|0|empty; models: 1, tokenizers: 0",
         "deleted model m|0|empty; models: 0, tokenizers: 0"] if wanted else [])


# Threads.

def run_threads(count, work):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_share_one_model():
    server = Server()
    models = []
    run_threads(12, lambda: models.append(server.get_model("m", 0, {})))
    assert len(set(map(id, models))) == 1
    assert len(server.log) == 1
    assert server.get_model_stats()["total_references"] == 12
    run_threads(12, lambda: server.clear_model("m", 0, {}))
    results = []
    run_threads(6, lambda: results.append(server.release_memory_and_clean("m", 0, {})))
    assert sorted(results) == [False] * 5 + [True]


def test_a_hook_may_call_the_server():
    class Nested(Server):
        def _create_model(self, model_name, gpu_id, model_kwargs):
            self.get_tokenizer(model_name, {})
            return super()._create_model(model_name, gpu_id, model_kwargs)

    server = Nested()
    server.get_model("m", 0, {})
    assert server.get_tokenizer_stats()["tokenizer_keys"] == ["m|empty"]


def test_servers_do_not_wait_for_each_other():
    loading, finish = threading.Event(), threading.Event()

    class Slow(Server):
        def _create_model(self, model_name, gpu_id, model_kwargs):
            loading.set()
            assert finish.wait(30)
            return Thing(model_name)

    slow = Slow.keyed("slow")
    models = []
    thread = threading.Thread(target=lambda: models.append(slow.get_model("m", 0, {})))
    thread.start()
    assert loading.wait(30)
    assert Server.keyed("quick").get_model("m", 0, {}).name == "m"
    finish.set()
    thread.join()
    assert len(models) == 1  # it was told to finish in time
