// config.json of a decoder-only language model: Llama, Qwen2 (and 2.5), Qwen3, Mistral.
//
// Reads the field names of transformers 5 and falls back to those of transformers 4 (rope_theta +
// rope_scaling for rope_parameters, torch_dtype for dtype). Absent fields take the defaults of the
// family's class in transformers. All values are range-checked here, so that no product of sizes
// overflows later. Fields that a family's model code in transformers does not read (such as
// sliding_window of Llama) are ignored here too.
//
// Errors: InvalidArgument "config.json: num_attention_heads must be > 0, got -3"; Unimplemented for
// a model type, rope type, activation, layer type, dtype or quantization that is not supported,
// naming it and what is.
#ifndef ADAPTERS_HUGGINGFACE_MODEL_CONFIG_H_
#define ADAPTERS_HUGGINGFACE_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

enum class ModelFamily { kLlama, kQwen2, kQwen3, kMistral };

// The model_type of a config.json, such as "qwen2".
absl::string_view ModelFamilyName(ModelFamily family);

enum class RopeType { kDefault, kLinear, kDynamic, kLlama3, kYarn };

absl::string_view RopeTypeName(RopeType type);

// Rotary position embedding: inverse frequencies theta^(-2i/head_dim), changed as `type` says.
// Fields that a type does not use keep their defaults.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;  // >= 1.001
  double factor = 1.0;     // >= 1; linear, dynamic, llama3, yarn
  // Positions seen in pretraining: llama3 and yarn. Equals max_position_embeddings for the other
  // types (dynamic scales beyond that, whatever the file says).
  int64_t original_max_position_embeddings = 0;

  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3; > low_freq_factor

  double beta_fast = 32.0;                 // yarn; >= beta_slow
  double beta_slow = 1.0;                  // yarn
  std::optional<double> attention_factor;  // yarn
  double mscale = 0.0;                     // yarn; 0 = not given
  double mscale_all_dim = 0.0;             // yarn; 0 = not given
  bool truncate = true;                    // yarn: round the correction range outwards

  // What cos and sin are multiplied by: attention_factor if given, else derived from factor and
  // mscale; 1 unless the type is yarn.
  double AttentionScaling() const;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;

  int64_t vocab_size = 0;               // 1 to 2^24
  int64_t hidden_size = 0;              // 1 to 2^17
  int64_t intermediate_size = 0;        // 1 to 2^20
  int64_t num_layers = 0;               // 1 to 1024
  int64_t num_heads = 0;                // query heads, 1 to 1024
  int64_t num_kv_heads = 0;             // divides num_heads
  int64_t head_dim = 0;                 // even, 2 to 1024; need not be hidden_size / num_heads
  int64_t max_position_embeddings = 0;  // 1 to 2^30
  double rms_norm_eps = 1e-6;           // > 0

  // Which parameters a layer has, by family and by attention_bias, mlp_bias:
  //             q/k/v bias       o bias           MLP bias    q_norm, k_norm (per head, RMSNorm)
  //   Llama     attention_bias   attention_bias   mlp_bias    no
  //   Qwen2     yes              no               no          no
  //   Qwen3     attention_bias   attention_bias   no          yes
  //   Mistral   no               no               no          no
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;

  bool tie_word_embeddings = false;  // lm_head shares embed_tokens

  // [num_layers]; 0 = full causal attention, else a query at position p sees keys p - window + 1 to
  // p.
  std::vector<int64_t> sliding_windows;

  RopeConfig rope;

  std::vector<int64_t> eos_token_ids;  // may be empty
  std::optional<int64_t> bos_token_id;

  // "bfloat16", "float16", "float32", or empty if the file does not say.
  std::string dtype;

  static absl::StatusOr<ModelConfig> FromFile(const std::string& path);
  static absl::StatusOr<ModelConfig> FromJson(absl::string_view json);
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_MODEL_CONFIG_H_
