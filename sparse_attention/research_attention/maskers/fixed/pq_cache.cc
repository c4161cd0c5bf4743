#include "sparse_attention/research_attention/maskers/fixed/pq_cache.h"

#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/research_attention/maskers/index_state.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

// A codebook over the keys behind the first `offset`.
class OffsetCodebook {
 public:
  OffsetCodebook(const at::Tensor& keys, int64_t offset, const PqOptions& options)
      : offset_(offset), codebook_(Behind(keys), options) {}
  void Extend(const at::Tensor& keys, int64_t unchanged) {
    codebook_.Extend(Behind(keys), unchanged - offset_);
  }
  int64_t prefix() const { return offset_ + codebook_.prefix(); }
  NamedTensors Tensors() const {
    return {{"centroids", codebook_.centroids()},
            {"codes", codebook_.codes()},
            {"phi", codebook_.phi()}};
  }
  // Of all keys; those in front score 0.
  at::Tensor Scores(const at::Tensor& q) const {
    return at::constant_pad_nd(codebook_.Scores(q), {offset_, 0});
  }

 private:
  at::Tensor Behind(const at::Tensor& keys) const {
    return keys.narrow(2, offset_, keys.size(2) - offset_);
  }
  int64_t offset_;
  PqCodebook codebook_;
};

using State = IndexState<OffsetCodebook>;

const OffsetCodebook& UpdateCodebook(const AttentionInputs& in, const PqCacheConfig& config,
                                     State& state) {
  return state.Update(
      in,
      [&] {
        PqOptions options;
        options.subvectors = config.pq_group_factor;
        options.bits = config.pq_bits;
        options.iterations = config.kmeans_iter;
        options.inner_product = config.metric == PqMetric::kInnerProduct;
        options.like_hub = config.kmeans == KMeansRule::kHub;
        options.seed = config.seed;
        options.layer = in.layer;
        return OffsetCodebook(in.k, config.init_offset, options);
      },
      [&](OffsetCodebook& codebook, int64_t unchanged) { codebook.Extend(in.k, unchanged); });
}

}  // namespace

PqCache::PqCache(const PqCacheConfig& config, const MaskerOptions& options)
    : TopKMasker(PqCacheDescriptor(), options, config.heavy_size), config_(config) {}

std::unique_ptr<MaskerState> PqCache::NewState() const { return std::make_unique<State>(); }

bool PqCache::KeepsAll(const AttentionInputs& in, int64_t k) const {
  const int64_t besides = config_.init_offset + in.queries() + (int64_t{1} << config_.pq_bits);
  return k >= in.keys() || in.keys() - k <= besides;
}

absl::Status PqCache::PrepareState(const AttentionInputs& in, MaskerState* state) const {
  // With no more keys than centroids there is nothing to learn: the first step with enough does.
  const int64_t enough = config_.init_offset + (int64_t{1} << config_.pq_bits);
  if (in.batch() == 0 || in.keys() <= enough) return absl::OkStatus();
  UpdateCodebook(in, config_, static_cast<State&>(*state));
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> PqCache::Scores(const AttentionInputs& in, MaskerState* state) const {
  const at::Tensor products = WithState<State>(
      state, [&](State& own) { return UpdateCodebook(in, config_, own).Scores(in.q); });
  if (!in.bias.has_value()) return products;
  return AddBias(products.mul(in.effective_scale()), in);
}

int64_t PqCache::IndexBytes(const AttentionInputs& in) const {
  const int64_t subvectors = std::min(config_.pq_group_factor, in.dim());
  const int64_t code_bytes = config_.pq_bits <= 8 ? 1 : 4;
  const int64_t centroids = (int64_t{1} << config_.pq_bits) * in.dim() * int64_t{sizeof(float)};
  const int64_t keys = std::max<int64_t>(0, in.keys() - config_.init_offset);
  return in.batch() * in.kv_heads() * (keys * subvectors * code_bytes + centroids);
}

const MaskerDescriptor& PqCacheDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<PqCache>({
      .summary = "The keys with the highest products by product quantisation.",
      .source = "Zhang et al., PQCache: product quantization-based KVCache for long context LLM "
                "inference, 2024",
      .when_to_use =
          "Without training, where the prompt is long enough to pay for k-means: the "
          "best recall a byte of the methods without weights. Codebooks that were learnt "
          "on the prompt are kept; they are learnt again when the keys have doubled.",
      .memory = "pq_group_factor bytes (pq_bits up to 8), and 2^pq_bits · dim floats a KV head",
      .reads = "the codes of every key",
      .scoring_reads = ScoringReads::kIndex,
      .keys_apart = false,
  });
  return descriptor;
}

}  // namespace sparse_attention
