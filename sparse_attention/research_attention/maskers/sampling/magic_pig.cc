#include "sparse_attention/research_attention/maskers/sampling/magic_pig.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "sparse_attention/attention/masked_products.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/mips_core.h"
#include "sparse_attention/key_index/mips_transform.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/mask/mask_ops.h"
#include "sparse_attention/research_attention/maskers/index_state.h"
#include "sparse_attention/research_attention/maskers/sampling/create_sampler.h"
#include "sparse_attention/research_attention/maskers/sampling/magic_pig_planes.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

class MagicPigIndex {
 public:
  MagicPigIndex(const at::Tensor& keys, const at::Tensor& planes, bool centred, bool like_hub)
      : tables_(planes, HashRule{}), centred_(centred), like_hub_(like_hub) {
    Fit(keys);
  }

  void Extend(const at::Tensor& keys, int64_t unchanged) {
    const at::Tensor fresh = keys.narrow(2, unchanged, keys.size(2) - unchanged);
    if (like_hub_) {
      transform_.radius = MipsTransform::Radius(keys, transform_.centre, /*global=*/true);
      return Hash(keys, unchanged);
    }
    const at::Tensor stale =
        transform_.Holds(fresh).logical_not_().logical_or_(fitted_to_.gt(unchanged));
    if (!stale.any().item<bool>()) return Hash(keys, unchanged);
    const MipsTransform fitted = MipsTransform::Fit(keys, centred_, like_hub_);
    transform_.centre = at::where(stale, fitted.centre, transform_.centre);
    transform_.radius = at::where(stale, fitted.radius, transform_.radius);
    fitted_to_.masked_fill_(stale, keys.size(2));
    Hash(keys, 0);
  }
  int64_t prefix() const { return fitted_to_.min().item<int64_t>(); }

  NamedTensors Tensors() const {
    return {{"centre", transform_.centre},
            {"planes", tables_.planes()},
            {"buckets", tables_.buckets()}};
  }

  const LshTables& tables() const { return tables_; }
  const MipsTransform& transform() const { return transform_; }

 private:
  void Fit(const at::Tensor& keys) {
    transform_ = MipsTransform::Fit(keys, centred_, like_hub_);
    fitted_to_ = at::full_like(transform_.radius, keys.size(2), at::kLong);
    Hash(keys, 0);
  }
  void Hash(const at::Tensor& keys, int64_t begin) {
    constexpr int64_t kPieceKeys = 4096;
    do {
      const int64_t length = std::min(kPieceKeys, keys.size(2) - begin);
      tables_.Set(begin, transform_.Keys(keys.narrow(2, begin, length)));
      begin += length;
    } while (begin < keys.size(2));
  }

  LshTables tables_;
  bool centred_, like_hub_;
  MipsTransform transform_;
  at::Tensor fitted_to_;  // keys that centre and radius rest on, int64 [batch, KV heads, 1, 1]
};

using State = IndexState<MagicPigIndex>;

const MagicPigIndex& UpdateIndex(const AttentionInputs& in, const MagicPigConfig& config,
                                 uint64_t pipeline_seed, State& state) {
  return state.Update(
      in,
      [&] {
        const at::Tensor planes = MagicPigPlanes(config, pipeline_seed, in.layer, in.dim());
        return MagicPigIndex(in.k, planes.to(in.q.device()), config.center,
                             config.estimator == Estimator::kHub);
      },
      [&](MagicPigIndex& index, int64_t unchanged) { index.Extend(in.k, unchanged); });
}

at::Tensor Norms(const at::Tensor& x) { return at::linalg_vector_norm(x, 2, {-1}, true); }

// What is hashed for each set, a query head or a KV group: float32 [batch, sets, queries, dim]. For
// a group the sum of its heads' directions stands.
at::Tensor HashedVectors(const AttentionInputs& in, const MipsTransform& transform, bool by_group) {
  const at::Tensor vectors = transform.CentredQueries(in.q);
  return by_group ? MipsTransform::SumsOfDirections(vectors, in.kv_heads()) : vectors;
}

// The cosines of the angles between hashed vectors and transformed keys at the true entries of
// `mask`, one after the other.
at::Tensor CosinesAt(const at::Tensor& vectors, const at::Tensor& keys,
                     const MipsTransform& transform, const at::Tensor& mask) {
  const int64_t per_head = transform.centre.size(1) == 0 ? 1 : vectors.size(1) / keys.size(1);
  const auto of_rows = [&](const at::Tensor& x) {
    return x.expand({vectors.size(0), vectors.size(1), vectors.size(2), 1})
        .reshape({-1})
        .repeat_interleave(mask.sum(-1).flatten());
  };
  const at::Tensor centre = transform.centre.repeat_interleave(per_head, 1);
  const at::Tensor radius = transform.radius.repeat_interleave(per_head, 1);
  // s . (k - c) = s . k - s . c
  at::Tensor products = MaskedProducts(vectors, keys, mask);
  products.sub_(of_rows(vectors.mul(centre).sum(-1, /*keepdim=*/true)));
  return products.div_(of_rows(Norms(vectors).clamp_min_(cpu::kLeastNorm).mul_(radius)));
}

}  // namespace

at::Tensor MagicPigPlanes(const MagicPigConfig& config, uint64_t pipeline_seed, int64_t layer,
                          int64_t dim) {
  if (config.estimator == Estimator::kHub) {
    const at::Tensor projections =
        at::randn({dim + 1, config.lsh_l * config.lsh_k},
                  at::detail::createCPUGenerator(config.seed + static_cast<uint64_t>(layer)),
                  at::TensorOptions().dtype(at::kFloat));
    return projections.t().reshape({config.lsh_l, config.lsh_k, dim + 1});
  }
  return TensorOf(DrawMagicPigPlanes(config, pipeline_seed, layer, dim));
}

MagicPig::MagicPig(const MagicPigConfig& config, const MaskerOptions& options)
    : Masker(MagicPigDescriptor(), options), config_(config) {}

std::unique_ptr<MaskerState> MagicPig::NewState() const { return std::make_unique<State>(); }

absl::Status MagicPig::PrepareState(const AttentionInputs& in, MaskerState* state) const {
  if (in.keys() == 0 || in.batch() == 0) return absl::OkStatus();
  UpdateIndex(in, config_, options().seed, static_cast<State&>(*state));
  return absl::OkStatus();
}

absl::StatusOr<Mask> MagicPig::Select(const AttentionInputs& in, const Mask& previous,
                                      MaskerState* state) const {
  const bool by_group = options().selection == Selection::kKvGroup;
  const bool like_hub = config_.estimator == Estimator::kHub;
  return WithState<State>(state, [&](State& own) -> absl::StatusOr<Mask> {
    const MagicPigIndex& index = UpdateIndex(in, config_, options().seed, own);
    const at::Tensor vectors = HashedVectors(in, index.transform(), by_group);
    const at::Tensor on_sphere = at::constant_pad_nd(vectors, {0, 1});
    at::Tensor shared =
        ShareABucket(index.tables().HashQueries(on_sphere), index.tables().buckets());
    const at::Tensor eligible = EligibleKeys(in, previous);
    if (!like_hub) {
      shared.logical_and_(by_group ? AnyInGroup(eligible, in.kv_heads()) : eligible);
    }
    const at::Tensor cosines = CosinesAt(vectors, in.k, index.transform(), shared);
    const at::Tensor p = CollisionProbability(cosines, config_.lsh_k, config_.lsh_l);
    at::Tensor weights = at::zeros(shared.sizes(), vectors.options());
    weights.masked_scatter_(shared, p.to(at::kFloat).nan_to_num_(0).clamp_(0, 1));
    if (like_hub) return Union(previous, Mask::AdoptDense(weights));
    if (by_group) weights = ExpandGroup(weights, in.query_heads()).mul(eligible);
    return Mask::AdoptDense(weights.add_(previous.ToDense()));
  });
}

int64_t MagicPig::IndexBytes(const AttentionInputs& in) const {
  const int64_t k = config_.lsh_k;
  const int64_t bucket_bytes = k <= 8 ? 1 : k <= 15 ? 2 : k <= 31 ? 4 : 8;
  return in.batch() * in.kv_heads() * in.keys() * config_.lsh_l * bucket_bytes;
}

const MaskerDescriptor& MagicPigDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<MagicPig>(
      {
          .kind = MaskerKind::kSampling,
          .summary =
              "A sample of the keys in the query's hash buckets, weighed by its probability.",
          .source = "Chen et al., MagicPIG: LSH sampling for efficient LLM generation, 2024",
          .when_to_use = "Where attention is spread and an unbiased estimate is wanted; without "
                         "weights. The index is about as large as the keys themselves.",
          .memory = "lsh_l · (1, 2, 4 or 8) bytes (lsh_k up to 8, 15, 31, 64)",
          .reads = "the buckets of every key",
          .scoring_reads = ScoringReads::kIndex,
          .keys_apart = false,
      },
      &CreateSampler<MagicPig>);
  return descriptor;
}

}  // namespace sparse_attention
