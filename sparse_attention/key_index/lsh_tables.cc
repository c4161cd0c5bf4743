#include "sparse_attention/key_index/lsh_tables.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numbers>
#include <type_traits>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/hash_core.h"
#include "sparse_attention/key_index/tensor_rows.h"

namespace sparse_attention {
namespace {

constexpr int64_t kPieceFloats = 8 << 20;  // projections that are held at a time
constexpr int64_t kHostPieceRows = 256;    // hashed by a thread at a time
constexpr int64_t kBlockKeys = 1024;       // buckets that stay in the first-level cache

at::ScalarType BucketType(int64_t bits) {
  if (bits <= 8) return at::kByte;
  if (bits <= 15) return at::kShort;
  return bits <= 31 ? at::kInt : at::kLong;
}

// For blocks of keys, so that the query heads of a group read a block from the cache.
template <typename Bucket>
void CompareOnHost(const at::Tensor& q, const at::Tensor& k, at::Tensor& shared) {
  const int64_t heads = q.size(1), tables = q.size(2), queries = q.size(3), n = k.size(3);
  const int64_t sets = k.size(1), group = sets == 0 ? 0 : heads / sets;
  const int64_t blocks = (n + kBlockKeys - 1) / kBlockKeys;
  const Bucket* const q_data = q.const_data_ptr<Bucket>();
  const Bucket* const k_data = k.const_data_ptr<Bucket>();
  bool* const out = shared.data_ptr<bool>();
  at::parallel_for(0, q.size(0) * sets * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<Bucket> hits(kBlockKeys);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * kBlockKeys;
      const int64_t count = std::min(kBlockKeys, n - first);
      const int64_t set = task / blocks % sets, sequence = task / blocks / sets;
      const Bucket* const keys = k_data + sequence * k.stride(0) + set * k.stride(1) + first;
      for (int64_t row = 0; row < group * queries; ++row) {
        const int64_t head = set * group + row / queries, query = row % queries;
        const Bucket* const buckets =
            q_data + ((sequence * heads + head) * tables) * queries + query;
        std::fill(hits.begin(), hits.end(), Bucket{0});
        for (int64_t t = 0; t < tables; ++t) {
          const Bucket wanted = buckets[t * queries];
          const Bucket* const held = keys + t * k.stride(2);
          Bucket* const hit = hits.data();
          for (int64_t j = 0; j < count; ++j) {
            hit[j] = static_cast<Bucket>(hit[j] | static_cast<Bucket>(held[j] == wanted));
          }
        }
        bool* const row_out = out + ((sequence * heads + head) * queries + query) * n + first;
        for (int64_t j = 0; j < count; ++j) row_out[j] = hits[j] != 0;
      }
    }
  });
}

template <typename Bucket>
void HashOnHost(const at::Tensor& vectors, const at::Tensor& planes, const HashRule& rule,
                at::Tensor& buckets) {
  const at::Tensor x = AsElements(vectors), dense_planes = planes.contiguous();
  const int64_t heads = x.size(1), n = x.size(2), dim = x.size(3);
  cpu::HashPlanes view;
  view.tables = planes.size(0);
  view.bits = planes.size(1);
  view.dim = dim;
  view.zero_is_one = rule.zero_is_one;
  std::vector<float> packed(cpu::PackedPlaneFloats(view.tables, view.bits, dim));
  cpu::PackPlanes(dense_planes.const_data_ptr<float>(), view.tables, view.bits, dim,
                  rule.order == BitOrder::kHighestFirst, packed.data());
  view.packed = packed.data();
  Bucket* const out = buckets.data_ptr<Bucket>();
  const cpu::RowProductKernels kernels = cpu::RowProductKernelsFor(cpu::BestIsa());
  const int64_t pieces = (n + kHostPieceRows - 1) / kHostPieceRows;
  at::parallel_for(0, x.size(0) * heads * pieces, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(cpu::HashScratchFloats(view)), rows(kHostPieceRows * dim);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % pieces * kHostPieceRows;
      const int64_t count = std::min(kHostPieceRows, n - first);
      const cpu::KeyRows keys =
          KeyRowsOf(x, task / pieces / heads, task / pieces % heads).Part(first, count);
      for (int64_t j = 0; j < count; ++j) {
        kernels.widen(keys.Row(j), keys.element, dim, rows.data() + j * dim);
      }
      cpu::HashRows(view, rows.data(), count, cpu::BestIsa(), scratch.data(),
                    out + task / pieces * view.tables * n + first, n, 1);
    }
  });
}

}  // namespace

at::Tensor HashBuckets(const at::Tensor& x, const at::Tensor& planes, const HashRule& rule) {
  const int64_t tables = planes.size(0), bits = planes.size(1), n = x.size(2);
  at::Tensor buckets =
      at::empty({x.size(0), x.size(1), tables, n}, x.options().dtype(BucketType(bits)));
  if (x.device().is_cpu()) {
    AT_DISPATCH_INTEGRAL_TYPES(buckets.scalar_type(), "HashBuckets", [&] {
      if constexpr (!std::is_same_v<scalar_t, int8_t>) {
        HashOnHost<scalar_t>(x, planes, rule, buckets);
      }
    });
    return buckets;
  }
  const at::Tensor directions = planes.flatten(0, 1).t();
  const int64_t per_key = std::max<int64_t>(1, x.size(0) * x.size(1) * tables * bits);
  const int64_t piece = std::max<int64_t>(1, kPieceFloats / per_key);
  for (int64_t begin = 0; begin < n; begin += piece) {
    const int64_t length = std::min(piece, n - begin);
    const at::Tensor sides = at::matmul(x.narrow(2, begin, length).to(at::kFloat), directions);
    const at::Tensor ones = rule.zero_is_one ? sides.ge(0) : sides.gt(0);
    buckets.narrow(3, begin, length).copy_(PackBits(ones, bits, rule.order).transpose(2, 3));
  }
  return buckets;
}

at::Tensor ShareABucket(const at::Tensor& q_buckets, const at::Tensor& k_buckets) {
  const int64_t heads = q_buckets.size(1), sets = k_buckets.size(1);
  at::Tensor shared = at::zeros({q_buckets.size(0), heads, q_buckets.size(3), k_buckets.size(3)},
                                q_buckets.options().dtype(at::kBool));
  if (shared.device().is_cpu() && k_buckets.stride(3) == 1) {
    const at::Tensor q = q_buckets.contiguous();
    AT_DISPATCH_INTEGRAL_TYPES(q.scalar_type(), "ShareABucket",
                               [&] { CompareOnHost<scalar_t>(q, k_buckets, shared); });
    return shared;
  }
  for (int64_t t = 0; t < q_buckets.size(2); ++t) {
    const at::Tensor held =
        k_buckets.select(2, t).unsqueeze(2).repeat_interleave(sets == 0 ? 1 : heads / sets, 1);
    shared.logical_or_(q_buckets.select(2, t).unsqueeze(3).eq(held));
  }
  return shared;
}

at::Tensor CollisionProbability(const at::Tensor& cosine, int64_t bits, int64_t tables) {
  if (cosine.device().is_cpu()) {
    at::Tensor result = at::empty_like(cosine, at::kDouble, at::MemoryFormat::Contiguous);
    const at::Tensor cosines = cosine.to(at::kDouble).contiguous();
    const double* const in = cosines.const_data_ptr<double>();
    double* const out = result.data_ptr<double>();
    constexpr int64_t kGrain = 1024;
    at::parallel_for(0, result.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        out[i] = cpu::CollisionProbability(in[i], bits, tables);
      }
    });
    return result;
  }
  const at::Tensor angle = cosine.to(at::kDouble).clamp(-1, 1).acos_();
  const at::Tensor same_side = angle.mul_(-1 / std::numbers::pi).add_(1);
  const at::Tensor same_bucket = same_side.pow_(bits);
  // 1 - (1 - p)^tables, without loss where p is tiny.
  return same_bucket.neg_().log1p_().mul_(static_cast<double>(tables)).expm1_().neg_();
}

at::Tensor SoftBuckets(const at::Tensor& a) {
  const at::Tensor one = a.mul(2).sigmoid();
  const at::Tensor zero = a.mul(-2).sigmoid();
  std::vector<int64_t> shape = a.sizes().vec();
  shape.back() = 1;
  at::Tensor table = at::ones(shape, a.options());
  for (int64_t p = 0; p < a.size(-1); ++p) {
    table = at::stack({table.mul(zero.narrow(-1, p, 1)), table.mul(one.narrow(-1, p, 1))}, -1)
                .flatten(-2);
  }
  return table;
}

}  // namespace sparse_attention
