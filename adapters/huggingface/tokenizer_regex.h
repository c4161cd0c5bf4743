// Split patterns: from the Oniguruma dialect that tokenizer.json is written in to PCRE2's.
//
// The two agree on most of what split patterns use and differ silently on the rest: \s and \v, a
// quantifier after {n,m}, {,m}, line anchors, nested and intersected classes, \p{Han}. A pattern is
// translated to one that matches the same text, or refused with the construct's name: UNIMPLEMENTED
// "split pattern: "\w" at byte 3 is not supported".
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_REGEX_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_REGEX_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

// The result is to be compiled with PCRE2_UTF, PCRE2_UCP and PCRE2_MULTILINE, newline LF. `pattern`
// must be valid UTF-8. Errors in the syntax of what is copied are left for PCRE2 to find.
absl::StatusOr<std::string> TranslateSplitPattern(absl::string_view pattern);

// A pattern that matches exactly `text`.
std::string EscapeSplitPattern(absl::string_view text);

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_REGEX_H_
