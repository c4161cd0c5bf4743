// Pre-tokenisation: cuts text into the words inside which byte pairs may merge.
//
// A pre-tokenizer is a list of steps; each cuts the pieces that the step before left, and sees one
// piece at a time as if it were the whole text. Semantics: the `tokenizers` library's Split, Digits
// and ByteLevel.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_PRE_TOKENIZER_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_PRE_TOKENIZER_H_

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sparse_attention {

// What becomes of a match and of the text between two matches, which are both pieces.
enum class SplitBehavior {
  kRemoved,             // Matches are dropped.
  kIsolated,            // Both stay as they are.
  kMergedWithPrevious,  // A match joins the text before it,
  kMergedWithNext,      // or after it.
  kContiguous,          // Matches that touch become one piece.
};

struct PreTokenizerStep {
  enum class Kind {
    kRegex,        // `pattern` in Oniguruma's dialect.
    kLiteral,      // `pattern` is the text itself.
    kDigits,       // Matches characters of category N, one at a time.
    kPrefixSpace,  // No split: a space is put before a piece that has none. Only as one of the last
                   // two steps.
  };
  Kind kind = Kind::kRegex;
  std::string pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // Swaps matches and the text between them.
};

// GPT-2's split, which ByteLevel with `use_regex` stands for.
extern const char kGpt2SplitPattern[];

// Immutable; Split may run in several threads, each with its own scratch.
class PreTokenizer {
 public:
  // Memory that calls reuse. Not for two threads at once.
  class Scratch {
   public:
    Scratch();
    ~Scratch();

   private:
    friend class PreTokenizer;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  // UNIMPLEMENTED or INVALID_ARGUMENT names the pattern and what is wrong with it.
  static absl::StatusOr<PreTokenizer> Create(absl::Span<const PreTokenizerStep> steps);

  PreTokenizer(PreTokenizer&&);
  PreTokenizer& operator=(PreTokenizer&&);
  ~PreTokenizer();

  // The words of `text`, none of them empty. They point into `text` and `scratch` and are good
  // until either changes. `text` must be valid UTF-8. RESOURCE_EXHAUSTED if a pattern backtracks
  // without end on this text.
  absl::Status Split(absl::string_view text, Scratch& scratch,
                     std::vector<absl::string_view>& words) const;

 private:
  struct Step;
  explicit PreTokenizer(std::vector<Step> steps);

  std::vector<Step> steps_;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_PRE_TOKENIZER_H_
