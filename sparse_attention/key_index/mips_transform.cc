#include "sparse_attention/key_index/mips_transform.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>

#include "sparse_attention/key_index/row_matmul.h"

namespace sparse_attention {
namespace {

constexpr int64_t kPieceKeys = 4096;  // converted to float32 at a time
constexpr double kTinyNorm = 1e-8;    // of a query at the centre; the Python hub's

void ForEachPiece(const at::Tensor& keys, const std::function<void(const at::Tensor&)>& visit) {
  for (int64_t begin = 0; begin < keys.size(2); begin += kPieceKeys) {
    visit(keys.narrow(2, begin, std::min(kPieceKeys, keys.size(2) - begin)).to(at::kFloat));
  }
}

at::Tensor Norms(const at::Tensor& x) { return at::linalg_vector_norm(x, 2, {-1}, true); }

// Distances from the centre, [batch, KV heads, n, 1]; of keys that are not finite 0.
at::Tensor FiniteDistances(const at::Tensor& keys, const at::Tensor& centre) {
  const at::Tensor distances = Norms(keys.sub(centre));
  return at::where(distances.isfinite(), distances, 0.);
}

}  // namespace

MipsTransform MipsTransform::Fit(const at::Tensor& keys, bool centred, bool like_hub) {
  const std::vector<int64_t> shape = {keys.size(0), keys.size(1), 1, keys.size(3)};
  at::Tensor sum = at::zeros(shape, keys.options().dtype(at::kFloat));
  if (centred) {
    at::Tensor count = at::zeros({keys.size(0), keys.size(1), 1, 1}, sum.options());
    ForEachPiece(keys, [&](const at::Tensor& x) {
      const at::Tensor finite = x.isfinite().all(-1, /*keepdim=*/true);
      sum.add_(at::where(finite, x, 0.).sum(2, /*keepdim=*/true));
      count.add_(finite.sum(2, /*keepdim=*/true));
    });
    sum.div_(count.clamp_min(1));
  }
  return {sum, Radius(keys, sum, /*global=*/like_hub), like_hub};
}

at::Tensor MipsTransform::Radius(const at::Tensor& keys, const at::Tensor& centre, bool global) {
  at::Tensor radius = at::zeros({keys.size(0), keys.size(1), 1, 1}, centre.options());
  ForEachPiece(keys, [&](const at::Tensor& x) {
    radius = at::maximum(radius, FiniteDistances(x, centre).amax(2, /*keepdim=*/true));
  });
  if (global && radius.numel() > 0) radius = radius.max().expand_as(radius);
  return at::where(radius.eq(0), 1., radius);
}

bool MipsTransform::Holds(const at::Tensor& keys) const {
  bool holds = true;
  ForEachPiece(keys, [&](const at::Tensor& x) {
    holds = holds && FiniteDistances(x, centre).le(radius).all().item<bool>();
  });
  return holds;
}

at::Tensor MipsTransform::Keys(const at::Tensor& keys) const {
  const at::Tensor scaled = keys.to(at::kFloat).sub(centre).div_(radius);
  // A sum whose order does not depend on the number of keys: appended keys are hashed like others.
  const at::Tensor squares =
      RowMatmul(scaled.square(), at::ones({scaled.size(3), 1}, scaled.options()));
  return at::cat({scaled, squares.neg_().add_(1).clamp_min_(0).sqrt_()}, -1);
}

at::Tensor MipsTransform::CentredQueries(const at::Tensor& queries) const {
  if (!like_hub) return queries.to(at::kFloat);
  const int64_t group = centre.size(1) == 0 ? 1 : queries.size(1) / centre.size(1);
  return queries.to(at::kFloat).sub(centre.repeat_interleave(group, 1));
}

at::Tensor MipsTransform::Queries(const at::Tensor& queries) const {
  const at::Tensor centred = CentredQueries(queries);
  return at::constant_pad_nd(centred.div(Norms(centred).add_(kTinyNorm)), {0, 1});
}

}  // namespace sparse_attention
