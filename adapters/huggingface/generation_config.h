// generation_config.json: when to stop and how to sample. What the file leaves out comes from
// config.json (the token ids) or from transformers' defaults (the sampling fields); a folder
// without the file is fine.
//
// Errors: InvalidArgument "generation_config.json: temperature must be > 0, got -1".
#ifndef ADAPTERS_HUGGINGFACE_GENERATION_CONFIG_H_
#define ADAPTERS_HUGGINGFACE_GENERATION_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "adapters/huggingface/model_config.h"

namespace sparse_attention {

struct GenerationConfig {
  std::vector<int64_t> eos_token_ids;  // generation ends at any of these; may be empty
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;

  bool do_sample = false;    // false: greedy, the fields below have no effect
  double temperature = 1.0;  // > 0 (0 is accepted where do_sample is false)
  double top_p = 1.0;        // in (0, 1]
  int64_t top_k = 50;        // 0 = all

  // Reads `folder`/generation_config.json if there is one.
  static absl::StatusOr<GenerationConfig> FromFolder(const std::string& folder,
                                                     const ModelConfig& model);
  static absl::StatusOr<GenerationConfig> FromJson(absl::string_view json,
                                                   const ModelConfig& model);
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_GENERATION_CONFIG_H_
