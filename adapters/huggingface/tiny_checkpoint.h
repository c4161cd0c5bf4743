// Writes checkpoint folders with random weights, for tests.
#ifndef ADAPTERS_HUGGINGFACE_TINY_CHECKPOINT_H_
#define ADAPTERS_HUGGINGFACE_TINY_CHECKPOINT_H_

#include <cstdint>
#include <string>

#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// config.json of a Llama with 3 layers, 4 query and 2 KV heads of 8 channels and a vocabulary of
// 264; `changes` are merged into it.
Json TinyConfig(const Json& changes = Json::object());

// config.json and model.safetensors in `folder`, which is made. Weights are float32 unless the
// config says "dtype": "bfloat16".
absl::Status WriteTinyCheckpoint(const std::string& folder, const Json& config, uint64_t seed = 1);

// Adds a tokenizer.json: a byte is the token of its value; kTinyBos is put before every text.
inline constexpr int32_t kTinyBos = 256;
inline constexpr int32_t kTinyEos = 257;
absl::Status WriteTinyTokenizer(const std::string& folder);

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TINY_CHECKPOINT_H_
