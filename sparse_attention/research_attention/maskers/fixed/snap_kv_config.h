// The config of SnapKv, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SNAP_KV_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SNAP_KV_CONFIG_H_

#include <cstdint>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

namespace sparse_attention {

struct SnapKvConfig : TopKConfig {
  static constexpr char kName[] = "snap_kv";
  int64_t window_size = 32;
  int64_t kernel_size = 5;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<SnapKvConfig>(),
        std::tuple(
            Field{"window_size", &SnapKvConfig::window_size,
                  "Last queries of the prompt that choose; their own keys are kept.", Positive()},
            Field{"kernel_size", &SnapKvConfig::kernel_size,
                  "Neighbouring keys whose attention is averaged; odd.", Positive()}));
  }
  absl::Status Validate() const {
    if (kernel_size % 2 != 0) return absl::OkStatus();
    return RuleError("kernel_size", "must be odd", absl::StrCat(kernel_size));
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SNAP_KV_CONFIG_H_
