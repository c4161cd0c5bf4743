#include "adapters/huggingface/tokenizer_regex.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

// White_Space, as members of a class. PCRE2's own \s also has U+180E.
constexpr absl::string_view kSpaces =
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";
constexpr absl::string_view kNotSpaces =
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";

constexpr absl::string_view kGeneralCategories[] = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P", "Pc",
    "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

// ASCII pairs that, ignoring case, Oniguruma also finds in one character (sharp s, ligatures);
// PCRE2 does not.
constexpr absl::string_view kFoldedPairs[] = {"ss", "ff", "fi", "fl", "st"};

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) {
      SA_RETURN_IF_ERROR(Element());
    }
    return std::move(out_);
  }

 private:
  struct Group {
    size_t start;   // In `out_`.
    bool caseless;  // Outside the group.
  };
  static constexpr size_t kNoAtom = static_cast<size_t>(-1);

  absl::Status Unsupported(size_t start, size_t end) const {
    return absl::UnimplementedError(absl::StrCat("split pattern: \"",
                                                 pattern_.substr(start, end - start), "\" at byte ",
                                                 start, " is not supported"));
  }

  char Peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }

  // One literal, escape, class, group bracket, anchor or quantifier.
  absl::Status Element() {
    const char c = Peek();
    switch (c) {
      case '*':
      case '+':
      case '?':
        return Quantifier();
      case '{':
        return Interval();
      case '(':
        return OpenGroup();
      case ')':
        return CloseGroup();
      case '|':
      case '^':
      case '$':
        atom_ = kNoAtom;
        out_ += c;
        ++at_;
        return absl::OkStatus();
      default:
        break;
    }
    atom_ = out_.size();
    switch (c) {
      case '\\':
        return Escape(/*in_class=*/false);
      case '[':
        return Class();
      case '.':
        out_ += c;
        ++at_;
        return absl::OkStatus();
      default:
        return Literal();
    }
  }

  absl::Status Literal() {
    const char c = Peek();
    if (caseless_) {
      if (static_cast<unsigned char>(c) >= 0x80) return Unsupported(at_, pattern_.size());
      const char pair[] = {absl::ascii_tolower(c), absl::ascii_tolower(Peek(1))};
      if (std::count(std::begin(kFoldedPairs), std::end(kFoldedPairs), absl::string_view(pair, 2)) >
          0) {
        return Unsupported(at_, at_ + 2);
      }
    }
    if (c == ']' || c == '}') out_ += '\\';
    do {  // All bytes of the code point are the atom.
      out_ += pattern_[at_++];
    } while ((static_cast<unsigned char>(Peek()) & 0xC0) == 0x80);
    return absl::OkStatus();
  }

  absl::Status Escape(bool in_class) {
    const size_t start = at_;
    const char c = Peek(1);
    at_ += 2;
    switch (c) {
      case 'p':
      case 'P':
        return Property(start);
      case 's':
        absl::StrAppend(&out_, in_class ? "" : "[", kSpaces, in_class ? "" : "]");
        return absl::OkStatus();
      case 'S':
        absl::StrAppend(&out_, in_class ? "" : "[", kNotSpaces, in_class ? "" : "]");
        return absl::OkStatus();
      case 'd':
      case 'D':
        absl::StrAppend(&out_, c == 'd' ? "\\p{Nd}" : "\\P{Nd}");
        return absl::OkStatus();
      case 'v':  // In PCRE2 any vertical space.
        out_ += "\\x0b";
        return absl::OkStatus();
      case 'n':
      case 'r':
      case 't':
      case 'f':
        out_.append(pattern_.data() + start, 2);
        return absl::OkStatus();
      case 'A':
      case 'z':
        if (in_class) break;
        atom_ = kNoAtom;
        out_.append(pattern_.data() + start, 2);
        return absl::OkStatus();
      case 'u':
        return HexEscape(start, 4);
      case 'x':
        if (Peek() != '{') return HexEscape(start, 2);
        break;
      default:
        if (absl::ascii_ispunct(c)) {
          out_.append(pattern_.data() + start, 2);
          return absl::OkStatus();
        }
        break;
    }
    return Unsupported(start, std::min(at_, pattern_.size()));
  }

  // \u3042 and \x41; \x80 and above would be a byte, not a code point.
  absl::Status HexEscape(size_t start, size_t digits) {
    const absl::string_view hex = pattern_.substr(at_, digits);
    at_ += hex.size();
    if (hex.size() < digits || !std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit) ||
        (digits == 2 && hex[0] >= '8') || caseless_) {
      return Unsupported(start, at_);
    }
    absl::StrAppend(&out_, "\\x{", hex, "}");
    return absl::OkStatus();
  }

  // \p{L}, \P{L}, \p{^L}.
  absl::Status Property(size_t start) {
    const size_t close = pattern_.find('}', at_);
    if (Peek() != '{' || close == absl::string_view::npos) return Unsupported(start, at_);
    absl::string_view name = pattern_.substr(at_ + 1, close - at_ - 1);
    bool negated = pattern_[start + 1] == 'P';
    if (absl::ConsumePrefix(&name, "^")) negated = !negated;
    at_ = close + 1;
    const bool cased = name == "Lu" || name == "Ll" || name == "Lt";
    const bool known =
        std::count(std::begin(kGeneralCategories), std::end(kGeneralCategories), name) > 0;
    if ((!known && name != "Han") || (cased && caseless_)) return Unsupported(start, at_);
    // Bare script names stand for script extensions in PCRE2.
    absl::StrAppend(&out_, negated ? "\\P{" : "\\p{", known ? "" : "sc:", name, "}");
    return absl::OkStatus();
  }

  absl::Status Class() {
    const size_t start = at_;
    out_ += pattern_[at_++];
    if (Peek() == '^') out_ += pattern_[at_++];
    if (Peek() == ']') return Unsupported(start, at_ + 1);
    bool previous_is_set = false;
    while (at_ < pattern_.size() && Peek() != ']') {
      const size_t element = at_;
      const char c = Peek();
      if (c == '[' || (c == '&' && Peek(1) == '&')) return Unsupported(at_, at_ + 2);
      if (c == '\\') {
        const char escaped = Peek(1);
        const bool is_set = absl::StrContains("pPsSdD", escaped);
        // A hyphen beside a set is a literal to one library and an error or a range to the other.
        if (is_set && out_.back() == '-') return Unsupported(element, element + 2);
        SA_RETURN_IF_ERROR(Escape(/*in_class=*/true));
        previous_is_set = is_set;
        continue;
      }
      if (c == '-' && previous_is_set && Peek(1) != ']') return Unsupported(at_, at_ + 2);
      if (caseless_ && static_cast<unsigned char>(c) >= 0x80) return Unsupported(start, at_);
      out_ += c;
      ++at_;
      previous_is_set = false;
    }
    if (at_ == pattern_.size()) return Unsupported(start, at_);
    out_ += pattern_[at_++];
    return absl::OkStatus();
  }

  absl::Status OpenGroup() {
    static constexpr absl::string_view kOpenings[] = {
        "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    const absl::string_view rest = pattern_.substr(at_);
    // Inside a pattern the two libraries disagree on how far (?i) reaches.
    if (at_ == 0 && absl::StartsWith(rest, "(?i)")) {
      caseless_ = true;
      at_ += 4;
      out_ += "(?i)";
      return absl::OkStatus();
    }
    absl::string_view opening = "(";
    for (const absl::string_view candidate : kOpenings) {
      if (absl::StartsWith(rest, candidate)) opening = candidate;
    }
    if (opening == "(" && (Peek(1) == '?' || Peek(1) == '*')) return Unsupported(at_, at_ + 3);
    groups_.push_back({out_.size(), caseless_});
    caseless_ = caseless_ || opening == "(?i:";
    at_ += opening.size();
    absl::StrAppend(&out_, opening);
    atom_ = kNoAtom;
    return absl::OkStatus();
  }

  absl::Status CloseGroup() {
    if (groups_.empty()) return Unsupported(at_, at_ + 1);
    atom_ = groups_.back().start;
    caseless_ = groups_.back().caseless;
    groups_.pop_back();
    out_ += ')';
    ++at_;
    return absl::OkStatus();
  }

  // `*`, `+` and `?`, each greedy, lazy (`?`) or possessive (`+`).
  absl::Status Quantifier() {
    const size_t start = at_;
    if (atom_ == kNoAtom) return Unsupported(start, start + 1);
    out_ += pattern_[at_++];
    if (Peek() == '?' || Peek() == '+') out_ += pattern_[at_++];
    return EndQuantifier(start);
  }

  // {n}, {n,}, {,m}, {n,m}; anything else in braces is literal. After it `?` is lazy (but "{n}?"
  // means optional), and
  // `+` repeats the repetition where PCRE2 would read "possessive".
  absl::Status Interval() {
    const size_t start = at_;
    const size_t close = pattern_.find('}', at_);
    const absl::string_view body =
        close == absl::string_view::npos ? "" : pattern_.substr(at_ + 1, close - at_ - 1);
    const size_t comma = std::min(body.find(','), body.size());
    const absl::string_view low = body.substr(0, comma);
    const absl::string_view high = comma < body.size() ? body.substr(comma + 1) : "";
    const auto is_number = [](absl::string_view s) {
      return std::all_of(s.begin(), s.end(), absl::ascii_isdigit);
    };
    if ((low.empty() && high.empty()) || !is_number(low) || !is_number(high)) {
      atom_ = out_.size();
      out_ += "\\{";
      ++at_;
      return absl::OkStatus();
    }
    if (atom_ == kNoAtom) return Unsupported(start, close + 1);
    at_ = close + 1;
    const std::string interval =
        absl::StrCat("{", low.empty() ? "0" : low, comma < body.size() ? "," : "", high, "}");
    if (Peek() == '+') {
      out_.insert(atom_, "(?:");
      absl::StrAppend(&out_, interval, ")+");
      ++at_;
    } else {
      out_ += interval;
      if (Peek() == '?') {
        if (comma == body.size()) return Unsupported(start, at_ + 1);
        out_ += pattern_[at_++];
      }
    }
    return EndQuantifier(start);
  }

  // Quantified quantifiers mean different things to the two libraries.
  absl::Status EndQuantifier(size_t start) {
    if (absl::StrContains("*+?", Peek()) && at_ < pattern_.size()) {
      return Unsupported(start, at_ + 1);
    }
    atom_ = kNoAtom;
    return absl::OkStatus();
  }

  const absl::string_view pattern_;
  size_t at_ = 0;  // In `pattern_`.
  std::string out_;
  size_t atom_ = kNoAtom;  // Where in `out_` the element starts that a quantifier would repeat.
  bool caseless_ = false;
  std::vector<Group> groups_;
};

}  // namespace

absl::StatusOr<std::string> TranslateSplitPattern(absl::string_view pattern) {
  return Translator(pattern).Run();
}

std::string EscapeSplitPattern(absl::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (absl::ascii_ispunct(c)) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace sparse_attention
