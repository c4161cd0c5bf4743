"""Errors of the model servers: texts, attributes, kinship."""
import pickle

import pytest
from sparse_attention_hub.adapters import utils
from sparse_attention_hub.adapters.utils import exceptions
from sparse_attention_hub.adapters.utils.exceptions import (
    ModelCreationError,
    ModelServerConflictError,
    ModelServerError,
    ReferenceCountError,
    ResourceCleanupError,
    TokenizerCreationError,
)

CAUSE = OSError("disk on fire")

CASES = [
    (ModelServerError("out of luck"), "out of luck", {"message": "out of luck", "details": ""}),
    (ModelServerError("out of luck", "twice"), "out of luck: twice", {"details": "twice"}),
    (ModelCreationError("llama"),
     "Failed to create model: llama: model_name=llama, gpu_id=None",
     {"model_name": "llama", "gpu_id": None, "original_error": None}),
    (ModelCreationError("llama", 3, CAUSE),
     "Failed to create model: llama: model_name=llama, gpu_id=3, original_error=disk on fire",
     {"model_name": "llama", "gpu_id": 3, "original_error": CAUSE}),
    (TokenizerCreationError("bpe"),
     "Failed to create tokenizer: bpe: tokenizer_name=bpe",
     {"tokenizer_name": "bpe", "original_error": None}),
    (TokenizerCreationError("bpe", original_error=CAUSE),
     "Failed to create tokenizer: bpe: tokenizer_name=bpe, original_error=disk on fire",
     {"tokenizer_name": "bpe", "original_error": CAUSE}),
    (ReferenceCountError("llama|0|empty", "decrement", -1),
     "Reference count error during decrement: resource_key=llama|0|empty, operation=decrement, "
     "current_count=-1",
     {"resource_key": "llama|0|empty", "operation": "decrement", "current_count": -1}),
    (ResourceCleanupError("bpe|empty", "tokenizer"),
     "Failed to cleanup tokenizer: resource_key=bpe|empty, resource_type=tokenizer",
     {"resource_key": "bpe|empty", "resource_type": "tokenizer", "original_error": None}),
    (ResourceCleanupError("llama|0|empty", "model", CAUSE),
     "Failed to cleanup model: resource_key=llama|0|empty, resource_type=model, "
     "original_error=disk on fire",
     {"resource_key": "llama|0|empty", "resource_type": "model", "original_error": CAUSE}),
]


@pytest.mark.parametrize("error, text, attributes", CASES)
def test_text_and_attributes(error, text, attributes):
    assert str(error) == text
    assert isinstance(error, ModelServerError)
    for name, value in attributes.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize("error, text, attributes", CASES)
def test_survives_the_way_from_a_worker_to_its_parent(error, text, attributes):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == text
    for name, value in attributes.items():
        got = getattr(copy, name)
        assert (str(got) if isinstance(value, Exception) else got) == (
            str(value) if isinstance(value, Exception) else value)


def test_keyword_arguments_have_the_names_of_the_hub():
    ModelServerError(message="a", details="b")
    ModelCreationError(model_name="a", gpu_id=1, original_error=CAUSE)
    TokenizerCreationError(tokenizer_name="a", original_error=CAUSE)
    ReferenceCountError(resource_key="a", operation="b", current_count=1)
    ResourceCleanupError(resource_key="a", resource_type="b", original_error=CAUSE)


def test_a_conflict_is_a_value_error_as_in_the_hub():
    with pytest.raises(ValueError, match="^taken: by another$"):
        raise ModelServerConflictError("taken", "by another")


def test_the_package_exports_the_same_classes():
    for name in ("ModelServerError", "ModelServerConflictError", "ModelCreationError",
                 "TokenizerCreationError", "ReferenceCountError", "ResourceCleanupError"):
        assert getattr(utils, name) is getattr(exceptions, name)
