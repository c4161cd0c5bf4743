"""pq_utils: k-means and product quantisation, against float64 and against the Python hub's numbers."""

from __future__ import annotations

import builtins
import sys
import types

import pytest
import torch

from sparse_attention_hub.sparse_attention.research_attention.maskers.fixed.implementations.utils import pq_utils

import golden

GOLDEN = golden.load("key_index")


def vectors(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def two_clusters(groups=3, n=20):
    """Around (10, 10, ...) and (-10, -10, ...), one after the other."""
    x = vectors(groups, n, 4) * 0.1
    x[:, ::2] += 10
    x[:, 1::2] -= 10
    return x


class TestDistances:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_batched(self, dtype):
        a, b = vectors(2, 5, 4).to(dtype), vectors(2, 3, 4, seed=2).to(dtype)
        expected = (a.double().unsqueeze(2) - b.double().unsqueeze(1)).square().sum(-1)
        torch.testing.assert_close(pq_utils.pairwise_distance_batched(a, b).double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(pq_utils._pairwise_distance(a[0], b[0]).double(), expected[0], rtol=1e-5, atol=1e-6)

    def test_near_vectors_far_from_the_origin(self):
        a = torch.full((1, 1, 2), 1000.0)
        assert pq_utils.pairwise_distance_batched(a, a + 0.5).item() == pytest.approx(0.5, rel=1e-4)


class TestInitialise:
    def test_batched(self):
        x = vectors(3, 9, 4)
        chosen = pq_utils.initialize_batched(x, 5, seed=4)
        assert chosen.shape == (3, 5, 4)
        torch.manual_seed(4)
        for group in range(3):
            assert torch.equal(chosen[group], x[group][torch.randperm(9)[:5]])

    def test_single(self):
        x = vectors(9, 4)
        chosen = pq_utils._initialize_kmeans(x, 9, seed=4)
        assert torch.equal(chosen.sort(0).values, x.sort(0).values)
        assert torch.equal(pq_utils._initialize_kmeans(x, 3, seed=4), pq_utils._initialize_kmeans(x, 3, seed=4))

    @pytest.mark.parametrize("k", [0, 10])
    def test_range(self, k):
        for call in (lambda: pq_utils.initialize_batched(vectors(2, 9, 4), k), lambda: pq_utils.kmeans(vectors(9, 4), k)):
            with pytest.raises(ValueError, match=rf"num_clusters must be in \[1, 9\], the number of vectors, got {k}"):
                call()


class TestBatched:
    def test_numbers_of_the_hub(self):
        expected = GOLDEN["kmeans_seed9"]
        x = golden.generate((2, 12, 3), 1.3, 0.4)
        torch.manual_seed(9)
        centroids, codes = pq_utils.kmeans_batched_pytorch(x, expected["k"], expected["iters"])
        assert codes.dtype == torch.int64 and codes.flatten().tolist() == expected["codes"]
        torch.testing.assert_close(centroids.flatten(), torch.tensor(expected["centroids"]), rtol=0, atol=1e-5)

    def test_two_clusters(self):
        x = two_clusters()
        codes, centres = pq_utils.kmeans_batched(x, 2, seed=1)
        assert codes.shape == (3, 20) and centres.shape == (3, 2, 4)
        for group in range(3):
            assert codes[group, ::2].unique().numel() == 1 and codes[group, 0] != codes[group, 1]
            torch.testing.assert_close(centres[group, codes[group, 0]], x[group, ::2].mean(0))

    def test_one_step_against_float64(self):
        x, start = vectors(2, 30, 4), vectors(2, 5, 4, seed=3) * 0.3
        codes, centres = pq_utils.kmeans_batched(x, 5, cluster_centers=start, iter_limit=1)
        nearest = (x.double().unsqueeze(2) - start.double().unsqueeze(1)).square().sum(-1).argmin(-1)
        assert torch.equal(codes, nearest)
        for group in range(2):
            for cluster in nearest[group].unique():
                mean = x[group].double()[nearest[group] == cluster].mean(0)
                torch.testing.assert_close(centres[group, cluster].double(), mean, rtol=1e-5, atol=1e-6)

    def test_seed(self):
        x = vectors(2, 40, 4)
        first, second = (pq_utils.kmeans_batched(x, 6, seed=5) for _ in range(2))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])

    def test_empty_cluster_takes_a_vector(self):
        x = two_clusters(1)
        start = torch.stack([x[0, 0], x[0, 1], torch.full((4,), 1e6)])[None]
        torch.manual_seed(2)
        _, centres = pq_utils.kmeans_batched(x, 3, cluster_centers=start, iter_limit=1)
        assert bool((centres[0, 2] == x[0]).all(-1).any())

    def test_codes_of_low_precision_stay_integers(self):
        codes, centres = pq_utils.kmeans_batched(vectors(1, 600, 4).bfloat16(), 300, iter_limit=2, seed=1)
        assert codes.dtype == torch.int64 and centres.dtype == torch.bfloat16
        assert int(codes.max()) < 300 and bool((codes % 2 == 1)[codes > 256].any())

    def test_errors(self):
        with pytest.raises(ValueError, match=r"Expected 3D input \(b, n, d\), got \(4, 2\)"):
            pq_utils.kmeans_batched(vectors(4, 2), 2)
        with pytest.raises(NotImplementedError, match="Distance 'cosine' not yet implemented for batched k-means"):
            pq_utils.kmeans_batched(vectors(1, 4, 2), 2, distance="cosine")
        with pytest.raises(ValueError, match="cluster_centers shape mismatch. "):
            pq_utils.kmeans_batched(vectors(1, 4, 2), 2, cluster_centers=vectors(1, 3, 2))


class TestSingle:
    def test_two_clusters(self):
        x = two_clusters(1)[0]
        codes, centres = pq_utils.kmeans(x, 2, seed=1)
        assert codes.shape == (20,) and codes[::2].unique().numel() == 1 and codes[0] != codes[1]
        torch.testing.assert_close(centres[codes[1]], x[1::2].mean(0))

    def test_given_centres_snap_to_vectors(self):
        x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        codes, centres = pq_utils.kmeans(x, 2, cluster_centers=torch.tensor([[-5.0], [30.0]]), iter_limit=1)
        assert codes.tolist() == [0, 0, 1, 1] and centres.flatten().tolist() == [0.5, 10.5]

    def test_errors(self):
        with pytest.raises(NotImplementedError, match="Distance 'cosine' not supported"):
            pq_utils.kmeans(vectors(4, 2), 2, distance="cosine")
        with pytest.raises(ValueError, match=r"Expected 2D input \(n, d\)"):
            pq_utils.kmeans(vectors(1, 4, 2), 2)
        with pytest.raises(ValueError, match="cluster_centers shape mismatch. "):
            pq_utils.kmeans(vectors(4, 2), 2, cluster_centers=vectors(3, 2))

    def test_loop(self):
        x = two_clusters()
        centroids, codes = pq_utils.kmeans_loop_pytorch(x, 2, 10)
        assert centroids.shape == (3, 2, 4) and codes.shape == (3, 20) and codes.dtype == torch.int64
        for group in range(3):
            torch.testing.assert_close(centroids[group, codes[group, 0]], x[group, ::2].mean(0))


class TestSklearn:
    def test_absence_is_said(self, monkeypatch):
        real = builtins.__import__

        def without(name, *args, **kwargs):
            if name.startswith("sklearn"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ImportError, match="kmeans_loop_sklearn needs scikit-learn"):
            pq_utils.kmeans_loop_sklearn(vectors(1, 4, 2), 2, 3)

    def test_what_it_asks_for(self, monkeypatch):
        asked = []

        class MiniBatchKMeans:
            def __init__(self, **settings):
                asked.append(settings)

            def fit(self, x):
                self.cluster_centers_, self.labels_ = x[:2], (x[:, 0] > 0).astype("int32")
                return self

        cluster = types.ModuleType("sklearn.cluster")
        cluster.MiniBatchKMeans = MiniBatchKMeans
        package = types.ModuleType("sklearn")
        package.cluster = cluster
        monkeypatch.setitem(sys.modules, "sklearn", package)
        monkeypatch.setitem(sys.modules, "sklearn.cluster", cluster)
        x = two_clusters()
        centroids, codes = pq_utils.kmeans_loop_sklearn(x, 2, 7)
        assert torch.equal(centroids, x[:, :2]) and torch.equal(codes, (x[..., 0] > 0).long())
        assert asked == [dict(n_clusters=2, max_iter=7, random_state=42, n_init=3, batch_size=20)] * 3


class TestInnerProduct:
    def test_numbers_of_the_hub(self):
        x = golden.generate((2, 12, 3), 1.3, 0.4)
        augmented, phi = pq_utils.ip2l2_augment(x)
        assert torch.equal(augmented[..., :3], x) and phi.shape == (2, 1, 1)
        torch.testing.assert_close(
            augmented[..., 3].flatten(), torch.tensor(GOLDEN["ip2l2"]["extra_col"]), rtol=0, atol=1e-5
        )
        torch.testing.assert_close(phi.flatten(), torch.tensor(GOLDEN["ip2l2"]["phi"]), rtol=0, atol=1e-5)

    def test_equal_lengths_and_order_of_products(self):
        x, q = vectors(2, 9, 4), vectors(2, 5, 4, seed=2)
        augmented, phi = pq_utils.ip2l2_augment(x)
        torch.testing.assert_close(augmented.square().sum(-1), phi.squeeze(-1).expand(2, 9))
        queries = pq_utils.ip2l2_augment_queries(q, phi)
        assert torch.equal(queries[..., :4], q) and torch.equal(queries[..., 4], torch.zeros(2, 5))
        nearest = pq_utils.pairwise_distance_batched(queries, augmented).argmin(-1)
        assert torch.equal(nearest, (q @ x.transpose(1, 2)).argmax(-1))


class TestReconstruction:
    @pytest.mark.parametrize("extra", [0, 1])
    def test_against_float64(self, extra):
        keys, centroids = vectors(2, 3, 7, 8), vectors(2, 3, 2, 5, 4 + extra, seed=2)
        codes = torch.randint(0, 5, (2, 7, 3, 2), generator=torch.Generator().manual_seed(3))
        rebuilt = torch.empty(2, 3, 7, 8)
        for b, h, n, s in ((b, h, n, s) for b in range(2) for h in range(3) for n in range(7) for s in range(2)):
            rebuilt[b, h, n, 4 * s : 4 * s + 4] = centroids[b, h, s, codes[b, n, h, s], :4]
        difference = keys.double() - rebuilt.double()
        errors = pq_utils.compute_reconstruction_errors(keys, centroids, codes, 4, use_ip_metric=bool(extra))
        assert errors["mse_error"] == pytest.approx(float(difference.square().mean()))
        assert errors["l2_error"] == pytest.approx(float(difference.norm()))
        assert errors["relative_error"] == pytest.approx(float(difference.norm() / keys.double().norm()))

    def test_more_clusters_lose_less(self):
        keys, errors = vectors(1, 2, 64, 8), []
        for clusters in (2, 8, 32):
            data = keys.unflatten(-1, (2, 4)).transpose(2, 3).flatten(0, 2)
            torch.manual_seed(1)
            centroids, codes = pq_utils.kmeans_batched_pytorch(data, clusters, 20)
            errors.append(pq_utils.compute_reconstruction_errors(
                keys, centroids.view(1, 2, 2, clusters, 4), codes.view(1, 2, 2, 64).permute(0, 3, 1, 2), 4
            )["relative_error"])
        assert errors[0] > errors[1] > errors[2] and errors[0] < 1

    def test_zero_keys_and_widths(self):
        codes = torch.zeros(1, 2, 1, 1, dtype=torch.int64)
        errors = pq_utils.compute_reconstruction_errors(torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 1, 1, 4), codes, 4)
        assert errors == {"mse_error": 1.0, "l2_error": pytest.approx(8**0.5), "relative_error": 0.0}
        with pytest.raises(ValueError, match="centroids must have 4 channels"):
            pq_utils.compute_reconstruction_errors(torch.zeros(1, 1, 2, 4), torch.ones(1, 1, 1, 1, 5), codes, 4)
