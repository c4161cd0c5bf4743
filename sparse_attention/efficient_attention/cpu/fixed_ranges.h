// Sink, local and causal in the efficient engine: ranges of keys that need neither an index nor a
// list.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_FIXED_RANGES_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_FIXED_RANGES_H_

#include "sparse_attention/config/budget.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

// The first keys of the sequence.
class SinkRange final : public CpuMasker {
 public:
  explicit SinkRange(const Budget& size) : size_(size) {}
  void Select(StepItem& item, const KeyIndex*) const override {
    const int64_t size = size_.Resolve(item.keys);
    if (item.keys <= size) return item.held.HoldAll();
    item.held.HoldBefore(size);
  }

 private:
  const Budget size_;
};

// A window of the latest keys.
class LocalRange final : public CpuMasker {
 public:
  explicit LocalRange(const Budget& window) : window_(window) {}
  void Select(StepItem& item, const KeyIndex*) const override {
    const int64_t window = window_.Resolve(item.keys);
    if (item.keys - window <= item.inputs.queries) return item.held.HoldAll();
    item.held.HoldFrom(item.position - window + 1);
  }

 private:
  const Budget window_;
};

// Every query of a step is causal anyway; as the first masker it is the dense baseline.
class CausalRange final : public CpuMasker {
 public:
  void Select(StepItem& item, const KeyIndex*) const override {
    if (item.held.chose_none()) item.held.HoldAll();
  }
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_FIXED_RANGES_H_
