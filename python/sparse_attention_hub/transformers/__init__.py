"""Sparse attention for models of `transformers`, version 4.57 and later.

    with sparse_attention_hub.sparse(model, "vattention.json") as handle:
        model.generate(**inputs, max_new_tokens=64)
    print(handle.summary())
"""

from __future__ import annotations

from .context import SparseHandle, sparse
from .dispatch import Dispatcher, SequenceState
from .layers import AttentionLayer, Summary

__all__ = ["AttentionLayer", "Dispatcher", "SequenceState", "SparseHandle", "Summary", "sparse"]
