#include "sparse_attention/efficient_attention/cpu/oracle_scores.h"

#include <algorithm>
#include <new>

namespace sparse_attention::cpu {
namespace {

class LogitScorer final : public ItemScorer {
 public:
  explicit LogitScorer(const StepItem& item) : ItemScorer(ScoreType::kFloat), item_(item) {}

  void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const override {
    float* const out = static_cast<float*>(scores);
    if (item_.plan.by_group) return Reduce(begin, end - begin, out);
    for (int row = 0; row < item_.rows(); ++row) {
      std::copy_n(item_.logits.At(row, begin), end - begin, out + row * stride);
    }
  }

 private:
  void Reduce(int64_t begin, int64_t count, float* out) const {
    using Reduction = StepPlan::Reduce;
    const Reduction reduce = item_.plan.reduce;
    std::copy_n(item_.logits.At(0, begin), count, out);
    for (int row = 1; row < item_.rows(); ++row) {
      const float* const x = item_.logits.At(row, begin);
      if (reduce == Reduction::kMax) {
        // A NaN of any head stays.
        for (int64_t j = 0; j < count; ++j) out[j] = x[j] > out[j] || x[j] != x[j] ? x[j] : out[j];
      } else {
        for (int64_t j = 0; j < count; ++j) out[j] += x[j];
      }
    }
    if (reduce == Reduction::kMean) {
      for (int64_t j = 0; j < count; ++j) out[j] /= static_cast<float>(item_.rows());
    }
  }

  const StepItem& item_;
};

}  // namespace

size_t OracleScores::ScratchBytes() const { return Arena::Bytes<LogitScorer>(1); }

const ItemScorer* OracleScores::MakeScorer(const StepItem& item) const {
  return new (item.arena.Take<LogitScorer>(1)) LogitScorer(item);
}

}  // namespace sparse_attention::cpu
