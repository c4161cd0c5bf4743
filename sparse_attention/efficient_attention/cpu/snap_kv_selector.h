// SnapKV in the efficient engine: see research_attention/maskers/fixed/snap_kv.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SNAP_KV_SELECTOR_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SNAP_KV_SELECTOR_H_

#include <cstdint>
#include <memory>

#include "sparse_attention/config/budget.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

struct SnapKvOptions {
  Budget heavy_size;
  int64_t window_size = 32;
  int64_t kernel_size = 5;  // odd
};

// The attention of a prompt's last queries is computed twice, for its sums and for its shares: two
// passes over the keys, none in later steps.
class SnapKvSelector final : public CpuMasker {
 public:
  explicit SnapKvSelector(const SnapKvOptions& options) : options_(options) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;
  void Select(StepItem& item, const KeyIndex* index) const override;

 private:
  const SnapKvOptions options_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SNAP_KV_SELECTOR_H_
