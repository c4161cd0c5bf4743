// SocketTopK: keeps the keys that share hash buckets with the query softly, weighed by the length
// of their values.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_H_

#include <tuple>

#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

struct SocketTopKConfig : TopKConfig {
  static constexpr char kName[] = "socket_top_k";
  int64_t K = 4;  // the Python hub's names
  int64_t L = 1;
  double tau = 0.3;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<SocketTopKConfig>(),
        std::tuple(Field{"K", &SocketTopKConfig::K, "Planes of a table, 20 at most.",
                         Positive().Says("must be positive")},
                   Field{"L", &SocketTopKConfig::L, "Tables.", Positive().Says("must be positive")},
                   Field{"tau", &SocketTopKConfig::tau,
                         "Temperature: how softly a query belongs to buckets beside its own.",
                         Positive().Says("must be positive")}));
  }
  absl::Status Validate() const;
};

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

// The planes of every SocketTopK, float32 [tables, bits, dim] on the host: those that the Python
// hub draws from LibTorch's generator, the same for all layers and heads.
at::Tensor SocketPlanes(int64_t tables, int64_t bits, int64_t dim);

const MaskerDescriptor& SocketTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_SOCKET_TOP_K_H_
