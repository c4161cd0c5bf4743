// SnapKv: keeps the prompt's keys that its last queries attend to, chosen once and kept while the
// answer is generated.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SNAP_KV_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SNAP_KV_H_

#include "sparse_attention/research_attention/maskers/fixed/snap_kv_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

class SnapKv final : public Masker {
 public:
  using Config = SnapKvConfig;
  SnapKv(const SnapKvConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;

 private:
  // A step with more than one query, or the first one, is the end of the prompt: its last
  // window_size queries choose, whatever other maskers hold, and all rows of the step keep the same
  // keys. Later steps keep these and
  // every key behind the prompt. A fraction of heavy_size is of the prompt. Without a state each
  // step is a prompt of its own.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
  absl::Status ObserveFull(const AttentionInputs& inputs, MaskerState* state) const override;

  const SnapKvConfig config_;
};

const MaskerDescriptor& SnapKvDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SNAP_KV_H_
