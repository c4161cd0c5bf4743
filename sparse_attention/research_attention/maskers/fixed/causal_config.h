// The config of Causal, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_CAUSAL_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_CAUSAL_CONFIG_H_

#include <tuple>

#include "sparse_attention/config/field.h"

namespace sparse_attention {

struct CausalConfig {
  static constexpr char kName[] = "causal";
  static auto Fields() { return std::tuple<>(); }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_CAUSAL_CONFIG_H_
