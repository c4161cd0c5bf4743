// The config of QuestTopK, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_CONFIG_H_

#include <cstdint>
#include <tuple>

#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

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

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_QUEST_TOP_K_CONFIG_H_
