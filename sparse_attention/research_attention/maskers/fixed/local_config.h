// The config of Local, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LOCAL_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LOCAL_CONFIG_H_

#include <tuple>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {

struct LocalConfig {
  static constexpr char kName[] = "local";
  Budget window_size = Budget::Count(128);
  static auto Fields() {
    return std::tuple(
        Field{"window_size", &LocalConfig::window_size,
              "Latest keys kept, the query's own position included.", PositiveBudget(), Required()},
        IgnoredField{"search_space"});
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LOCAL_CONFIG_H_
