// TopKMasker: keeps the keys with the highest scores. A method supplies the scores; the budget, the
// keys that are kept already, ties, groups and short sequences are handled here.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_K_MASKER_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_K_MASKER_H_

#include "sparse_attention/config/budget.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

class TopKMasker : public Masker {
 public:
  TopKMasker(const MaskerDescriptor& descriptor, const MaskerOptions& options,
             const Budget& heavy_size)
      : Masker(descriptor, options), heavy_size_(heavy_size) {}

 private:
  // Float32 [batch, query heads, queries, keys], higher is better; what it says of invisible keys
  // does not matter. The caller does not change the result.
  virtual absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                            MaskerState* state) const = 0;

  // heavy_size keys per query among those that are visible and, by the rules below, candidates; all
  // of them where there are fewer. Of equal scores the lowest index wins.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const final;

  // True where the mask becomes full instead: `k` is the budget.
  virtual bool KeepsAll(const AttentionInputs& inputs, int64_t k) const {
    return inputs.keys() <= k;
  }
  // The first key that is looked at.
  virtual int64_t FirstCandidate() const { return 0; }
  // False: keys that `previous` holds take places of the budget too.
  virtual bool SpendsBesideHeld() const { return true; }

  const Budget heavy_size_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_TOP_K_MASKER_H_
