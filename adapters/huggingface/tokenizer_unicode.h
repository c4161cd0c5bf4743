// UTF-8 and the character classes that the tokenizer needs beside its split patterns.
//
// The Debian libraries and the `tokenizers` library of the model's authors know different Unicode
// versions: PCRE2 10.42 knows 14.0, utf8proc 2.8 knows 15.0, `tokenizers` splits words by 16.0 and
// normalises by 9.0. A model must see the ids it was trained with, so the functions here bridge the
// versions; text without recently assigned characters is not touched.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_UNICODE_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_UNICODE_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace sparse_attention {

// What the start of a byte string is, as UTF-8: a code point of `length` bytes; or, with `valid`
// false, `length` bytes that are no code point (the longest start of one, at least one byte);
// `truncated` says that more bytes could still complete it.
struct Utf8Unit {
  char32_t code_point = 0;
  size_t length = 0;
  bool valid = false;
  bool truncated = false;
};

// `text` must not be empty.
Utf8Unit DecodeUtf8(absl::string_view text);

// The code point that ends at the end of `text`, which must be valid UTF-8 and not empty.
char32_t LastCodePoint(absl::string_view text);

// Where valid UTF-8 ends; nullopt if all of `text` is valid.
std::optional<size_t> FindInvalidUtf8(absl::string_view text);

// Moves the code points at the front of `bytes` to the end of `text`; what is no code point becomes
// U+FFFD, one for each longest start of a code point. A code point that is not complete yet stays
// in `bytes`, unless `flush`.
void MoveUtf8(std::string& bytes, bool flush, std::string& text);

// The Unicode property White_Space.
bool IsWhiteSpace(char32_t c);

// Letters, marks, decimal digits, connectors, joiners: what \w matches in the `tokenizers`
// library's added tokens.
bool IsWordCharacter(char32_t c);

// `text` with every character that Unicode 15 and 16 added replaced by an older one of the same
// general category and the same length, so that PCRE2 classifies it as its authors' library does.
// nullopt if there is none. Byte offsets into the result are byte offsets into `text`. `text` must
// be valid UTF-8.
std::optional<std::string> ReplaceNewCharacters(absl::string_view text);

// Normalisation form C by the tables of Unicode 9; nullopt if `text` is in that form already.
// `text` must be valid UTF-8.
std::optional<std::string> NormalizeNfc(absl::string_view text);

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_UNICODE_H_
