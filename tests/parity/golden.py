"""The Python hub's outputs in tests/golden, and the inputs that they belong to."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any, Tuple

import torch

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "golden"
SCALING = 1 / math.sqrt(8)


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def generate(shape: Tuple[int, ...], a: float, b: float, scale: float = 1.0) -> torch.Tensor:
    """sin(a i + b) scale over the flat index, in float64, then rounded to float32."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((index * a + b).sin() * scale).float().reshape(shape)


def inputs() -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """queries [1, 4, 2, 8], keys and values [1, 2, 24, 8]."""
    return (
        generate((1, 4, 2, 8), 0.37, 0.10, 2),
        generate((1, 2, 24, 8), 0.53, 0.20, 2),
        generate((1, 2, 24, 8), 0.71, 0.30),
    )


def causal() -> torch.Tensor:
    """Additive [1, 1, 2, 24]."""
    mask = torch.zeros(1, 1, 2, 24)
    for query in range(2):
        mask[..., query, 23 + query :] = torch.finfo(torch.float32).min
    return mask
