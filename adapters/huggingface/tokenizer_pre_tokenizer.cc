#define PCRE2_CODE_UNIT_WIDTH 8

#include "adapters/huggingface/tokenizer_pre_tokenizer.h"

#include <pcre2.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/huggingface/tokenizer_regex.h"
#include "adapters/huggingface/tokenizer_unicode.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

const char kGpt2SplitPattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

// `tokenizers` asks Rust here, which knows the digits of Unicode 17 already.
constexpr char kDigitPattern[] = R"([\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])";

// Enough for patterns that repeat a group over some 100,000 characters; beyond, the interpreter
// takes over.
constexpr size_t kMaxJitStackBytes = size_t{1} << 20;

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;

// `view` is what the patterns see: `text`, or a copy of the same length whose new characters have
// stand-ins.
struct Piece {
  absl::string_view text;
  absl::string_view view;
};

struct Cut {
  size_t begin;
  size_t end;
  bool is_match;
};

std::string CompileErrorText(int error) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(error, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

absl::StatusOr<Code> Compile(absl::string_view pattern) {
  static constexpr uint32_t kOptions =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE at = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), kOptions,
                          &error, &at, context.get()));
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("split pattern: ", CompileErrorText(error), " (in \"", pattern, "\")"));
  }
  // Where the machine forbids writable code pages the interpreter serves; the result is the same.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

void ApplyBehavior(SplitBehavior behavior, std::vector<Cut>& cuts) {
  std::vector<Cut> out;
  out.reserve(cuts.size());
  bool previous_is_match = false;
  switch (behavior) {
    case SplitBehavior::kIsolated:
      return;
    case SplitBehavior::kRemoved:
      cuts.erase(std::remove_if(cuts.begin(), cuts.end(), [](const Cut& c) { return c.is_match; }),
                 cuts.end());
      return;
    case SplitBehavior::kContiguous:
      for (const Cut& cut : cuts) {
        if (cut.is_match == previous_is_match && !out.empty()) {
          out.back().end = cut.end;
        } else {
          out.push_back(cut);
        }
        previous_is_match = cut.is_match;
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      for (const Cut& cut : cuts) {
        if (cut.is_match && !previous_is_match && !out.empty()) {
          out.back().end = cut.end;
        } else {
          out.push_back(cut);
        }
        previous_is_match = cut.is_match;
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
        if (cut->is_match && !previous_is_match && !out.empty()) {
          out.back().begin = cut->begin;
        } else {
          out.push_back(*cut);
        }
        previous_is_match = cut->is_match;
      }
      std::reverse(out.begin(), out.end());
      break;
  }
  cuts = std::move(out);
}

}  // namespace

struct PreTokenizer::Step {
  Code code;  // Null: put a space before the piece.
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
};

struct PreTokenizer::Scratch::Impl {
  Impl()
      : match_data(pcre2_match_data_create(1, nullptr)),
        match_context(pcre2_match_context_create(nullptr)),
        jit_stack(pcre2_jit_stack_create(size_t{32} << 10, kMaxJitStackBytes, nullptr)) {
    SA_CHECK(match_data != nullptr && match_context != nullptr);
    pcre2_jit_stack_assign(match_context, nullptr, jit_stack);
  }
  ~Impl() {
    pcre2_jit_stack_free(jit_stack);
    pcre2_match_context_free(match_context);
    pcre2_match_data_free(match_data);
  }

  // Every match and every gap of `subject`, in order, gaps only if not empty.
  absl::Status Find(const pcre2_code* code, absl::string_view subject, std::vector<Cut>& found);

  pcre2_match_data* const match_data;
  pcre2_match_context* const match_context;
  pcre2_jit_stack* const jit_stack;  // Null without JIT support.
  std::vector<Piece> pieces, next_pieces;
  std::vector<Cut> cuts;
  std::string view;               // Piece::view of the whole text.
  std::deque<std::string> owned;  // Pieces with a space put before them.
};

PreTokenizer::Scratch::Scratch() : impl_(std::make_unique<Impl>()) {}
PreTokenizer::Scratch::~Scratch() = default;

PreTokenizer::PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
PreTokenizer::PreTokenizer(PreTokenizer&&) = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) = default;
PreTokenizer::~PreTokenizer() = default;

absl::Status PreTokenizer::Scratch::Impl::Find(const pcre2_code* code, absl::string_view subject,
                                               std::vector<Cut>& found) {
  const auto* const data = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const PCRE2_SIZE* const bounds = pcre2_get_ovector_pointer(match_data);
  const auto match = [&](size_t from, uint32_t options) {
    return pcre2_match(code, data, subject.size(), from, options | PCRE2_NO_UTF_CHECK, match_data,
                       match_context);
  };
  size_t covered = 0;
  std::optional<size_t> last_end;
  for (size_t from = 0; from <= subject.size();) {
    int result = match(from, 0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(from, PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("split pattern gave up at byte ", from, ": ", CompileErrorText(result)));
    }
    const size_t begin = bounds[0], end = bounds[1];
    if (begin == end && last_end == end) {  // No empty match right behind a match.
      from += from < subject.size() ? DecodeUtf8(subject.substr(from)).length : 1;
      continue;
    }
    if (covered < begin) found.push_back({covered, begin, false});
    found.push_back({begin, end, true});
    covered = from = end;
    last_end = end;
  }
  if (covered < subject.size()) found.push_back({covered, subject.size(), false});
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer> PreTokenizer::Create(absl::Span<const PreTokenizerStep> steps) {
  std::vector<Step> compiled;
  for (const PreTokenizerStep& step : steps) {
    Step& out = compiled.emplace_back();
    out.behavior = step.behavior;
    out.invert = step.invert;
    std::string pattern;
    switch (step.kind) {
      case PreTokenizerStep::Kind::kPrefixSpace:
        continue;
      case PreTokenizerStep::Kind::kRegex: {
        SA_ASSIGN_OR_RETURN(pattern, TranslateSplitPattern(step.pattern));
        break;
      }
      case PreTokenizerStep::Kind::kLiteral:
        pattern = EscapeSplitPattern(step.pattern);
        break;
      case PreTokenizerStep::Kind::kDigits:
        pattern = kDigitPattern;
        break;
    }
    SA_ASSIGN_OR_RETURN(out.code, Compile(pattern));
  }
  return PreTokenizer(std::move(compiled));
}

absl::Status PreTokenizer::Split(absl::string_view text, Scratch& scratch,
                                 std::vector<absl::string_view>& words) const {
  Scratch::Impl& s = *scratch.impl_;
  words.clear();
  s.owned.clear();
  s.pieces.clear();
  if (text.empty()) return absl::OkStatus();
  std::optional<std::string> replaced = ReplaceNewCharacters(text);
  if (replaced.has_value()) s.view = *std::move(replaced);
  s.pieces.push_back({text, replaced.has_value() ? absl::string_view(s.view) : text});
  for (const Step& step : steps_) {
    s.next_pieces.clear();
    for (const Piece& piece : s.pieces) {
      if (step.code == nullptr) {
        Piece& next = s.next_pieces.emplace_back(piece);
        if (piece.text[0] == ' ') continue;
        next.text = s.owned.emplace_back(absl::StrCat(" ", piece.text));
        next.view = s.owned.emplace_back(absl::StrCat(" ", piece.view));
        continue;
      }
      s.cuts.clear();
      SA_RETURN_IF_ERROR(s.Find(step.code.get(), piece.view, s.cuts));
      if (step.invert) {
        for (Cut& cut : s.cuts) cut.is_match = !cut.is_match;
      }
      ApplyBehavior(step.behavior, s.cuts);
      for (const Cut& cut : s.cuts) {
        if (cut.begin == cut.end) continue;
        s.next_pieces.push_back({piece.text.substr(cut.begin, cut.end - cut.begin),
                                 piece.view.substr(cut.begin, cut.end - cut.begin)});
      }
    }
    s.pieces.swap(s.next_pieces);
  }
  words.reserve(s.pieces.size());
  for (const Piece& piece : s.pieces) words.push_back(piece.text);
  return absl::OkStatus();
}

}  // namespace sparse_attention
