#include "sparse_attention/config/budget.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace sparse_attention {

int64_t Budget::Resolve(int64_t total) const {
  if (!is_fraction_) return count_;
  const double product = fraction_ * static_cast<double>(total);
  if (std::isnan(product)) return 0;
  // 2^63 is a double, the largest int64 is not.
  if (product >= 0x1p63) return std::numeric_limits<int64_t>::max();
  if (product < -0x1p63) return std::numeric_limits<int64_t>::min();
  return static_cast<int64_t>(product);
}

std::string Budget::ToString() const { return DumpJson(ToJson()); }

Json Budget::ToJson() const { return is_fraction_ ? Json(fraction_) : Json(count_); }

absl::StatusOr<Budget> Budget::FromJson(const Json& json) {
  if (json.is_number_float()) return Fraction(json.get<double>());
  if (!json.is_number_integer()) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be an integer (count) or a float (fraction), got ", JsonExcerpt(json)));
  }
  if (json.is_number_unsigned() &&
      json.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) {
    return absl::InvalidArgumentError(
        absl::StrCat("must fit in a signed 64-bit integer, got ", JsonExcerpt(json)));
  }
  return Count(json.get<int64_t>());
}

}  // namespace sparse_attention
