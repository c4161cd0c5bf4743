"""Model servers: one copy of a model or tokenizer for all who use it.

`ModelServerHF` loads on first use, since it imports transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import lazy_exports
from .base import ModelEntry, ModelServer, TokenizerEntry, server_for

if TYPE_CHECKING:
    from .huggingface import ModelServerHF

__all__ = ["ModelEntry", "ModelServer", "ModelServerHF", "TokenizerEntry", "server_for"]

if not TYPE_CHECKING:  # a checker would take any name for one that loads at its first use
    __getattr__, __dir__ = lazy_exports(__name__, {"ModelServerHF": ".huggingface"})
