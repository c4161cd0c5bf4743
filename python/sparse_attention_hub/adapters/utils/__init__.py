"""Settings, errors, cache keys and GPU clean-up of the model servers."""

from .config import ModelServerConfig
from .exceptions import (
    ModelCreationError,
    ModelServerConflictError,
    ModelServerError,
    ReferenceCountError,
    ResourceCleanupError,
    TokenizerCreationError,
)
from .gpu_utils import cleanup_gpu_memory
from .key_generation import hash_kwargs
from .model_utils import generate_model_key, generate_tokenizer_key

__all__ = [
    "ModelCreationError",
    "ModelServerConfig",
    "ModelServerConflictError",
    "ModelServerError",
    "ReferenceCountError",
    "ResourceCleanupError",
    "TokenizerCreationError",
    "cleanup_gpu_memory",
    "generate_model_key",
    "generate_tokenizer_key",
    "hash_kwargs",
]
