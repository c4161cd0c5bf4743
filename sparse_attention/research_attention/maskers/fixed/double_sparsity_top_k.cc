#include "sparse_attention/research_attention/maskers/fixed/double_sparsity_top_k.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "sparse_attention/key_index/label_cache.h"
#include "sparse_attention/research_attention/maskers/index_state.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

using State = IndexState<LabelCache>;

const LabelCache& UpdateLabels(const AttentionInputs& in, const at::Tensor& channels,
                               int64_t label_bits, State& state) {
  return state.Update(
      in, [&] { return LabelCache(in.k, channels.to(in.q.device()), label_bits); },
      [&](LabelCache& labels, int64_t unchanged) { labels.Extend(in.k, unchanged); });
}

absl::StatusOr<std::unique_ptr<Masker>> Create(const Json& json, const MaskerOptions& options) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<DoubleSparsityTopKConfig>(json));
  SA_ASSIGN_OR_RETURN(ChannelFile file, LoadChannels(config));
  return std::make_unique<DoubleSparsityTopK>(config, options,
                                              std::make_shared<const ChannelFile>(std::move(file)));
}

}  // namespace

DoubleSparsityTopK::DoubleSparsityTopK(const DoubleSparsityTopKConfig& config,
                                       const MaskerOptions& options,
                                       std::shared_ptr<const ChannelFile> channels)
    : TopKMasker(DoubleSparsityTopKDescriptor(), options, config.heavy_size),
      config_(config),
      channels_(std::move(channels)) {}

std::unique_ptr<MaskerState> DoubleSparsityTopK::NewState() const {
  return std::make_unique<State>();
}

absl::StatusOr<at::Tensor> DoubleSparsityTopK::ChannelsOf(const AttentionInputs& in) const {
  SA_ASSIGN_OR_RETURN(
      const ChannelLists lists,
      DoubleSparsityChannels(*channels_, config_, in.layer, in.query_heads(), in.dim()));
  const int64_t heads = static_cast<int64_t>(lists.size());
  const int64_t count = static_cast<int64_t>(lists.front().size());
  at::Tensor channels = at::empty({heads, count}, at::kLong);
  int64_t* out = channels.data_ptr<int64_t>();
  for (const std::vector<int64_t>& list : lists) out = std::copy_n(list.begin(), count, out);
  return channels;
}

absl::Status DoubleSparsityTopK::PrepareState(const AttentionInputs& in, MaskerState* state) const {
  SA_ASSIGN_OR_RETURN(const at::Tensor channels, ChannelsOf(in));
  UpdateLabels(in, channels, config_.label_bits, static_cast<State&>(*state));
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> DoubleSparsityTopK::Scores(const AttentionInputs& in,
                                                      MaskerState* state) const {
  SA_ASSIGN_OR_RETURN(const at::Tensor channels, ChannelsOf(in));
  return WithState<State>(state, [&](State& own) {
    return AddBias(UpdateLabels(in, channels, config_.label_bits, own).Scores(in.q), in);
  });
}

int64_t DoubleSparsityTopK::IndexBytes(const AttentionInputs& in) const {
  const absl::StatusOr<at::Tensor> channels = ChannelsOf(in);
  if (!channels.ok()) return 0;
  return LabelCache::Bytes(in, *channels, config_.label_bits);
}

const MaskerDescriptor& DoubleSparsityTopKDescriptor() {
  static const MaskerDescriptor descriptor = MakeDescriptor<DoubleSparsityTopK>(
      {
          .summary = "The keys with the highest products over a few channels that matter.",
          .source = "Yang et al., Post-training sparse attention with double sparsity, 2024",
          .when_to_use = "Where a short calibration of the model is at hand: simple and robust. "
                         "Calibrate with shared lists, so that labels are kept once for a KV head.",
          .memory =
              "dim / group_factor bytes (label_bits up to 8) and two floats, a query head where "
              "lists are not shared",
          .reads = "the labels of every key",
          .scoring_reads = ScoringReads::kIndex,
      },
      &Create);
  return descriptor;
}

}  // namespace sparse_attention
