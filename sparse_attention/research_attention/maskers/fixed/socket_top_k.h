// SocketTopK: keeps the keys that share hash buckets with the query softly, weighed by the length
// of their values.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_H_

#include "sparse_attention/research_attention/maskers/fixed/socket_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

class SocketTopK final : public TopKMasker {
 public:
  using Config = SocketTopKConfig;
  SocketTopK(const SocketTopKConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // Sum over tables of the probability that the query lies in the key's bucket, times the norm of
  // the key's value (0 where that is not finite).
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;
  bool SpendsBesideHeld() const override { return false; }  // as in the Python hub

  const SocketTopKConfig config_;
};

const MaskerDescriptor& SocketTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_H_
