#include "sparse_attention/key_index/k_means.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/k_means_core.h"

namespace sparse_attention {
namespace {

// Distances and one-hot assignments are made in pieces of at most this many floats.
constexpr int64_t kPieceFloats = 4 << 20;
constexpr double kHubTolerance = 1e-4;  // of the squared movement

// Calls visit(first, count) for pieces of n vectors.
void ForEachPiece(int64_t groups, int64_t n, int64_t clusters,
                  const std::function<void(int64_t, int64_t)>& visit) {
  const int64_t piece =
      std::max<int64_t>(1, kPieceFloats / std::max<int64_t>(1, groups * clusters));
  for (int64_t begin = 0; begin < n; begin += piece) visit(begin, std::min(piece, n - begin));
}

// x at one index a group: [groups, dim].
at::Tensor TakeVectors(const at::Tensor& x, const at::Tensor& index) {
  return x.gather(1, index.view({-1, 1, 1}).expand({x.size(0), 1, x.size(2)})).squeeze(1);
}

at::Tensor SquaredDistances(const at::Tensor& x, const at::Tensor& centre) {
  return x.sub(centre.unsqueeze(1)).square_().sum(-1);
}

// Each next centre is a vector drawn with probability proportional to its squared distance from the
// nearest centre so far.
at::Tensor PlusPlusStart(const at::Tensor& x, const at::Tensor& counted,
                         const KMeansOptions& options) {
  const int64_t groups = x.size(0), n = x.size(1);
  at::Tensor uniforms = at::empty({options.clusters, groups}, at::kDouble);
  for (int64_t g = 0; g < groups; ++g) {
    PhiloxStream stream = options.stream(g);
    for (int64_t c = 0; c < options.clusters; ++c) {
      uniforms.data_ptr<double>()[c * groups + g] = stream.Uniform();
    }
  }
  uniforms = uniforms.to(x.device());
  const at::Tensor chance = counted.to(at::kDouble);
  at::Tensor nearest = at::ones({groups, n}, chance.options());
  std::vector<at::Tensor> centroids;
  for (int64_t c = 0; c < options.clusters; ++c) {
    const at::Tensor cumulative = nearest.mul(chance).cumsum_(-1);
    const at::Tensor total = cumulative.narrow(-1, n - 1, 1);
    const at::Tensor target = total.mul(uniforms[c].unsqueeze(1));
    // The first vector whose cumulative share is above the target: never one without a share.
    // Where no vector has one (fewer distinct vectors than clusters) the last is taken again.
    const at::Tensor drawn =
        at::searchsorted(cumulative, target, /*out_int32=*/false, /*right=*/true)
            .clamp_max_(n - 1)
            .squeeze(1);
    centroids.push_back(TakeVectors(x, drawn));
    const at::Tensor distance = SquaredDistances(x, centroids.back()).to(at::kDouble);
    nearest = c == 0 ? distance : at::minimum(nearest, distance);
  }
  return at::stack(centroids, 1);
}

at::Tensor HubStart(const at::Tensor& x, int64_t clusters) {
  std::vector<at::Tensor> centroids;
  for (int64_t g = 0; g < x.size(0); ++g) {
    const at::Tensor drawn = at::randperm(x.size(1), at::kLong).narrow(0, 0, clusters);
    centroids.push_back(x[g].index_select(0, drawn.to(x.device())));
  }
  return at::stack(centroids);
}

struct ClusterMeans {
  at::Tensor means;   // [groups, clusters, dim]; of an empty cluster 0
  at::Tensor counts;  // [groups, clusters, 1]
};

// As products with one-hot rows: the same sums on every run and device, unlike atomic additions.
ClusterMeans MeansOf(const at::Tensor& x, const at::Tensor& counted, const at::Tensor& assignments,
                     int64_t clusters) {
  const at::Tensor ids = at::arange(clusters, assignments.options());
  at::Tensor sums = at::zeros({x.size(0), clusters, x.size(2)}, x.options());
  at::Tensor counts = at::zeros({x.size(0), clusters, 1}, x.options());
  ForEachPiece(x.size(0), x.size(1), clusters, [&](int64_t begin, int64_t count) {
    at::Tensor members =
        assignments.narrow(1, begin, count).unsqueeze(1).eq(ids.view({1, clusters, 1}));
    members = members.logical_and_(counted.narrow(1, begin, count).unsqueeze(1)).to(at::kFloat);
    sums.add_(at::matmul(members, x.narrow(1, begin, count)));
    counts.add_(members.sum(-1, /*keepdim=*/true));
  });
  return {sums.div_(counts.clamp_min(1)), counts};
}

KMeansResult KMeansLikeHub(const at::Tensor& x, const at::Tensor& counted,
                           const KMeansOptions& options) {
  at::Tensor centroids = HubStart(x, options.clusters);
  at::Tensor assignments;
  for (int64_t i = 0; i < options.iterations; ++i) {
    assignments = NearestCentroids(x, centroids);
    const ClusterMeans moved = MeansOf(x, counted, assignments, options.clusters);
    at::Tensor next = moved.means;
    const at::Tensor empty = moved.counts.eq(0);
    if (empty.any().item<bool>()) {
      const at::Tensor drawn =
          at::randint(x.size(1), {x.size(0), options.clusters}, at::kLong).to(x.device());
      const at::Tensor vectors = x.gather(1, drawn.unsqueeze(-1).expand_as(next));
      next = at::where(empty, vectors, next);
    }
    const at::Tensor shift = at::linalg_vector_norm(next.sub(centroids), 2, {-1}).sum(-1);
    centroids = next;
    if (shift.square().lt(kHubTolerance).all().item<bool>()) break;
  }
  return {centroids, assignments};
}

cpu::VectorRows RowsOf(const at::Tensor& x, int64_t group) {
  cpu::VectorRows rows;
  rows.data = x.const_data_ptr<float>() + group * x.stride(0);
  rows.row_stride = x.stride(1) * static_cast<int64_t>(sizeof(float));
  rows.rows = x.size(1);
  rows.channels = rows.width = x.size(2);
  return rows;
}

KMeansResult KMeansOnHost(const at::Tensor& vectors, const at::Tensor& counted,
                          const KMeansOptions& options) {
  const at::Tensor x = vectors.contiguous();
  const at::Tensor marks = counted.contiguous();
  const int64_t groups = x.size(0), n = x.size(1), dim = x.size(2);
  at::Tensor centroids = at::empty({groups, options.clusters, dim}, x.options());
  at::Tensor codes = at::empty({groups, n}, x.options().dtype(at::kInt));
  at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(cpu::KMeansScratchBytes(n, dim, options.clusters) /
                                static_cast<int64_t>(sizeof(double)));
    for (int64_t group = begin; group < end; ++group) {
      PhiloxStream stream = options.stream(group);
      cpu::KMeansProblem problem;
      problem.x = RowsOf(x, group);
      problem.counted = reinterpret_cast<const uint8_t*>(marks.const_data_ptr<bool>()) + group * n;
      problem.clusters = options.clusters;
      problem.iterations = options.iterations;
      problem.uniform = [](void* draws) { return static_cast<PhiloxStream*>(draws)->Uniform(); };
      problem.stream = &stream;
      problem.centroids = centroids.data_ptr<float>() + group * options.clusters * dim;
      problem.codes = codes.data_ptr<int32_t>() + group * n;
      cpu::KMeansOfGroup(problem, cpu::BestIsa(), scratch.data());
    }
  });
  return {centroids, codes.to(at::kLong)};
}

at::Tensor NearestOnHost(const at::Tensor& vectors, const at::Tensor& all_centroids) {
  const at::Tensor x = vectors.contiguous(), centroids = all_centroids.contiguous();
  const int64_t groups = x.size(0), dim = x.size(2), clusters = centroids.size(1);
  at::Tensor codes = at::zeros({groups, x.size(1)}, x.options().dtype(at::kInt));
  at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> packed(cpu::PackedCentroidFloats(clusters, dim));
    std::vector<float> block(cpu::RowBlockFloats(dim));
    for (int64_t group = begin; group < end; ++group) {
      cpu::PackCentroids(centroids.const_data_ptr<float>() + group * clusters * dim, clusters, dim,
                         packed.data());
      cpu::NearestParams search;
      search.x = RowsOf(x, group);
      search.packed = packed.data();
      search.clusters = clusters;
      search.codes = codes.data_ptr<int32_t>() + group * x.size(1);
      search.block = block.data();
      cpu::KMeansKernelsFor(cpu::BestIsa()).nearest(search);
    }
  });
  return codes.to(at::kLong);
}

}  // namespace

at::Tensor NearestCentroids(const at::Tensor& x, const at::Tensor& centroids) {
  if (x.device().is_cpu()) return NearestOnHost(x, centroids);
  at::Tensor nearest = at::empty({x.size(0), x.size(1)}, x.options().dtype(at::kLong));
  const at::Tensor norms = centroids.square().sum(-1).unsqueeze(1);
  const at::Tensor twice = centroids.mul(-2).transpose(1, 2);
  ForEachPiece(x.size(0), x.size(1), centroids.size(1), [&](int64_t begin, int64_t count) {
    // |x - c|^2 without the term that is the same for every centre.
    const at::Tensor distances = at::matmul(x.narrow(1, begin, count), twice).add_(norms);
    nearest.narrow(1, begin, count).copy_(distances.argmin(-1));
  });
  return nearest;
}

KMeansResult KMeans(const at::Tensor& x, const at::Tensor& counted, const KMeansOptions& options) {
  const at::Tensor all =
      counted.defined() ? counted : at::ones({x.size(0), x.size(1)}, x.options().dtype(at::kBool));
  if (options.like_hub) return KMeansLikeHub(x, all, options);
  if (x.device().is_cpu()) return KMeansOnHost(x, all, options);
  at::Tensor centroids = PlusPlusStart(x, all, options);
  at::Tensor assignments = NearestCentroids(x, centroids);
  for (int64_t i = 0; i < options.iterations; ++i) {
    const ClusterMeans moved = MeansOf(x, all, assignments, options.clusters);
    centroids = at::where(moved.counts.gt(0), moved.means, centroids);
    at::Tensor next = NearestCentroids(x, centroids);
    const bool same = next.equal(assignments);
    assignments = std::move(next);
    if (same) break;
  }
  return {centroids, assignments};
}

}  // namespace sparse_attention
