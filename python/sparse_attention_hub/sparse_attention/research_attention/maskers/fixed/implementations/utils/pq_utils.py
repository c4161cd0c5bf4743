"""Product quantisation of keys: k-means of sub-vectors, and what it loses.

Draws of random numbers are the Python hub's, from torch's global generator (the batched functions) or NumPy's (the single
ones), so that equal seeds choose equal vectors. Codes are integers throughout.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor

from ....... import _core  # noqa: F401  registers the operators

_ops = torch.ops.sparse_attention_hub
_CPU = torch.device("cpu")


def initialize_batched(X: Tensor, num_clusters: int, seed: Optional[int] = None) -> Tensor:
    """`num_clusters` different vectors of each group.

    Args:
        X: [groups, n, dim].
        num_clusters: At most n.
        seed: For torch's global generator; None: it goes on as it is.

    Returns:
        [groups, num_clusters, dim].

    Raises:
        ValueError: A group has fewer vectors.
    """
    _check_clusters(num_clusters, X.shape[1])
    if seed is not None:
        torch.manual_seed(seed)
    chosen = torch.stack([torch.randperm(X.shape[1])[:num_clusters] for _ in range(X.shape[0])])
    return X.gather(1, chosen.to(X.device).unsqueeze(-1).expand(-1, -1, X.shape[2]))


def pairwise_distance_batched(
    data1: Tensor, data2: Tensor, device: torch.device = _CPU, tqdm_flag: bool = False
) -> Tensor:
    """Squared Euclidean distances in float32, [groups, n, m], of [groups, n, dim] and [groups, m, dim].

    Args:
        data1: Vectors.
        data2: Vectors.
        device: Where to compute.
        tqdm_flag: Has no effect.
    """
    distances: Tensor = _ops.squared_distances(data1.to(device), data2.to(device))
    return distances


def kmeans_batched(
    X: Tensor,
    num_clusters: int,
    distance: str = "euclidean",
    cluster_centers: Optional[Tensor] = None,
    tol: float = 1e-4,
    tqdm_flag: bool = False,
    iter_limit: int = 0,
    device: torch.device = _CPU,
    seed: Optional[int] = None,
) -> Tuple[Tensor, Tensor]:
    """k-means of many groups at once, in float32.

    An empty cluster takes a random vector of its group. It ends when the squared movement of the centres, added up, is
    below `tol` in every group.

    Args:
        X: [groups, n, dim].
        num_clusters: k, at most n.
        distance: "euclidean".
        cluster_centers: Where to start, [groups, k, dim]; None: random vectors.
        tol: See above.
        tqdm_flag: Has no effect.
        iter_limit: The most iterations; 0: no limit.
        device: Where to compute.
        seed: For torch's global generator; None: it goes on as it is.

    Returns:
        (assignments int64 [groups, n], from before the last move of the centres; centres [groups, k, dim] of the type of
        `X`).

    Raises:
        ValueError: A shape is wrong.
        NotImplementedError: Another distance.
    """
    if X.dim() != 3:
        raise ValueError(f"Expected 3D input (b, n, d), got {tuple(X.shape)}")
    _check_distance(distance, f"Distance '{distance}' not yet implemented for batched k-means; use 'euclidean'")
    groups, n, dim = X.shape
    vectors = X.to(device, torch.float32)
    if cluster_centers is None:
        centres = initialize_batched(vectors, num_clusters, seed)
    else:
        if tuple(cluster_centers.shape) != (groups, num_clusters, dim):
            raise ValueError(
                f"cluster_centers shape mismatch. Expected {(groups, num_clusters, dim)}, got "
                f"{tuple(cluster_centers.shape)}"
            )
        if seed is not None:
            torch.manual_seed(seed)
        centres = cluster_centers.to(device, torch.float32)

    def draw() -> Tensor:
        return torch.randint(n, (groups, num_clusters)).to(device)

    assignments, centres = _lloyd(vectors, centres, tol, iter_limit, draw)
    return assignments, centres.to(X.dtype)


def _lloyd(x: Tensor, centres: Tensor, tol: float, iter_limit: int, draw: Any) -> Tuple[Tensor, Tensor]:
    """(assignments, centres); `draw()` [groups, clusters] names vectors for empty clusters."""
    iteration = 0
    while True:
        assignments = _ops.k_means_assign(x, centres)
        means, counts = _ops.k_means_means(x, assignments, centres.shape[1])
        drawn = draw() if bool((counts == 0).any()) else None
        centres, movement = _ops.k_means_settle(x, means, counts, drawn, centres)
        iteration += 1
        if bool((movement.square() < tol).all()) or iteration == iter_limit:
            return assignments, centres


def _initialize_kmeans(X: Tensor, num_clusters: int, seed: Optional[int] = None) -> Tensor:
    """`num_clusters` different vectors of [n, dim], drawn by NumPy's global generator."""
    import numpy

    _check_clusters(num_clusters, X.shape[0])
    if seed is not None:
        numpy.random.seed(seed)
    chosen = numpy.random.choice(X.shape[0], num_clusters, replace=False)
    return X[torch.from_numpy(chosen).to(X.device)]


def _pairwise_distance(data1: Tensor, data2: Tensor, device: torch.device = _CPU) -> Tensor:
    """Squared Euclidean distances in float32, [n, m], of [n, dim] and [m, dim]."""
    distances: Tensor = _ops.squared_distances(data1.to(device), data2.to(device))
    return distances


def kmeans(
    X: Tensor,
    num_clusters: int,
    distance: str = "euclidean",
    cluster_centers: Optional[Tensor] = None,
    tol: float = 1e-4,
    iter_limit: int = 0,
    device: torch.device = _CPU,
    seed: Optional[int] = None,
) -> Tuple[Tensor, Tensor]:
    """k-means of one group; see `kmeans_batched`.

    Args:
        X: [n, dim].
        num_clusters: k, at most n.
        distance: "euclidean".
        cluster_centers: Where to start, [k, dim], or rather at the vectors nearest to them; None: random vectors.
        tol: The squared movement of all centres together at which it ends.
        iter_limit: The most iterations; 0: no limit.
        device: Where to compute.
        seed: For NumPy's global generator.

    Returns:
        (assignments int64 [n], centres [k, dim] of the type of `X`).

    Raises:
        ValueError: A shape is wrong.
        NotImplementedError: Another distance.
    """
    _check_distance(distance, f"Distance '{distance}' not supported; use 'euclidean'")
    if X.dim() != 2:
        raise ValueError(f"Expected 2D input (n, d), got {tuple(X.shape)}")
    vectors = X.to(device, torch.float32)
    if cluster_centers is None:
        centres = _initialize_kmeans(vectors, num_clusters, seed)
    else:
        if tuple(cluster_centers.shape) != (num_clusters, X.shape[1]):
            raise ValueError(
                f"cluster_centers shape mismatch. Expected {(num_clusters, X.shape[1])}, got "
                f"{tuple(cluster_centers.shape)}"
            )
        nearest = _ops.k_means_assign(cluster_centers.to(device, torch.float32)[None], vectors[None])[0]
        centres = vectors[nearest]

    def draw() -> Tensor:
        return torch.randint(vectors.shape[0], (1, num_clusters)).to(device)

    assignments, moved = _lloyd(vectors[None], centres[None], tol, iter_limit, draw)
    return assignments[0], moved[0].to(X.dtype)


def kmeans_batched_pytorch(data: Tensor, k: int, max_iter: int) -> Tuple[Tensor, Tensor]:
    """(centroids [groups, k, dim], codes int64 [groups, n]) of `kmeans_batched` for data [groups, n, dim]."""
    codes, centroids = kmeans_batched(data, k, tol=1e-4, iter_limit=max_iter, device=data.device)
    return centroids, codes


def kmeans_loop_pytorch(data: Tensor, k: int, max_iter: int) -> Tuple[Tensor, Tensor]:
    """The same by `kmeans`, one group after another."""
    results = [kmeans(group, k, iter_limit=max_iter, device=data.device) for group in data]
    return torch.stack([centres for _, centres in results]), torch.stack([codes for codes, _ in results])


def kmeans_loop_sklearn(data: Tensor, k: int, max_iter: int) -> Tuple[Tensor, Tensor]:
    """The same by scikit-learn's MiniBatchKMeans, one group after another.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ImportError("kmeans_loop_sklearn needs scikit-learn: pip install scikit-learn") from error
    centroids, codes = [], []
    for group in data:
        fitted = MiniBatchKMeans(
            n_clusters=k, max_iter=max_iter, random_state=42, n_init=3, batch_size=min(1024, group.shape[0])
        ).fit(group.detach().float().cpu().numpy())
        centroids.append(torch.from_numpy(fitted.cluster_centers_).to(data.device, data.dtype))
        codes.append(torch.from_numpy(fitted.labels_).to(data.device, torch.int64))
    return torch.stack(centroids), torch.stack(codes)


def ip2l2_augment(xb: Tensor) -> Tuple[Tensor, Tensor]:
    """A channel more that makes all vectors of a group equally long, so that near vectors are those with high products.

    Args:
        xb: [..., n, dim].

    Returns:
        (vectors [..., n, dim + 1] with sqrt(phi - |x|^2) behind; phi [..., 1, 1], the group's highest |x|^2).
    """
    augmented, phi = _ops.pq_inner_product_to_l2(xb)
    return augmented, phi


def ip2l2_augment_queries(xq: Tensor, phi: Tensor) -> Tensor:
    """Queries with the channel that `ip2l2_augment` adds: 0, whatever `phi`."""
    return torch.nn.functional.pad(xq, (0, 1))


def compute_reconstruction_errors(
    original_keys: Tensor, centroids: Tensor, codebook: Tensor, pq_sub_dim: int, use_ip_metric: bool = False
) -> Dict[str, float]:
    """How far keys are from the centroids that stand for them.

    Args:
        original_keys: [batch, KV heads, n, dim].
        centroids: [batch, KV heads, sub-vectors, clusters, pq_sub_dim], of the inner-product metric with a channel more.
        codebook: Codes int64 [batch, n, KV heads, sub-vectors].
        pq_sub_dim: Channels of a sub-vector.
        use_ip_metric: Whether centroids have that channel, which does not count.

    Returns:
        "mse_error", the mean square over keys and channels; "l2_error", the norm of all differences; "relative_error", the
        latter over the norm of the keys (0 where that is 0).

    Raises:
        ValueError: The centroids have another width.
    """
    widths = (pq_sub_dim, pq_sub_dim + 1) if use_ip_metric else (pq_sub_dim,)
    if centroids.shape[-1] not in widths:
        raise ValueError(f"centroids must have {pq_sub_dim} channels (and one of the metric), got {centroids.shape[-1]}")
    mse, l2, relative = _ops.pq_reconstruction_error(original_keys, centroids, codebook, pq_sub_dim).tolist()
    return {"mse_error": mse, "l2_error": l2, "relative_error": relative}


def _check_clusters(num_clusters: int, vectors: int) -> None:
    if not 1 <= num_clusters <= vectors:
        raise ValueError(f"num_clusters must be in [1, {vectors}], the number of vectors, got {num_clusters}")


def _check_distance(distance: str, message: str) -> None:
    if distance != "euclidean":
        raise NotImplementedError(message)
