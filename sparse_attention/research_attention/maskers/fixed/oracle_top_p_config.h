// The config of OracleTopP, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_P_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_P_CONFIG_H_

#include <tuple>

#include "sparse_attention/research_attention/maskers/fixed/top_p_config.h"

namespace sparse_attention {

struct OracleTopPConfig : TopPConfig {
  static constexpr char kName[] = "oracle_top_p";
  static auto Fields() { return TopPFields<OracleTopPConfig>(); }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_ORACLE_TOP_P_CONFIG_H_
