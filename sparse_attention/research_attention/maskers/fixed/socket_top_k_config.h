// The config of SocketTopK, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_CONFIG_H_

#include <cstdint>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

namespace sparse_attention {

struct SocketTopKConfig : TopKConfig {
  static constexpr char kName[] = "socket_top_k";
  int64_t K = 4;  // the Python hub's names
  int64_t L = 1;
  double tau = 0.3;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<SocketTopKConfig>(),
        std::tuple(Field{"K", &SocketTopKConfig::K, "Planes of a table, 20 at most.",
                         Positive().Says("must be positive")},
                   Field{"L", &SocketTopKConfig::L, "Tables.", Positive().Says("must be positive")},
                   Field{"tau", &SocketTopKConfig::tau,
                         "Temperature: how softly a query belongs to buckets beside its own.",
                         Positive().Says("must be positive")}));
  }
  absl::Status Validate() const {
    constexpr int64_t kMostBits = 20;  // a query's table has 2^K entries
    if (K > kMostBits) {
      return RuleError("K", absl::StrCat("must be <= ", kMostBits), absl::StrCat(K));
    }
    return absl::OkStatus();
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_CONFIG_H_
