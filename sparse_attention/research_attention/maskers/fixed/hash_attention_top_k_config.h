// The config of HashAttentionTopK, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_CONFIG_H_

#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/hash_attention_weights.h"
#include "sparse_attention/research_attention/maskers/fixed/top_k_config.h"

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

// The weights that a config names. Errors name the field and the file: it cannot be read, or has
// another activation than the config.
absl::StatusOr<std::shared_ptr<const HashAttentionWeights>> LoadWeights(
    const HashAttentionTopKConfig& config);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_HASH_ATTENTION_TOP_K_CONFIG_H_
