// The config of OracleTopK, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_K_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_K_CONFIG_H_

#include <tuple>

#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

namespace sparse_attention {

struct OracleTopKConfig : TopKConfig {
  static constexpr char kName[] = "oracle_top_k";
  static auto Fields() { return TopKFields<OracleTopKConfig>(); }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_K_CONFIG_H_
