// The samplers in the efficient engine: uniform draws without replacement among the keys that are
// not held, a fixed share (random) or as many as a promise on the error asks for (adaptive,
// vAttention). The draws are those of the research engine.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SAMPLERS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SAMPLERS_H_

#include "sparse_attention/config/budget.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention::cpu {

class RandomSampler final : public CpuMasker {
 public:
  explicit RandomSampler(double rate) : rate_(rate) {}
  size_t ScratchBytes(const StepPlan& plan) const override;
  void Select(StepItem& item, const KeyIndex*) const override;

 private:
  const double rate_;
};

struct AdaptiveSamplerOptions {
  Budget base_rate;
  double epsilon = 0.05;
  double delta = 0.05;
  Budget init_offset;
  Budget local_offset;
  bool output_guarantee = false;  // else about the denominator
};

// The mass of the held keys is a part of what the promise is about. Whether one
// heavy key could break the promise is judged by the base sample alone, where the research engine
// looks at all keys.
class AdaptiveSampler final : public CpuMasker {
 public:
  explicit AdaptiveSampler(const AdaptiveSamplerOptions& options) : options_(options) {}
  bool needs_held_mass() const override { return true; }
  int64_t ScoringBytes(const StepPlan& plan, int64_t keys) const override;
  size_t ScratchBytes(const StepPlan& plan) const override;
  void Select(StepItem& item, const KeyIndex*) const override;

 private:
  // The budget of a set whose keys open to sampling are `open`, `population` of them.
  int64_t ChooseBudget(StepItem& item, int set, const uint64_t* open, int64_t population,
                       int64_t base_count, uint64_t* scratch) const;
  int64_t MostBaseKeys(const StepPlan& plan) const;

  const AdaptiveSamplerOptions options_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SAMPLERS_H_
