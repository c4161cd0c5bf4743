#include "sparse_attention/config/index_ranges.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace sparse_attention {
namespace {

constexpr int64_t kOpenEnd = std::numeric_limits<int64_t>::max();
constexpr char kSyntax[] = "must be ranges such as \"0-3,8-\"";

// Digits only: no sign, no space, below 10^9.
std::optional<int64_t> ParseIndex(absl::string_view text) {
  int64_t index;
  const bool digits = !text.empty() && text.size() <= 9 &&
                      std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
  if (!digits || !absl::SimpleAtoi(text, &index)) return std::nullopt;
  return index;
}

}  // namespace

IndexRanges::IndexRanges() : ranges_{{0, kOpenEnd}} {}

absl::StatusOr<IndexRanges> IndexRanges::Parse(absl::string_view text) {
  const auto error = [text](absl::string_view rule) {
    return absl::InvalidArgumentError(absl::StrCat(rule, ", got ", JsonExcerpt(std::string(text))));
  };
  std::vector<Range> ranges;
  for (absl::string_view item : absl::StrSplit(text, ',')) {
    const std::vector<absl::string_view> ends = absl::StrSplit(item, absl::MaxSplits('-', 1));
    const std::optional<int64_t> first = ParseIndex(ends[0]);
    std::optional<int64_t> last = first;
    if (ends.size() == 2) last = ends[1].empty() ? kOpenEnd : ParseIndex(ends[1]);
    if (!first.has_value() || !last.has_value()) return error(kSyntax);
    if (*last < *first) return error("has a range that ends before it begins");
    ranges.push_back({*first, *last});
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.first < b.first; });
  IndexRanges result;
  result.ranges_.clear();
  for (const Range& range : ranges) {
    std::vector<Range>& merged = result.ranges_;
    // Neighbours merge as well: "0-1,2" is "0-2".
    if (!merged.empty() && range.first - 1 <= merged.back().last) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return result;
}

bool IndexRanges::Contains(int64_t index) const {
  return std::any_of(ranges_.begin(), ranges_.end(), [index](const Range& range) {
    return range.first <= index && index <= range.last;
  });
}

bool IndexRanges::IsAll() const { return *this == IndexRanges(); }

std::string IndexRanges::ToString() const {
  return absl::StrJoin(ranges_, ",", [](std::string* out, const Range& range) {
    absl::StrAppend(out, range.first);
    if (range.last == range.first) return;
    absl::StrAppend(out, "-");
    if (range.last != kOpenEnd) absl::StrAppend(out, range.last);
  });
}

Json FieldValue<IndexRanges>::Schema(const FieldRules&) {
  return {{"type", "string"},
          {"pattern", "^[0-9]{1,9}(-([0-9]{1,9})?)?(,[0-9]{1,9}(-([0-9]{1,9})?)?)*$"}};
}

absl::Status FieldValue<IndexRanges>::Read(const Json& json, const std::string& path,
                                           const FieldRules&, IndexRanges* out) {
  const std::string* text = json.get_ptr<const std::string*>();
  if (text == nullptr) return RuleError(path, kSyntax, JsonExcerpt(json));
  absl::StatusOr<IndexRanges> ranges = IndexRanges::Parse(*text);
  if (!ranges.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " ", ranges.status().message()));
  }
  *out = *std::move(ranges);
  return absl::OkStatus();
}

}  // namespace sparse_attention
