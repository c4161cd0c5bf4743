#include "sparse_attention/key_index/mips_transform.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/mips_core.h"
#include "sparse_attention/key_index/tensor_rows.h"

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

// On the host: calls use(i, keys) for head i of batch * KV heads.
void ForEachHead(const at::Tensor& keys, const std::function<void(int64_t, cpu::MipsKeys)>& use) {
  const at::Tensor elements = AsElements(keys);
  at::parallel_for(0, keys.size(0) * keys.size(1), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const cpu::KeyRows rows = KeyRowsOf(elements, i / keys.size(1), i % keys.size(1));
      cpu::MipsKeys view;
      view.rows.base = rows.Row(0);
      view.rows.row_stride = rows.row_stride;
      view.element = rows.element;
      view.dim = keys.size(3);
      use(i, view);
    }
  });
}

at::Tensor Centre(const at::Tensor& keys, bool centred) {
  const int64_t dim = keys.size(3);
  at::Tensor centre =
      at::zeros({keys.size(0), keys.size(1), 1, dim}, keys.options().dtype(at::kFloat));
  if (!centred) return centre;
  if (keys.device().is_cpu()) {
    float* const out = centre.data_ptr<float>();
    ForEachHead(keys, [&](int64_t i, const cpu::MipsKeys& view) {
      std::vector<float> scratch(static_cast<size_t>(dim));
      cpu::MipsCentre(view, 0, keys.size(2), centred, cpu::BestIsa(), scratch.data(),
                      out + i * dim);
    });
    return centre;
  }
  at::Tensor count = at::zeros({keys.size(0), keys.size(1), 1, 1}, centre.options());
  ForEachPiece(keys, [&](const at::Tensor& x) {
    const at::Tensor finite = x.isfinite().all(-1, /*keepdim=*/true);
    centre.add_(at::where(finite, x, 0.).sum(2, /*keepdim=*/true));
    count.add_(finite.sum(2, /*keepdim=*/true));
  });
  return centre.div_(count.clamp_min(1));
}

// The largest of FiniteDistances, [batch, KV heads, 1, 1].
at::Tensor LargestDistance(const at::Tensor& keys, const at::Tensor& centre) {
  at::Tensor largest = at::zeros({keys.size(0), keys.size(1), 1, 1}, centre.options());
  if (keys.device().is_cpu()) {
    const at::Tensor dense = centre.contiguous();
    const float* const centres = dense.const_data_ptr<float>();
    float* const out = largest.data_ptr<float>();
    ForEachHead(keys, [&](int64_t i, const cpu::MipsKeys& view) {
      std::vector<float> scratch(static_cast<size_t>(view.dim));
      out[i] = cpu::MipsDistance(view, 0, keys.size(2), centres + i * view.dim, cpu::BestIsa(),
                                 scratch.data());
    });
    return largest;
  }
  ForEachPiece(keys, [&](const at::Tensor& x) {
    largest = at::maximum(largest, FiniteDistances(x, centre).amax(2, /*keepdim=*/true));
  });
  return largest;
}

}  // namespace

MipsTransform MipsTransform::Fit(const at::Tensor& keys, bool centred, bool like_hub) {
  const at::Tensor centre = Centre(keys, centred);
  return {centre, Radius(keys, centre, /*global=*/like_hub), like_hub};
}

at::Tensor MipsTransform::Radius(const at::Tensor& keys, const at::Tensor& centre, bool global) {
  at::Tensor radius = LargestDistance(keys, centre);
  if (global && radius.numel() > 0) radius = radius.max().expand_as(radius);
  return at::where(radius.eq(0), cpu::MipsRadius(0), radius);
}

at::Tensor MipsTransform::Holds(const at::Tensor& keys) const {
  return LargestDistance(keys, centre).le(radius);
}

at::Tensor MipsTransform::Keys(const at::Tensor& keys) const {
  const int64_t n = keys.size(2), dim = keys.size(3);
  if (keys.device().is_cpu()) {
    at::Tensor on_sphere = at::empty({keys.size(0), keys.size(1), n, dim + 1}, centre.options());
    const at::Tensor centres = centre.contiguous(), radii = radius.contiguous();
    const float* const centre_data = centres.const_data_ptr<float>();
    const float* const radius_data = radii.const_data_ptr<float>();
    float* const out = on_sphere.data_ptr<float>();
    ForEachHead(keys, [&](int64_t i, const cpu::MipsKeys& view) {
      cpu::MipsTransformKeys(view, 0, n, {centre_data + i * dim, radius_data[i]}, cpu::BestIsa(),
                             out + i * n * (dim + 1));
    });
    return on_sphere;
  }
  const at::Tensor scaled = keys.to(at::kFloat).sub(centre).div_(radius);
  const at::Tensor squares = scaled.square().sum(-1, /*keepdim=*/true);
  return at::cat({scaled, squares.neg_().add_(1).clamp_min_(0).sqrt_()}, -1);
}

at::Tensor MipsTransform::SumsOfDirections(const at::Tensor& vectors, int64_t kv_heads) {
  const at::Tensor groups = vectors.unflatten(1, {kv_heads, vectors.size(1) / kv_heads});
  if (!vectors.device().is_cpu()) {
    return groups.div(Norms(groups).clamp_min_(cpu::kLeastNorm)).sum(2);
  }
  const int64_t group = groups.size(2), dim = vectors.size(3);
  // [batch, KV heads, queries, group, dim]
  const at::Tensor rows = groups.transpose(2, 3).contiguous();
  at::Tensor sums = at::empty({rows.size(0), rows.size(1), rows.size(2), dim}, rows.options());
  const float* const in = rows.const_data_ptr<float>();
  float* const out = sums.data_ptr<float>();
  at::parallel_for(0, rows.size(0) * rows.size(1) * rows.size(2), 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       cpu::SumOfDirections(in + i * group * dim, group, dim, out + i * dim);
                     }
                   });
  return sums;
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
