"""Keys under which a model server keeps models and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .key_generation import hash_kwargs


def generate_model_key(
    model_name: str, gpu_id: int | None, model_kwargs: Mapping[str, Any]
) -> str:
    """`"{name}|{gpu}|{hash of the arguments}"`, with "cpu" where there is no GPU index."""
    gpu = "cpu" if gpu_id is None else gpu_id
    return f"{model_name}|{gpu}|{hash_kwargs(model_kwargs)}"


def generate_tokenizer_key(tokenizer_name: str, tokenizer_kwargs: Mapping[str, Any]) -> str:
    """`"{name}|{hash of the arguments}"`."""
    return f"{tokenizer_name}|{hash_kwargs(tokenizer_kwargs)}"
