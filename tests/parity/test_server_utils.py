"""Settings, cache keys and GPU clean-up of the model servers."""
import hashlib
import logging
from unittest.mock import MagicMock, patch

import pytest
import torch
from sparse_attention_hub.adapters import utils
from sparse_attention_hub.adapters.utils import config, gpu_utils, key_generation, model_utils
from sparse_attention_hub.adapters.utils.config import ModelServerConfig
from sparse_attention_hub.adapters.utils.gpu_utils import cleanup_gpu_memory
from sparse_attention_hub.adapters.utils.key_generation import hash_kwargs
from sparse_attention_hub.adapters.utils.model_utils import (
    generate_model_key,
    generate_tokenizer_key,
)


def test_config_defaults_and_order():
    default = ModelServerConfig()
    assert default.delete_on_zero_reference is False
    assert default.enable_stats_logging is True
    assert default.model_registry_path is None
    assert default.allow_unregistered_models is True
    assert ModelServerConfig(True, False, "models.yaml", False) == ModelServerConfig(
        delete_on_zero_reference=True, enable_stats_logging=False,
        model_registry_path="models.yaml", allow_unregistered_models=False)


@pytest.mark.parametrize("change", [
    {"delete_on_zero_reference": True}, {"enable_stats_logging": False},
    {"model_registry_path": "models.yaml"}, {"allow_unregistered_models": False}])
def test_config_is_compared_by_value(change):
    assert ModelServerConfig(**change) == ModelServerConfig(**change)
    assert ModelServerConfig(**change) != ModelServerConfig()
    changed = ModelServerConfig()
    for name, value in change.items():
        setattr(changed, name, value)
    assert changed == ModelServerConfig(**change)


def test_no_registry_is_no_registry():
    assert ModelServerConfig(model_registry_path="") == ModelServerConfig()
    assert ModelServerConfig(model_registry_path="").model_registry_path == ""
    assert ModelServerConfig() != "ModelServerConfig()"


def test_config_repr_names_every_field():
    assert repr(ModelServerConfig(True)) == (
        "ModelServerConfig(delete_on_zero_reference=True, enable_stats_logging=True, "
        "model_registry_path=None, allow_unregistered_models=True)")


def test_a_mutable_config_has_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(ModelServerConfig())


def test_hash_of_nothing():
    assert hash_kwargs({}) == "empty"
    assert hash_kwargs(None) == "empty"


def test_hash_is_the_one_of_the_hub():
    assert hash_kwargs({"a": 1}) == "a8e37e9a"


@pytest.mark.parametrize("kwargs", [
    {"dtype": torch.float16}, {"a": None, "b": [1, {"c": 2.5}], "d": print}, {"\u00e9": "\ud800"}])
def test_hash_is_eight_hexadecimal_digits(kwargs):
    assert len(hash_kwargs(kwargs)) == 8
    int(hash_kwargs(kwargs), 16)


def test_hash_does_not_depend_on_the_order():
    assert hash_kwargs({"b": 2, "a": 1}) == hash_kwargs({"a": 1, "b": 2})
    assert hash_kwargs({"a": 1, "b": 2}) != hash_kwargs({"a": 2, "b": 1})
    assert hash_kwargs({"a": 1}) != hash_kwargs({"a": "1"})
    assert hash_kwargs({"a": torch.float16}) != hash_kwargs({"a": torch.float32})


def test_hash_of_keys_that_do_not_compare_is_of_the_dict():
    kwargs = {1: "x", "a": "y"}
    assert hash_kwargs(kwargs) == hashlib.md5(str(kwargs).encode()).hexdigest()[:8]


def test_model_keys():
    assert generate_model_key("org/llama", 0, {}) == "org/llama|0|empty"
    assert generate_model_key("org/llama", 7, {"a": 1}) == "org/llama|7|a8e37e9a"
    assert generate_model_key("org/llama", None, {"a": 1}) == "org/llama|cpu|a8e37e9a"
    assert generate_model_key(model_name="m", gpu_id=None, model_kwargs={}) == "m|cpu|empty"


def test_tokenizer_keys():
    assert generate_tokenizer_key("org/llama", {}) == "org/llama|empty"
    assert generate_tokenizer_key(tokenizer_name="t", tokenizer_kwargs={"a": 1}) == "t|a8e37e9a"


def test_the_package_exports_everything():
    assert utils.ModelServerConfig is config.ModelServerConfig
    assert utils.hash_kwargs is key_generation.hash_kwargs
    assert utils.generate_model_key is model_utils.generate_model_key
    assert utils.generate_tokenizer_key is model_utils.generate_tokenizer_key
    assert utils.cleanup_gpu_memory is gpu_utils.cleanup_gpu_memory


@pytest.mark.parametrize("gpu_id", [None, 0, 5])
def test_cleanup_without_cuda_does_nothing(gpu_id):
    with patch.object(torch.cuda, "is_available", return_value=False), \
            patch.object(torch.cuda, "empty_cache") as empty_cache:
        assert cleanup_gpu_memory(gpu_id) is None
    empty_cache.assert_not_called()


def test_cleanup_of_the_current_gpu():
    with patch.object(torch.cuda, "is_available", return_value=True), \
            patch.object(torch.cuda, "device") as device, \
            patch.object(torch.cuda, "empty_cache") as empty_cache:
        cleanup_gpu_memory()
    device.assert_not_called()
    empty_cache.assert_called_once_with()


def test_cleanup_of_a_gpu_empties_its_cache():
    inside = MagicMock()
    with patch.object(torch.cuda, "is_available", return_value=True), \
            patch.object(torch.cuda, "device", inside), \
            patch.object(torch.cuda, "empty_cache", inside.empty_cache):
        cleanup_gpu_memory(gpu_id=2)
    names = [name for name, _, _ in inside.mock_calls]
    assert inside.mock_calls[0].args == (2,)
    assert names.index("().__enter__") < names.index("empty_cache") < names.index("().__exit__")


@pytest.mark.parametrize("broken", ["is_available", "device", "empty_cache"])
def test_cleanup_never_raises_but_says_so(broken, caplog):
    with patch.object(torch.cuda, "is_available", return_value=True), \
            patch.object(torch.cuda, "device"), patch.object(torch.cuda, "empty_cache"), \
            patch.object(torch.cuda, broken, side_effect=RuntimeError("GPU has left")), \
            caplog.at_level(logging.WARNING):
        cleanup_gpu_memory(gpu_id=1)
    assert "GPU 1" in caplog.text
    assert "GPU has left" in caplog.text
