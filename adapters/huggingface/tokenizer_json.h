// tokenizer.json, read into plain values and checked; what cannot be represented is refused by
// name.
//
// Supported is byte-level BPE as GPT-2, Llama 3, Qwen 2 to 3, gpt-oss and Mistral-Nemo use it. The
// sections `truncation` and `padding` are not read: how long a text may be is the caller's decision
// here, as it is in transformers, which overrides both on every call.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_JSON_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_JSON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "adapters/huggingface/tokenizer_added_tokens.h"
#include "adapters/huggingface/tokenizer_bpe.h"
#include "adapters/huggingface/tokenizer_pre_tokenizer.h"

namespace sparse_attention {

struct TokenizerSpec {
  TokenIds vocab;                                           // Ids are unique.
  std::vector<std::pair<std::string, std::string>> merges;  // By rank.
  bool ignore_merges = false;
  bool normalize_nfc = false;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<AddedToken> added_tokens;  // Ids and contents are unique and agree with `vocab`.
  // What the template puts before and after a text.
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
};

// INVALID_ARGUMENT for what is broken, UNIMPLEMENTED for what is not supported; the message names
// field and value.
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view json);

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_JSON_H_
