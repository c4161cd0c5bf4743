#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k.h"

#include <utility>

#include "sparse_attention/key_index/bit_signature.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/index_state.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

struct State : IndexState<BitSignatureIndex> {
  HeadMlp query, key;  // on the inputs' device; the index points to them
};

using Weights = std::shared_ptr<const HashAttentionWeights>;

// `mlp` is one of `weights`.
HeadMlp OnDevice(const MlpWeights& mlp, const Weights& weights, at::Device device) {
  HeadMlp result;
  result.activation = weights->activation();
  for (const LinearWeights& linear : mlp.linears) {
    result.linears.push_back(
        {TensorOf(linear.weight, weights).to(device), TensorOf(linear.bias, weights).to(device)});
  }
  return result;
}

absl::StatusOr<const BitSignatureIndex*> UpdateIndex(const AttentionInputs& in,
                                                     const Weights& weights, State& state) {
  SA_ASSIGN_OR_RETURN(const HashAttentionLayer* layer,
                      weights->Layer(in.layer, in.query_heads(), in.kv_heads(), in.dim()));
  return &state.Update(
      in,
      [&] {
        state.query = OnDevice(layer->query, weights, in.q.device());
        state.key = OnDevice(layer->key, weights, in.q.device());
        return BitSignatureIndex(in.k, state.key);
      },
      [&](BitSignatureIndex& index, int64_t unchanged) { index.Extend(in.k, unchanged); });
}

absl::StatusOr<std::unique_ptr<Masker>> Create(const Json& json, const MaskerOptions& options) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<HashAttentionTopKConfig>(json));
  SA_ASSIGN_OR_RETURN(auto weights, LoadWeights(config));
  return std::make_unique<HashAttentionTopK>(config, options, std::move(weights));
}

}  // namespace

HashAttentionTopK::HashAttentionTopK(const HashAttentionTopKConfig& config,
                                     const MaskerOptions& options,
                                     std::shared_ptr<const HashAttentionWeights> weights)
    : TopKMasker(HashAttentionTopKDescriptor(), options, config.heavy_size),
      config_(config),
      weights_(std::move(weights)) {}

std::unique_ptr<MaskerState> HashAttentionTopK::NewState() const {
  return std::make_unique<State>();
}

absl::Status HashAttentionTopK::PrepareState(const AttentionInputs& in, MaskerState* state) const {
  return UpdateIndex(in, weights_, static_cast<State&>(*state)).status();
}

absl::StatusOr<at::Tensor> HashAttentionTopK::Scores(const AttentionInputs& in,
                                                     MaskerState* state) const {
  return WithState<State>(state, [&](State& own) -> absl::StatusOr<at::Tensor> {
    SA_ASSIGN_OR_RETURN(const BitSignatureIndex* index, UpdateIndex(in, weights_, own));
    const at::Tensor queries = BitSignatures(own.query, in.q);
    return AddBias(BitAgreement(queries, index->signatures(), own.key.bits()), in);
  });
}

int64_t HashAttentionTopK::IndexBytes(const AttentionInputs& in) const {
  const auto layer = weights_->Layer(in.layer, in.query_heads(), in.kv_heads(), in.dim());
  if (!layer.ok()) return 0;
  const int64_t words = ((*layer)->key.bits() + 31) / 32;
  return in.batch() * (*layer)->key.heads() * in.keys() * words * int64_t{sizeof(int32_t)};
}

const MaskerDescriptor& HashAttentionTopKDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<HashAttentionTopK>(
      {
          .summary = "The keys whose learned bit signatures agree most with the query's.",
          .source = "Desai et al., HashAttention: semantic sparsity for faster inference, 2024",
          .when_to_use = "Where weights were trained for the model: the smallest index, and the "
                         "cheapest to score.",
          .memory = "bits / 8 bytes (32 bits: 4), a query head where key MLPs are not shared",
          .reads = "the signature of every key",
          .scoring_reads = ScoringReads::kIndex,
      },
      &Create);
  return descriptor;
}

}  // namespace sparse_attention
