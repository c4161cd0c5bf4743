"""Giving GPU memory back."""

from __future__ import annotations

import logging

import torch

_logger = logging.getLogger(__name__)


def cleanup_gpu_memory(gpu_id: int | None = None) -> None:
    """Returns cached blocks of the CUDA allocator to the driver. Never raises.

    Args:
        gpu_id: index of the device; None for the current one. Without CUDA nothing happens.
    """
    try:
        if not torch.cuda.is_available():
            return
        if gpu_id is None:
            torch.cuda.empty_cache()
        else:
            with torch.cuda.device(gpu_id):
                torch.cuda.empty_cache()
    except Exception as error:
        device = "the current GPU" if gpu_id is None else f"GPU {gpu_id}"
        _logger.warning("the CUDA cache of %s was not emptied: %s", device, error)
