// The config of Sink, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_CONFIG_H_

#include <tuple>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {

struct SinkConfig {
  static constexpr char kName[] = "sink";
  Budget sink_size = Budget::Count(4);
  static auto Fields() {
    return std::tuple(Field{"sink_size", &SinkConfig::sink_size, "Leading keys kept.",
                            PositiveBudget(), Required()},
                      IgnoredField{"search_space"});
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SINK_CONFIG_H_
