"""Silences what `transformers` says about tiny models."""

from __future__ import annotations

import transformers

transformers.logging.set_verbosity_error()

import torch  # noqa: E402

# Tiny tensors gain nothing from more threads.
torch.set_num_threads(1)
