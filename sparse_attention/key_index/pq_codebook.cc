#include "sparse_attention/key_index/pq_codebook.h"

#include <ATen/Parallel.h>
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
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/k_means.h"
#include "sparse_attention/key_index/lookups.h"
#include "sparse_attention/key_index/tensor_rows.h"

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
      key_dim_(keys.size(3)),
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
  codes_.Set(begin, codes.to(CodeType()));
}

KMeansOptions PqCodebook::TrainingOptions(int64_t heads) const {
  KMeansOptions k_means;
  k_means.clusters = int64_t{1} << options_.bits;
  k_means.iterations = options_.iterations;
  k_means.like_hub = options_.like_hub;
  k_means.stream = [this, heads](int64_t group) {  // the same for every sequence of a batch
    const int64_t head = group / subvectors_ % heads;
    return PhiloxStream(options_.seed, RandomPurpose::kPqCodebook,
                        static_cast<uint32_t>(options_.layer), static_cast<uint32_t>(head),
                        static_cast<uint32_t>(group % subvectors_));
  };
  return k_means;
}

void PqCodebook::Train(const at::Tensor& keys) {
  trained_on_ = keys.size(2);
  if (keys.device().is_cpu() && !options_.like_hub) return TrainOnHost(keys);
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
  const KMeansResult trained = KMeans(x.flatten(0, 2), counted, TrainingOptions(heads));
  const std::vector<int64_t> groups = {b, heads, subvectors_};
  centroids_ = trained.centroids.unflatten(0, groups);
  SetCodes(0, trained.assignments.unflatten(0, groups));
  Pack();
}

// Reads the keys where they are.
void PqCodebook::TrainOnHost(const at::Tensor& keys) {
  const at::Tensor rows = AsElements(keys);
  const int64_t b = rows.size(0), heads = rows.size(1), n = rows.size(2);
  const KMeansOptions options = TrainingOptions(heads);
  const int64_t clusters = options.clusters, dim = width_ + (options_.inner_product ? 1 : 0);
  const at::TensorOptions floats = rows.options().dtype(at::kFloat);
  centroids_ = at::empty({b, heads, subvectors_, clusters, dim}, floats);
  if (options_.inner_product) phi_ = at::zeros({b, heads, subvectors_, 1, 1}, floats);
  at::Tensor codes = at::empty({b, heads, subvectors_, n}, rows.options().dtype(CodeType()));
  at::parallel_for(0, b * heads * subvectors_, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch;
    std::vector<int32_t> group_codes(n);
    for (int64_t group = begin; group < end; ++group) {
      PhiloxStream stream = options.stream(group);
      cpu::PqTraining training;
      training.keys = KeyRowsOf(rows, group / subvectors_ / heads, group / subvectors_ % heads);
      training.key_dim = rows.size(3);
      training.subvectors = subvectors_;
      training.subvector = group % subvectors_;
      training.clusters = clusters;
      training.iterations = options.iterations;
      training.inner_product = options_.inner_product;
      training.uniform = [](void* draws) { return static_cast<PhiloxStream*>(draws)->Uniform(); };
      training.stream = &stream;
      training.centroids = centroids_.data_ptr<float>() + group * clusters * dim;
      if (options_.inner_product) training.phi = phi_.data_ptr<float>() + group;
      training.codes = group_codes.data();
      scratch.resize(cpu::PqTrainingScratchBytes(training) / static_cast<int64_t>(sizeof(double)));
      cpu::TrainPq(training, cpu::BestIsa(), scratch.data());
      if (options_.bits <= 8) {
        std::copy(group_codes.begin(), group_codes.end(), codes.data_ptr<uint8_t>() + group * n);
      } else {
        std::copy(group_codes.begin(), group_codes.end(), codes.data_ptr<int32_t>() + group * n);
      }
    }
  });
  codes_.Set(0, codes);
  Pack();
}

void PqCodebook::Pack() {
  if (!centroids_.device().is_cpu()) return;
  const at::Tensor centroids = centroids_.flatten(0, 2).contiguous();
  const int64_t groups = centroids.size(0), clusters = centroids.size(1), dim = centroids.size(2);
  const int64_t floats = cpu::PackedCentroidFloats(clusters, dim);
  packed_.resize(groups * floats);
  for (int64_t group = 0; group < groups; ++group) {
    cpu::PackCentroids(centroids.const_data_ptr<float>() + group * clusters * dim, clusters, dim,
                       packed_.data() + group * floats);
  }
}

cpu::PqEncoder PqCodebook::Encoder(int64_t sequence) const {
  cpu::PqEncoder encoder;
  encoder.heads = centroids_.size(1);
  encoder.key_dim = key_dim_;
  encoder.subvectors = subvectors_;
  encoder.clusters = centroids_.size(3);
  const int64_t group = sequence * encoder.heads * subvectors_;
  if (options_.inner_product) encoder.phi = phi_.const_data_ptr<float>() + group;
  encoder.packed = packed_.data() + group * encoder.packed_floats();
  return encoder;
}

at::Tensor PqCodebook::Encode(const at::Tensor& keys) const {
  if (!keys.device().is_cpu()) {
    at::Tensor x = Subvectors(keys);
    if (options_.inner_product) x = AddNormChannel(x, phi_);
    return NearestCentroids(x.flatten(0, 2), centroids_.flatten(0, 2))
        .unflatten(0, centroids_.sizes().slice(0, 3));
  }
  const at::Tensor rows = AsElements(keys);
  const int64_t b = rows.size(0), heads = rows.size(1), n = rows.size(2);
  at::Tensor codes = at::empty({b, heads, subvectors_, n}, rows.options().dtype(CodeType()));
  at::parallel_for(0, b * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const cpu::PqEncoder encoder = Encoder(i / heads);
      std::vector<float> scratch(cpu::PqScratchBytes(encoder) /
                                 static_cast<int64_t>(sizeof(float)));
      const auto encode = [&](auto* out) {
        cpu::EncodePq(encoder, i % heads, KeyRowsOf(rows, i / heads, i % heads), cpu::BestIsa(),
                      scratch.data(), out + i * subvectors_ * n, n);
      };
      if (options_.bits <= 8) {
        encode(codes.data_ptr<uint8_t>());
      } else {
        encode(codes.data_ptr<int32_t>());
      }
    }
  });
  return codes;
}

void PqCodebook::Extend(const at::Tensor& keys, int64_t unchanged) {
  if (!options_.like_hub && keys.size(2) > 2 * trained_on_) return Train(keys);
  SetCodes(unchanged, Encode(keys.narrow(2, unchanged, keys.size(2) - unchanged)));
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
