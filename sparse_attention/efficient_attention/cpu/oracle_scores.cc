#include "sparse_attention/efficient_attention/cpu/oracle_scores.h"

#include <algorithm>
#include <new>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kPieceKeys = 256;  // of several heads at a time, before they are reduced

class LogitScorer final : public ItemScorer {
 public:
  LogitScorer(const StepItem& item, float* logits)
      : ItemScorer(ScoreType::kFloat), item_(item), logits_(logits) {}

  void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const override {
    float* const out = static_cast<float*>(scores);
    const AttentionKernels& attention = item_.plan.attention;
    if (!item_.plan.by_group) {
      return attention.logits_range(item_.problem, begin, end, out, stride);
    }
    for (int64_t first = begin; first < end; first += kPieceKeys) {
      const int64_t last = std::min(end, first + kPieceKeys);
      attention.logits_range(item_.problem, first, last, logits_, kPieceKeys);
      Reduce(last - first, out + (first - begin));
    }
  }

 private:
  void Reduce(int64_t count, float* out) const {
    using Reduction = StepPlan::Reduce;
    const Reduction reduce = item_.plan.reduce;
    std::copy(logits_, logits_ + count, out);
    for (int row = 1; row < item_.rows(); ++row) {
      const float* const x = logits_ + row * kPieceKeys;
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
  float* const logits_;  // [rows, kPieceKeys]
};

}  // namespace

size_t OracleScores::ScratchBytes() const {
  return Arena::Bytes<LogitScorer>(1) + (by_group_ ? Arena::Bytes<float>(group_ * kPieceKeys) : 0);
}

const ItemScorer* OracleScores::MakeScorer(const StepItem& item) const {
  float* const logits = by_group_ ? item.arena.Take<float>(group_ * kPieceKeys) : nullptr;
  return new (item.arena.Take<LogitScorer>(1)) LogitScorer(item, logits);
}

}  // namespace sparse_attention::cpu
