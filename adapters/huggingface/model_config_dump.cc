// Prints what the readers make of a folder's config.json and generation_config.json, as one JSON
// object, for the comparison with transformers: model_config_dump FOLDER...
#include <cstdio>
#include <iostream>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/huggingface/generation_config.h"
#include "adapters/huggingface/model_config.h"
#include "nlohmann/json.hpp"

namespace sparse_attention {
namespace {

nlohmann::json Describe(const std::string& folder) {
  const absl::StatusOr<ModelConfig> config = ModelConfig::FromFile(folder + "/config.json");
  if (!config.ok()) return {{"error", config.status().ToString()}};
  const absl::StatusOr<GenerationConfig> generation = GenerationConfig::FromFolder(folder, *config);
  if (!generation.ok()) return {{"error", generation.status().ToString()}};
  const RopeConfig& rope = config->rope;
  return {{"model_type", std::string(ModelFamilyName(config->family))},
          {"vocab_size", config->vocab_size},
          {"hidden_size", config->hidden_size},
          {"intermediate_size", config->intermediate_size},
          {"num_hidden_layers", config->num_layers},
          {"num_attention_heads", config->num_heads},
          {"num_key_value_heads", config->num_kv_heads},
          {"head_dim", config->head_dim},
          {"max_position_embeddings", config->max_position_embeddings},
          {"rms_norm_eps", config->rms_norm_eps},
          {"tie_word_embeddings", config->tie_word_embeddings},
          {"sliding_windows", config->sliding_windows},
          {"qkv_bias", config->qkv_bias},
          {"o_bias", config->o_bias},
          {"mlp_bias", config->mlp_bias},
          {"qk_norm", config->qk_norm},
          {"dtype", config->dtype},
          {"eos_token_ids", generation->eos_token_ids},
          {"rope_type", std::string(RopeTypeName(rope.type))},
          {"rope_theta", rope.theta},
          {"factor", rope.factor},
          {"original_max_position_embeddings", rope.original_max_position_embeddings},
          {"low_freq_factor", rope.low_freq_factor},
          {"high_freq_factor", rope.high_freq_factor},
          {"attention_scaling", rope.AttentionScaling()}};
}

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fputs("usage: model_config_dump FOLDER...\n", stderr);
    return 2;
  }
  for (int i = 1; i < argc; ++i) std::cout << sparse_attention::Describe(argv[i]).dump() << "\n";
  return 0;
}
