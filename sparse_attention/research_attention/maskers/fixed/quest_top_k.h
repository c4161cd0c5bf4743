// QuestTopK: keeps the pages of keys whose upper bound of the product with the query is highest.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_H_

#include <tuple>

#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

struct QuestTopKConfig : TopKConfig {
  static constexpr char kName[] = "quest_top_k";
  int64_t page_size = 16;
  int64_t label_bits = 16;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<QuestTopKConfig>(),
        std::tuple(Field{"page_size", &QuestTopKConfig::page_size, "Keys of a page.",
                         Positive().Says("must be greater than 0"), Required()},
                   Field{"label_bits", &QuestTopKConfig::label_bits,
                         "Bits of a page's bounds; 16: not quantised.",
                         InLeftOpen(0, 16).Says("must be in range (0, 16]")}));
  }
};

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
