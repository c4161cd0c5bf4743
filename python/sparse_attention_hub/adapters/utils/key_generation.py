"""A short name for a set of keyword arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


def hash_kwargs(kwargs: Mapping[str, Any]) -> str:
    """Hashes keyword arguments regardless of their order.

    The hash is of `str()` of the values, as in the Python hub: it tells apart what prints apart.

    Args:
        kwargs: keyword arguments of any type.

    Returns:
        "empty" for none, else the first 8 hexadecimal digits of an MD5.
    """
    if not kwargs:
        return "empty"
    try:
        text = str(sorted(kwargs.items()))
    except TypeError:  # keys of types that do not compare
        text = str(kwargs)
    return hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()[:8]
