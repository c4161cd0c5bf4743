// Added tokens: strings that are one token wherever they stand in the text, such as
// "<|begin_of_text|>".
//
// Matching is the `tokenizers` library's: leftmost, of several the longest, never overlapping.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_ADDED_TOKENS_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_ADDED_TOKENS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sparse_attention {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // Only between characters that are no word characters.
  bool lstrip = false;       // Takes the white space before it along,
  bool rstrip = false;       // and the white space after it.
  bool normalized = true;    // Looked for in the normalised text, else in the text as given.
  bool special = false;      // Left out by Decode unless asked for.
};

// Finds a set of added tokens in text. Immutable.
class AddedTokenMatcher {
 public:
  // A stretch of text without added tokens (`id` < 0), or a token with the white space that it
  // takes along.
  struct Segment {
    absl::string_view text;
    int32_t id = -1;
  };

  // Of tokens with equal contents the first counts. No content may be empty.
  explicit AddedTokenMatcher(absl::Span<const AddedToken> tokens);

  // Appends the segments of `text` in order, stretches only if not empty. `text` must be valid
  // UTF-8.
  void Split(absl::string_view text, std::vector<Segment>& segments) const;

 private:
  // The token that matches at the start of `text`, or nullptr.
  const AddedToken* LongestMatch(absl::string_view text) const;

  std::vector<AddedToken> tokens_;
  absl::flat_hash_map<std::string, size_t> by_content_;
  std::vector<size_t> lengths_[256];  // Of the contents that start with this byte, longest first.
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_ADDED_TOKENS_H_
