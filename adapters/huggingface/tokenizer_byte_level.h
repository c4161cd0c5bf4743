// The byte-level alphabet: GPT-2 writes each byte of a token as one printable character.
//
// Printable ASCII and Latin-1 bytes stand for themselves, the other 68 bytes are U+0100 to U+0143
// in order: a space is U+0120. Vocabulary and merges of tokenizer.json are written in it.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_BYTE_LEVEL_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_BYTE_LEVEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace sparse_attention {

// The character for `byte`, as UTF-8.
std::string ByteLevelCharacter(uint8_t byte);

// The bytes that `token` stands for; nullopt if it has a character outside the alphabet. `token`
// must be valid UTF-8.
std::optional<std::string> BytesOfToken(absl::string_view token);

// Whether `byte` occurs in UTF-8 text.
bool OccursInUtf8(uint8_t byte);

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_BYTE_LEVEL_H_
