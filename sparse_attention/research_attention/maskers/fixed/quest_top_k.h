// QuestTopK: keeps the pages of keys whose upper bound of the product with the query is highest.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_H_

#include "sparse_attention/research_attention/maskers/fixed/quest_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

class QuestTopK final : public Masker {
 public:
  using Config = QuestTopKConfig;
  QuestTopK(const QuestTopKConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // The max(3, heavy_size / page_size) best pages (rounded down, at least three as in Quest's code)
  // that hold a visible key, with all their visible keys: those that earlier maskers keep take part
  // too, so budgets overlap. Full where heavy_size covers all keys.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;

  const QuestTopKConfig config_;
};

const MaskerDescriptor& QuestTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_H_
