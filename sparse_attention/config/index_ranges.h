// A set of non-negative indices (layers, heads) written as ranges: "0-1", "5", "2-" (from 2 on),
// "0-3,8-".
//
// Kept sorted and merged, so that equal sets are equal values with equal text.
#ifndef SPARSE_ATTENTION_CONFIG_INDEX_RANGES_H_
#define SPARSE_ATTENTION_CONFIG_INDEX_RANGES_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/config/field_value.h"

namespace sparse_attention {

class IndexRanges {
 public:
  // Every index.
  IndexRanges();

  // Errors (InvalidArgument) carry no path: "must be ranges such as \"0-3,8-\", got \"x\"", "has a
  // range that ends before it begins, got \"3-1\"". Indices are below 10^9.
  static absl::StatusOr<IndexRanges> Parse(absl::string_view text);

  bool Contains(int64_t index) const;
  // Whether every index is in the set.
  bool IsAll() const;
  // "0-3,8-"; every index is "0-".
  std::string ToString() const;

  friend bool operator==(const IndexRanges& a, const IndexRanges& b) {
    return a.ranges_ == b.ranges_;
  }
  friend bool operator!=(const IndexRanges& a, const IndexRanges& b) { return !(a == b); }
  friend std::ostream& operator<<(std::ostream& out, const IndexRanges& ranges) {
    return out << ranges.ToString();
  }

 private:
  struct Range {
    int64_t first;
    int64_t last;  // inclusive; kOpenEnd: no end
    friend bool operator==(const Range& a, const Range& b) {
      return a.first == b.first && a.last == b.last;
    }
  };

  std::vector<Range> ranges_;  // by `first`, with gaps between them
};

template <>
struct FieldValue<IndexRanges> {
  static std::string Type() { return "ranges (string)"; }
  static Json Schema(const FieldRules&);
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules&,
                           IndexRanges* out);
  static Json Write(const IndexRanges& value) { return value.ToString(); }
  static absl::Status Check(const IndexRanges&, const std::string&, const FieldRules&) {
    return absl::OkStatus();
  }
  static bool Equal(const IndexRanges& a, const IndexRanges& b) { return a == b; }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_INDEX_RANGES_H_
