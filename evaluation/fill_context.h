// Fills a context with haystack sentences and needles to an exact number of tokens.
#ifndef EVALUATION_FILL_CONTEXT_H_
#define EVALUATION_FILL_CONTEXT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evaluation/haystack.h"
#include "sparse_attention/base/philox.h"

namespace sparse_attention {

// The number of tokens of a text, without begin-of-text and other special tokens.
using TokenCounter = std::function<absl::StatusOr<int64_t>(absl::string_view)>;

// Sentences, each with a blank before it, that must keep their order in the context.
using NeedleGroup = std::vector<std::string>;

// Sentences of `haystack` from a random one on, the last one cut after a word, and every needle
// between two of the whole sentences of a paragraph: at most `token_budget` tokens by
// `count_tokens`, and at least 98 % of it for budgets from 1,024 on. Without needles it is a
// passage of running text. INVALID_ARGUMENT if the budget leaves less than 64 tokens beside the
// needles.
absl::StatusOr<std::string> FillContext(const Haystack& haystack,
                                        const std::vector<NeedleGroup>& groups,
                                        int64_t token_budget, const TokenCounter& count_tokens,
                                        PhiloxStream& random);

}  // namespace sparse_attention

#endif  // EVALUATION_FILL_CONTEXT_H_
