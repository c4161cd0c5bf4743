// HashAttentionTopK: keeps the keys whose learned bit signatures agree most with the query's.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_H_

#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "sparse_attention/key_index/hash_attention_weights.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace sparse_attention {

struct HashAttentionTopKConfig : TopKConfig {
  static constexpr char kName[] = "hash_attention_top_k";
  std::string hat_weight_file;
  std::optional<Activation> hat_mlp_activation;
  static auto Fields() {
    return std::tuple_cat(
        TopKFields<HashAttentionTopKConfig>(),
        std::tuple(Field{"hat_weight_file", &HashAttentionTopKConfig::hat_weight_file,
                         "Safetensors file of the MLPs; {model}/ stands for the model's folder.",
                         NonEmpty(), Required()},
                   Field{"hat_mlp_activation", &HashAttentionTopKConfig::hat_mlp_activation,
                         "If given, the activation that the file must name."},
                   // The weights decide.
                   IgnoredField{"hat_bits"}, IgnoredField{"hat_mlp_layers"},
                   IgnoredField{"hat_mlp_hidden_size"}));
  }
};

class HashAttentionTopK final : public TopKMasker {
 public:
  using Config = HashAttentionTopKConfig;
  HashAttentionTopK(const HashAttentionTopKConfig& config, const MaskerOptions& options,
                    std::shared_ptr<const HashAttentionWeights> weights);
  Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<MaskerState> NewState() const override;
  int64_t IndexBytes(const AttentionInputs& inputs) const override;

 private:
  // Agreeing less disagreeing bits, plus the bias.
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs& inputs,
                                    MaskerState* state) const override;
  absl::Status PrepareState(const AttentionInputs& inputs, MaskerState* state) const override;

  const HashAttentionTopKConfig config_;
  const std::shared_ptr<const HashAttentionWeights> weights_;
};

const MaskerDescriptor& HashAttentionTopKDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_H_
