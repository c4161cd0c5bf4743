// TopPMasker: keeps the fewest keys that hold a share top_p of the attention mass. A method
// supplies logits; the threshold, the keys that are kept already, groups and short sequences are
// handled here.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_MASKER_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_MASKER_H_

#include "sparse_attention/research_attention/maskers/fixed/top_p_config.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

// Thresholds of rows of non-negative scores [..., n], n >= 1: [..., 1]. A row is sorted from the
// highest, its running sum is divided by its total, and the threshold is the value where the rule
// cuts, the last one if it never does. Shape-agnostic; float64 sums.
at::Tensor TopPThresholds(const at::Tensor& scores, double top_p, ThresholdRule rule);
// The same with a share of its own for every row, `top_p` [..., 1].
at::Tensor TopPThresholds(const at::Tensor& scores, const at::Tensor& top_p, ThresholdRule rule);

class TopPMasker : public Masker {
 public:
  TopPMasker(const MaskerDescriptor& descriptor, const MaskerOptions& options,
             const TopPConfig& config)
      : Masker(descriptor, options), top_p_config_(config) {}

 private:
  // Float32 logits [batch, query heads, queries, keys], -inf at invisible keys.
  virtual absl::StatusOr<at::Tensor> Logits(const AttentionInputs& inputs,
                                            MaskerState* state) const = 0;

  // Every eligible key whose mass reaches the threshold, ties included; none where no eligible mass
  // is left. Full where int(top_p * keys) covers all keys. In a group the normalised masses of its
  // heads are reduced.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const final;

  const TopPConfig top_p_config_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_P_MASKER_H_
