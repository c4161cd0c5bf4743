"""A name that the Python hub reserves."""

from __future__ import annotations


class SparseAttentionMetadata:
    """Holds nothing; what maskers remember of a sequence is in its `sparse_meta_data` dictionary."""
