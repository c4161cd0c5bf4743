#include "sparse_attention/key_index/pq_codebook.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/key_index/k_means.h"
#include "sparse_attention/key_index/lookups.h"

namespace sparse_attention {

at::Tensor SquaredRadius(const at::Tensor& x) {
  return x.square().sum(-1, /*keepdim=*/true).amax(-2, /*keepdim=*/true);
}

at::Tensor AddNormChannel(const at::Tensor& x, const at::Tensor& phi) {
  const at::Tensor squares = x.square().sum(-1, /*keepdim=*/true);
  return at::cat({x, phi.sub(squares).clamp_min_(0).sqrt_()}, -1);
}

PqCodebook::PqCodebook(const at::Tensor& keys, const PqOptions& options)
    : options_(options),
      subvectors_(std::min(options.subvectors, keys.size(3))),
      width_((keys.size(3) + subvectors_ - 1) / subvectors_) {
  Train(keys);
}

at::Tensor PqCodebook::Subvectors(const at::Tensor& x) const {
  const at::Tensor wide = x.to(at::kFloat);
  const int64_t dim = x.size(3);
  if (dim % subvectors_ == 0) {
    return wide.unflatten(3, {subvectors_, width_}).transpose(2, 3).contiguous();
  }
  // The first dim % subvectors have one channel more; the others are filled up with a 0.
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (int64_t i = 0; i < subvectors_; ++i) {
    const int64_t length = dim / subvectors_ + (i < dim % subvectors_ ? 1 : 0);
    parts.push_back(at::constant_pad_nd(wide.narrow(3, begin, length), {0, width_ - length}));
    begin += length;
  }
  return at::stack(parts, 2);
}

void PqCodebook::SetCodes(int64_t begin, const at::Tensor& codes) {
  codes_.Set(begin, codes.to(options_.bits <= 8 ? at::kByte : at::kInt));
}

void PqCodebook::Train(const at::Tensor& keys) {
  at::Tensor x = Subvectors(keys);
  const int64_t b = x.size(0), heads = x.size(1), n = x.size(3);
  const at::Tensor finite = keys.isfinite().all(-1);  // [batch, heads, n]
  const at::Tensor counted =
      finite.unsqueeze(2).expand({b, heads, subvectors_, n}).reshape({b * heads * subvectors_, n});
  if (!finite.all().item<bool>()) {
    x.masked_fill_(finite.view({b, heads, 1, n, 1}).logical_not(), 0);
  }
  if (options_.inner_product) {
    phi_ = SquaredRadius(x);
    x = AddNormChannel(x, phi_);
  }
  KMeansOptions k_means;
  k_means.clusters = int64_t{1} << options_.bits;
  k_means.iterations = options_.iterations;
  k_means.like_hub = options_.like_hub;
  k_means.stream = [&](int64_t group) {  // the same for every sequence of a batch
    const int64_t head = group / subvectors_ % heads;
    return PhiloxStream(options_.seed, RandomPurpose::kPqCodebook,
                        static_cast<uint32_t>(options_.layer), static_cast<uint32_t>(head),
                        static_cast<uint32_t>(group % subvectors_));
  };
  const KMeansResult trained = KMeans(x.flatten(0, 2), counted, k_means);
  const std::vector<int64_t> groups = {b, heads, subvectors_};
  centroids_ = trained.centroids.unflatten(0, groups);
  SetCodes(0, trained.assignments.unflatten(0, groups));
  trained_on_ = n;
}

void PqCodebook::Extend(const at::Tensor& keys, int64_t unchanged) {
  if (!options_.like_hub && keys.size(2) > 2 * trained_on_) return Train(keys);
  at::Tensor x = Subvectors(keys.narrow(2, unchanged, keys.size(2) - unchanged));
  if (options_.inner_product) x = AddNormChannel(x, phi_);
  const at::Tensor codes = NearestCentroids(x.flatten(0, 2), centroids_.flatten(0, 2));
  SetCodes(unchanged, codes.unflatten(0, centroids_.sizes().slice(0, 3)));
}

at::Tensor PqCodebook::Scores(const at::Tensor& q) const {
  const at::Tensor rows = GroupRows(q.to(at::kFloat), centroids_.size(1));
  const at::Tensor centroids = centroids_.narrow(-1, 0, width_);
  const at::Tensor tables = at::matmul(Subvectors(rows), centroids.transpose(3, 4));
  at::Tensor scores =
      at::zeros({rows.size(0), rows.size(1), rows.size(2), codes_.size()}, rows.options());
  AddLookups(tables.transpose(2, 3), codes_.view(), scores);
  return UngroupRows(scores, q.size(1));
}

ReconstructionErrors PqCodebook::Errors(const at::Tensor& keys) const {
  const at::Tensor centroids = centroids_.narrow(-1, 0, width_);
  const at::Tensor index =
      codes_.view().to(at::kLong).unsqueeze(-1).expand({-1, -1, -1, -1, width_});
  const at::Tensor difference = Subvectors(keys).sub(centroids.gather(3, index)).to(at::kDouble);
  const double squares = difference.square().sum().item<double>();
  const double norm = std::sqrt(keys.to(at::kDouble).square().sum().item<double>());
  const double l2 = std::sqrt(squares);
  return {squares / static_cast<double>(std::max<int64_t>(1, keys.numel())), l2,
          norm == 0 ? 0 : l2 / norm};
}

}  // namespace sparse_attention
