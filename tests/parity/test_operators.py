"""torch.library.opcheck for every operator of the namespace: schema, gradients, fake tensors, torch.compile's tracing.

`cases` names arguments for each operator; one that is registered and not in it fails the test. Tensors are made in each
floating type that an operator takes and in two layouts: contiguous, and as a transposed view. torch.compile's tracing with
symbolic sizes, which takes most of the time, is checked in float32.
"""

from __future__ import annotations

import pytest
import torch

from sparse_attention_hub import _core, _fake_kernels  # noqa: F401

from operator_cases import CASES

NAMESPACE = "sparse_attention_hub"
LAYOUTS = ("contiguous", "strided")


# Defined in Python where transformers is used; tests/transformers/test_compile.py checks it.
ELSEWHERE = {"transformers_step"}


def registered():
    names = (name.split(".")[0] for name in torch._C._dispatch_get_all_op_names())
    return sorted({name.split("::")[1] for name in names if name.startswith(NAMESPACE + "::")} - ELSEWHERE)


def restride(value, layout):
    """The same values; strided: in memory that has the last two dimensions the other way round."""
    if not isinstance(value, torch.Tensor) or value.dim() < 2 or layout == "contiguous":
        return value
    return value.transpose(-1, -2).contiguous().transpose(-1, -2)


def test_every_operator_has_cases():
    assert sorted(CASES) == registered()


def checks(dtype):
    every = ("test_schema", "test_autograd_registration", "test_faketensor")
    return (*every, "test_aot_dispatch_dynamic") if dtype == torch.float32 else every


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in sorted(CASES) for dtype in CASES[name].dtypes], ids=str
)
def test_opcheck(name, dtype, layout):
    operator = getattr(getattr(torch.ops, NAMESPACE), name).default
    for arguments in CASES[name].arguments(dtype):
        arguments = tuple(restride(value, layout) for value in arguments)
        torch.library.opcheck(operator, arguments, test_utils=checks(dtype))
