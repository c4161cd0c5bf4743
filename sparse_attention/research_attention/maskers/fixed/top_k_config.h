// What the configs of top-k maskers share, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_K_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_K_CONFIG_H_

#include <tuple>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {

// The fields that every top-k config starts with.
struct TopKConfig {
  Budget heavy_size = Budget::Fraction(0.02);
};

template <typename Config>
auto TopKFields() {
  return std::tuple(
      Field{"heavy_size", &Config::heavy_size, "Keys kept beside those that earlier maskers keep.",
            PositiveBudget(), Required()},
      IgnoredField{"search_space"});
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_K_CONFIG_H_
