"""Sparse attention for long-context language models."""

from __future__ import annotations

import torch as _torch  # noqa: F401  before _core, which finds LibTorch's symbols in the process
