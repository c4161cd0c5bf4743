"""The YAML file of models: structure, constructors, classes."""
import builtins
import collections

import pytest
from sparse_attention_hub.adapters.model_servers import model_registry
from sparse_attention_hub.adapters.model_servers.model_registry import (
    ModelRegistryError,
    RegistryEntry,
    _import_symbol,
    _maybe_construct,
    load_model_registry,
    resolve_model_class,
)


def load(tmp_path, text):
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return load_model_registry(str(path))


def test_a_registry(tmp_path):
    registry = load(tmp_path, """
models:
  org/one:
    model_class: collections.OrderedDict
    default_model_kwargs:
      dtype: bfloat16
      counter: {constructor: collections.Counter, kwargs: {apples: 2}}
  org/two: {default_model_kwargs: {}}
  org/three:
  4: {model_class: LlamaForCausalLM}
""")
    assert list(registry) == ["org/one", "org/two", "org/three", "4"]
    assert registry["org/one"] == RegistryEntry(
        "org/one", "collections.OrderedDict",
        {"dtype": "bfloat16", "counter": collections.Counter(apples=2)})
    assert registry["org/two"] == RegistryEntry("org/two", None, {})
    assert registry["org/three"] == RegistryEntry("org/three", None)
    assert registry["4"].model_class == "LlamaForCausalLM"


@pytest.mark.parametrize("text", ["", "models:\n", "models: {}\n", "other: 1\n"])
def test_an_empty_registry(tmp_path, text):
    assert load(tmp_path, text) == {}


@pytest.mark.parametrize("path", ["", None])
def test_no_registry(path):
    assert load_model_registry(path) == {}


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_a_missing_file(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(ModelRegistryError, match="^Model registry path does not exist: ") as error:
        load_model_registry(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text, message", [
    ("- a\n", "^Registry root must be a mapping, got list: .*models.yaml"),
    ("text\n", "^Registry root must be a mapping, got str"),
    ("models: [1]\n", "^Registry 'models' must be a mapping, got list"),
    ("models: 3\n", "^Registry 'models' must be a mapping, got int"),
    ("models: {org/one: LlamaForCausalLM}\n",
     "^Registry entry for org/one must be a mapping, got str"),
    ("models: {org/one: {default_model_kwargs: [1]}}\n",
     "^default_model_kwargs for org/one must be a mapping, got list"),
    ("models: {org/one: {default_model_kwargs: {a: {constructor: x, kwargs: 1}}}}\n",
     "^Invalid constructor kwargs for x: must be a mapping, got int"),
    ("models: {a: [\n", "is not YAML"),
    ("a: !!python/object/apply:os.getcwd []\n", "is not YAML"),
])
def test_a_wrong_structure(tmp_path, text, message):
    with pytest.raises(ModelRegistryError, match=message):
        load(tmp_path, text)


def test_bytes_that_are_not_text(tmp_path):
    (tmp_path / "models.yaml").write_bytes(b"models: \xff\xfe\n")
    with pytest.raises(ModelRegistryError, match="is not YAML"):
        load_model_registry(str(tmp_path / "models.yaml"))


def test_without_pyyaml(tmp_path, monkeypatch):
    (tmp_path / "models.yaml").write_text("models: {}\n")
    importer = builtins.__import__

    def without_yaml(name, *args, **kwargs):
        if name == "yaml":
            raise ImportError("no yaml")
        return importer(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(ModelRegistryError, match="^PyYAML is required "):
        load_model_registry(str(tmp_path / "models.yaml"))
    assert load_model_registry("") == {}  # needs none


# Constructors.

@pytest.mark.parametrize("value", [
    1, "constructor", [{"constructor": "collections.Counter"}], {"a": {"type": "x"}},
    # Rotary settings have a type and are none of our business.
    {"type": "linear", "factor": 2.0}])
def test_other_values_are_returned_as_they_are(value):
    assert _maybe_construct(value) is value


@pytest.mark.parametrize("spec", [
    {"constructor": "collections.Counter", "kwargs": {"a": 2}},
    {"constructor": "collections.Counter", "args": {"a": 2}},
    {"type": "collections.Counter", "kwargs": {"a": 2}},
    {"type": "collections.Counter", "args": {"a": 2}}])
def test_a_constructor_is_called(spec):
    value = _maybe_construct(spec)
    assert isinstance(value, collections.Counter)
    assert value == {"a": 2}


@pytest.mark.parametrize("spec", [
    {"constructor": "collections.Counter"}, {"type": "collections.Counter"},
    {"constructor": "collections.Counter", "kwargs": None}])
def test_a_constructor_without_arguments(spec):
    assert _maybe_construct(spec) == collections.Counter()


def test_a_name_without_a_dot_is_one_of_transformers():
    import transformers
    assert _import_symbol("LlamaConfig") is transformers.LlamaConfig
    config = _maybe_construct({"constructor": "LlamaConfig", "kwargs": {"hidden_size": 32}})
    assert isinstance(config, transformers.LlamaConfig)
    assert config.hidden_size == 32


def test_arguments_may_be_constructed_too():
    value = _maybe_construct({"constructor": "collections.Counter", "kwargs": {
        "inner": {"constructor": "collections.Counter", "kwargs": {"a": 1}}}})
    assert isinstance(value["inner"], collections.Counter)


@pytest.mark.parametrize("kwargs", [[1], "text", 3])
def test_wrong_constructor_arguments(kwargs):
    with pytest.raises(ModelRegistryError, match="^Invalid constructor kwargs for collections"):
        _maybe_construct({"constructor": "collections.Counter", "kwargs": kwargs})


@pytest.mark.parametrize("spec, cause", [
    ({"constructor": "no_such_module.Name"}, "no_such_module"),
    ({"constructor": "collections.Kounter"}, "Kounter"),
    ({"constructor": "fractions.Fraction", "kwargs": {"n": 1}}, "'n'"),
    ({"constructor": 3}, "3")])
def test_a_constructor_that_fails(spec, cause):
    with pytest.raises(ModelRegistryError, match=f"^Failed to construct '.*{cause}"):
        _maybe_construct(spec)


# Classes.

@pytest.mark.parametrize("name", [None, ""])
def test_no_class(name):
    assert resolve_model_class(name) is None


def test_classes():
    import transformers
    assert resolve_model_class("collections.OrderedDict") is collections.OrderedDict
    assert resolve_model_class("LlamaForCausalLM") is transformers.LlamaForCausalLM


def test_classes_are_found_by_import_symbol(monkeypatch):
    asked = []
    monkeypatch.setattr(model_registry, "_import_symbol", lambda name: asked.append(name) or 7)
    assert resolve_model_class("some.Name") == 7
    assert asked == ["some.Name"]


@pytest.mark.parametrize("name", [
    "no_such_module.Name", "collections.Kounter", "NoSuchModel", ".", 3])
def test_a_class_that_cannot_be_imported(name):
    with pytest.raises(ModelRegistryError, match=f"^Failed to resolve model_class '{name}': "):
        resolve_model_class(name)
