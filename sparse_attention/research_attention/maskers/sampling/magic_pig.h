// MagicPig: samples the keys that share a bucket with the query in at least one of several hash
// tables, each weighed by the probability of that.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_H_

#include "sparse_attention/research_attention/maskers/masker.h"
#include "sparse_attention/research_attention/maskers/sampling/magic_pig_config.h"

namespace sparse_attention {

class MagicPig final : public Masker {
 public:
  using Config = MagicPigConfig;
  MagicPig(const MagicPigConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // The draw is the choice of planes: a key is selected where it shares a bucket, with weight
  // 1 - (1 - p^lsh_k)^lsh_l, p = 1 - angle / pi after the transform of key_index/mips_transform.h.
  // Centre and radius are a head's own, of the keys that its index was built from; a later key
  // beyond the radius has all keys of that head hashed again. In a KV group the sum of the heads'
  // directions is hashed. Hub: all keys, visible or held or not; queries are centred like keys; one
  // radius for the whole tensor, which grows with later keys while the signatures of earlier ones
  // stay; planes from LibTorch's generator, seeded by seed + layer; weights are added to those of
  // the previous mask.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;

  const MagicPigConfig config_;
};

// The planes of a layer, float32 [lsh_l, lsh_k, dim + 1] on the host.
at::Tensor MagicPigPlanes(const MagicPigConfig& config, uint64_t pipeline_seed, int64_t layer,
                          int64_t dim);

const MaskerDescriptor& MagicPigDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_H_
