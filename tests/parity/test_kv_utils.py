"""kv_utils: repeating KV heads for grouped queries."""

from __future__ import annotations

import pytest
import torch

from sparse_attention_hub.sparse_attention.utils.kv_utils import _get_num_key_value_groups, repeat_kv


def test_each_head_is_repeated_in_a_row():
    x = torch.randn(2, 3, 5, 4)
    repeated = repeat_kv(x, 2)
    assert repeated.shape == (2, 6, 5, 4)
    for head in range(6):
        assert torch.equal(repeated[:, head], x[:, head // 2])


def test_once_is_the_very_tensor():
    x = torch.randn(1, 2, 3, 4)
    assert repeat_kv(x, 1) is x


@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 8), (8, 2), (6, 3), (4, 1)])
def test_groups(heads, kv_heads):
    assert _get_num_key_value_groups(torch.zeros(1, heads, 2, 4), torch.zeros(1, kv_heads, 7, 4)) == heads // kv_heads


@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 3), (2, 4), (2, 0)])
def test_heads_must_divide(heads, kv_heads):
    with pytest.raises(
        ValueError, match=rf"num_attention_heads \({heads}\) must be divisible by num_key_value_heads \({kv_heads}\)"
    ):
        _get_num_key_value_groups(torch.zeros(1, heads, 2, 4), torch.zeros(1, kv_heads, 7, 4))
