"""socket_utils: against loops and float64, and against the Python hub's numbers."""

from __future__ import annotations

import itertools

import pytest
import torch

from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations.utils.socket_utils import (
    attention_mask_to_allowed_prob,
    get_hyper_planes,
    get_protos_T,
    hard_hash,
    pack_bits,
    soft_hash,
    topk_soft_collision_scores_blockwise,
)

import golden

CPU = torch.device("cpu")
GOLDEN = golden.load("key_index")["socket"]


def planes_of_the_hub():
    return torch.tensor(GOLDEN["planes_L4_P3_D8"]).view(4, 3, 8)


class TestPlanes:
    def test_drawn_once(self):
        cache = {}
        first = get_hyper_planes(cache, 8, 4, 3, CPU, torch.float32)
        assert first.shape == (4, 3, 8) and get_hyper_planes(cache, 8, 4, 3, CPU, torch.float32) is first
        assert get_hyper_planes(cache, 8, 4, 2, CPU, torch.float32).shape == (4, 2, 8) and len(cache) == 2

    def test_generator_of_the_hub(self):
        generator = torch.Generator().manual_seed(123456789 + 7777)
        planes = get_hyper_planes({}, 8, 4, 3, CPU, torch.float32, generator)
        torch.testing.assert_close(planes, planes_of_the_hub(), rtol=0, atol=1e-6)

    def test_drawn_in_float32(self):
        half, full = (
            get_hyper_planes({}, 8, 2, 3, CPU, dtype, torch.Generator().manual_seed(1))
            for dtype in (torch.bfloat16, torch.float32)
        )
        assert half.dtype == torch.bfloat16 and torch.equal(half, full.bfloat16())


class TestCorners:
    @pytest.mark.parametrize("bits", [1, 2, 5])
    def test_order(self, bits):
        corners = get_protos_T({}, bits, CPU, torch.float32)
        assert corners.t().tolist() == [list(corner) for corner in itertools.product((-1.0, 1.0), repeat=bits)]

    def test_made_once(self):
        cache = {}
        first = get_protos_T(cache, 3, CPU, torch.float16)
        assert first.dtype == torch.float16 and get_protos_T(cache, 3, CPU, torch.float16) is first

    @pytest.mark.parametrize("bits", [0, 25])
    def test_range(self, bits):
        with pytest.raises(ValueError, match=rf"P must be in \[1, 24\].*got {bits}"):
            get_protos_T({}, bits, CPU, torch.float32)


class TestCodes:
    def test_first_bit_is_the_highest(self):
        bits = torch.tensor([[1, 0, 0], [0, 1, 1]])
        assert pack_bits(bits).tolist() == [4, 3] and pack_bits(bits.bool()).tolist() == [4, 3]

    @pytest.mark.parametrize(("width", "dtype"), [(15, torch.int16), (16, torch.int32), (31, torch.int32),
                                                  (32, torch.int64), (63, torch.int64)])
    def test_types(self, width, dtype):
        packed = pack_bits(torch.ones(2, width, dtype=torch.bool))
        assert packed.dtype == dtype and packed.tolist() == [2**width - 1] * 2

    def test_too_many_bits(self):
        with pytest.raises(ValueError, match="bits must be 1 to 63 a number, got 64"):
            pack_bits(torch.ones(2, 64))

    def test_against_float64(self):
        x = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(1))
        planes = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(2))
        sides = torch.einsum("bhnd,lpd->bhlnp", x.double(), planes.double()) >= 0
        codes = hard_hash(x, planes)
        assert codes.shape == (2, 3, 4, 7) and torch.equal(codes, pack_bits(sides))

    def test_vector_in_the_plane_is_on_its_positive_side(self):
        assert hard_hash(torch.zeros(1, 1, 1, 2), torch.randn(2, 3, 2)).flatten().tolist() == [7, 7]

    def test_buckets_of_the_hub(self):
        _, keys, _ = golden.inputs()
        codes = hard_hash(keys.repeat_interleave(2, 1), planes_of_the_hub())
        assert codes.flatten().tolist() == GOLDEN["buckets"]

    @pytest.mark.parametrize("planes", [torch.ones(2, 3, 5), torch.ones(3, 4), torch.ones(2, 0, 4)])
    def test_shapes(self, planes):
        with pytest.raises(ValueError, match="planes"):
            hard_hash(torch.ones(1, 1, 2, 4), planes)


class TestSoftHash:
    @pytest.mark.parametrize("tau", [0.3, 1.0])
    def test_against_float64(self, tau):
        q = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(1))
        planes = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(2))
        corners = get_protos_T({}, 3, CPU, torch.float32)
        sides = torch.einsum("bhqd,lpd->bhqlp", q.double(), planes.double()).tanh() / 8**0.5
        expected = (sides @ corners.double() / tau).softmax(-1)
        probabilities = soft_hash(q, planes, corners, tau)
        assert probabilities.shape == (2, 3, 5, 4, 8)
        torch.testing.assert_close(probabilities.double(), expected, rtol=1e-5, atol=1e-7)
        assert soft_hash(q.half(), planes.half(), corners.half(), tau).dtype == torch.float16

    def test_numbers_of_the_hub(self):
        queries, _, _ = golden.inputs()
        out = soft_hash(queries, planes_of_the_hub(), get_protos_T({}, 3, CPU, torch.float32), GOLDEN["tau"])
        torch.testing.assert_close(out[0, 0, 0].flatten(), torch.tensor(GOLDEN["soft_hash_h0q0"]), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
    def test_tau(self, tau):
        with pytest.raises(ValueError, match="tau must be > 0, got"):
            soft_hash(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 2), torch.tensor([[-1.0, 1.0]]), tau)


class TestTopCollisions:
    B, H, Q, L, R, N = 2, 3, 4, 5, 8, 23

    def tensors(self):
        generator = torch.Generator().manual_seed(1)
        probabilities = torch.rand(self.B, self.H, self.Q, self.L, self.R, generator=generator)
        codes = torch.randint(0, self.R, (self.B, self.H, self.L, self.N), generator=generator)
        norms = torch.rand(self.B, self.H, self.N, generator=generator)
        allowed = torch.rand(self.B, self.H, self.Q, self.N, generator=generator) < 0.7
        return probabilities, codes, norms, allowed

    def scores(self, probabilities, codes, norms, allowed):
        index = codes.long().unsqueeze(2).expand(-1, -1, self.Q, -1, -1)
        sums = probabilities.double().gather(-1, index).sum(3) * norms.double().unsqueeze(2)
        return sums.masked_fill(~allowed, -torch.inf)

    @pytest.mark.parametrize("block", [1, 4, 23, 4096])
    @pytest.mark.parametrize("m", [0, 1, 6, 23])
    @pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
    def test_blocks_do_not_matter(self, block, m, dtype):
        probabilities, codes, norms, allowed = self.tensors()
        indices, scores = topk_soft_collision_scores_blockwise(
            probabilities, codes.to(dtype), norms, allowed, m, block)
        all_scores = self.scores(probabilities, codes, norms, allowed)
        expected = all_scores.topk(m).values
        assert indices.dtype == torch.int64 and scores.dtype == torch.float32
        torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(all_scores.gather(-1, indices), expected, rtol=1e-5, atol=1e-6)
        for row in indices.flatten(0, 2):
            assert row.unique().numel() == m

    def test_too_few_allowed(self):
        probabilities, codes, norms, allowed = self.tensors()
        allowed[:] = False
        allowed[..., 4] = True
        indices, scores = topk_soft_collision_scores_blockwise(probabilities, codes, norms, allowed, 3, 4)
        assert bool((indices[..., 0] == 4).all()) and bool((scores[..., 1:] == -torch.inf).all())

    def test_errors(self):
        probabilities, codes, norms, allowed = self.tensors()
        call = topk_soft_collision_scores_blockwise
        with pytest.raises(ValueError, match="key_buckets shape mismatch: "):
            call(probabilities, codes[:, :, :4], norms, allowed, 2)
        with pytest.raises(ValueError, match="v_mag shape mismatch: "):
            call(probabilities, codes, norms[..., :4], allowed, 2)
        with pytest.raises(ValueError, match="allowed_bool shape mismatch: "):
            call(probabilities, codes, norms, allowed[:, :1], 2)
        with pytest.raises(ValueError, match=r"M must be in \[0, 23\], got 24"):
            call(probabilities, codes, norms, allowed, 24)
        with pytest.raises(ValueError, match="block must be >= 1, got 0"):
            call(probabilities, codes, norms, allowed, 2, 0)
        for bad in (codes - 1, codes + 1):
            with pytest.raises(ValueError, match=r"key_buckets must be in \[0, 8\)"):
                call(probabilities, bad, norms, allowed, 2)


def test_allowed():
    mask = torch.tensor([[False, True, False]])
    assert attention_mask_to_allowed_prob(mask, 2).tolist() == [[[[1, 0]]]]
    assert attention_mask_to_allowed_prob(torch.tensor([[[0.0, -1.0]]]), 2).tolist() == [[[[1, 0]]]]
