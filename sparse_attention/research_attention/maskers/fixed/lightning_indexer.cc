#include "sparse_attention/research_attention/maskers/fixed/lightning_indexer.h"

#include <utility>

#include "sparse_attention/key_index/indexer_keys.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/index_state.h"

namespace sparse_attention {
namespace {

struct State : IndexState<IndexerKeys> {
  IndexerLayer layer;  // on the inputs' device; the index points to it
};

absl::StatusOr<const IndexerKeys*> UpdateIndex(const AttentionInputs& in,
                                               const std::shared_ptr<const IndexerWeights>& weights,
                                               State& state) {
  SA_ASSIGN_OR_RETURN(const IndexerLayerWeights* layer,
                      weights->Layer(in.layer, in.query_heads(), in.kv_heads(), in.dim()));
  return &state.Update(
      in,
      [&] {
        const at::Device device = in.q.device();
        state.layer = {TensorOf(layer->query, weights).to(device),
                       TensorOf(layer->key, weights).to(device),
                       TensorOf(layer->gate, weights).to(device)};
        return IndexerKeys(in.k, state.layer);
      },
      [&](IndexerKeys& keys, int64_t unchanged) { keys.Extend(in.k, unchanged); });
}

absl::StatusOr<std::unique_ptr<Masker>> Create(const Json& json, const MaskerOptions& options) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<LightningIndexerConfig>(json));
  SA_ASSIGN_OR_RETURN(auto weights, LoadWeights(config));
  return std::make_unique<LightningIndexer>(config, options, std::move(weights));
}

}  // namespace

LightningIndexer::LightningIndexer(const LightningIndexerConfig& config,
                                   const MaskerOptions& options,
                                   std::shared_ptr<const IndexerWeights> weights)
    : TopKMasker(LightningIndexerDescriptor(), options, config.heavy_size),
      config_(config),
      weights_(std::move(weights)) {}

std::unique_ptr<MaskerState> LightningIndexer::NewState() const {
  return std::make_unique<State>();
}

absl::Status LightningIndexer::PrepareState(const AttentionInputs& in, MaskerState* state) const {
  return UpdateIndex(in, weights_, static_cast<State&>(*state)).status();
}

absl::StatusOr<at::Tensor> LightningIndexer::Scores(const AttentionInputs& in,
                                                    MaskerState* state) const {
  return WithState<State>(state, [&](State& own) -> absl::StatusOr<at::Tensor> {
    SA_ASSIGN_OR_RETURN(const IndexerKeys* keys, UpdateIndex(in, weights_, own));
    return keys->Scores(in.q).unsqueeze(1).expand(
        {in.batch(), in.query_heads(), in.queries(), in.keys()});
  });
}

int64_t LightningIndexer::IndexBytes(const AttentionInputs& in) const {
  const auto layer = weights_->Layer(in.layer, in.query_heads(), in.kv_heads(), in.dim());
  if (!layer.ok()) return 0;
  return in.batch() * in.keys() * (*layer)->width() * int64_t{sizeof(float)};
}

const MaskerDescriptor& LightningIndexerDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<LightningIndexer>(
      {
          .summary =
              "The keys that a few trained indexer heads score highest, for all heads alike.",
          .source =
              "DeepSeek-AI, DeepSeek-V3.2: pushing the frontier of open large language models, "
              "2025",
          .when_to_use =
              "Where an indexer was trained for the model: one selection serves all heads, "
              "so that each key is read once.",
          .memory = "width floats, once for all KV heads",
          .reads = "the indexer key of every key",
          .scoring_reads = ScoringReads::kIndex,
      },
      &Create);
  return descriptor;
}

}  // namespace sparse_attention
