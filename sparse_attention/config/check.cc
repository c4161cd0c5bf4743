#include "sparse_attention/config/check.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sparse_attention {
namespace {

Range MakeRange(double low, double high, bool low_open, bool high_open) {
  return {
      low, high, low_open, high_open,
      absl::StrCat("must be in ", low_open ? "(" : "[", low, ", ", high, high_open ? ")" : "]")};
}

// Whole numbers are written as integers: `"minimum": 0`.
Json BoundJson(double bound) {
  const bool whole = bound == std::floor(bound) && std::abs(bound) < 0x1p53;
  return whole ? Json(static_cast<int64_t>(bound)) : Json(bound);
}

std::string DoubleText(double value) {
  // JSON has no text for these.
  if (!std::isfinite(value)) return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
  return DumpJson(value);
}

}  // namespace

bool Range::Contains(double value) const {
  return (low_open ? value > low : value >= low) && (high_open ? value < high : value <= high);
}

Range Range::Says(std::string text) const {
  Range range = *this;
  range.rule = std::move(text);
  return range;
}

void Range::AddToSchema(Json* schema) const {
  if (std::isfinite(low)) (*schema)[low_open ? "exclusiveMinimum" : "minimum"] = BoundJson(low);
  if (std::isfinite(high)) (*schema)[high_open ? "exclusiveMaximum" : "maximum"] = BoundJson(high);
}

Range Positive() {
  Range range;
  range.low = 0;
  range.low_open = true;
  range.rule = "must be > 0";
  return range;
}

Range NonNegative() { return AtLeast(0); }

Range AtLeast(double low) {
  Range range;
  range.low = low;
  range.rule = absl::StrCat("must be >= ", low);
  return range;
}

Range InClosed(double low, double high) { return MakeRange(low, high, false, false); }
Range InOpen(double low, double high) { return MakeRange(low, high, true, true); }
Range InLeftOpen(double low, double high) { return MakeRange(low, high, true, false); }
Range InRightOpen(double low, double high) { return MakeRange(low, high, false, true); }

std::string BudgetRange::Rule() const {
  return count.rule == fraction.rule ? count.rule : absl::StrCat(count.rule, ", ", fraction.rule);
}

BudgetRange PositiveBudget() { return {Positive(), Positive()}; }

BudgetRange NonNegativeBudget() { return {NonNegative(), NonNegative()}; }

BudgetRange CountOrFraction(const Range& count, const Range& fraction) {
  return {count.Says(absl::StrCat(count.rule, " if int")),
          fraction.Says(absl::StrCat(fraction.rule, " if float"))};
}

std::string FieldRules::Text() const {
  std::vector<std::string> texts;
  if (range.has_value()) texts.push_back(range->rule);
  if (budget_range.has_value()) texts.push_back(budget_range->Rule());
  if (float_only) texts.push_back("must be a float");
  if (non_empty) texts.push_back("must not be empty");
  return absl::StrJoin(texts, ", ");
}

absl::Status RuleError(absl::string_view path, absl::string_view rule, absl::string_view value) {
  return absl::InvalidArgumentError(absl::StrCat(path, " ", rule, ", got ", value));
}

absl::Status CheckNumber(const FieldRules& rules, absl::string_view path, double value,
                         absl::string_view text) {
  if (rules.range.has_value() && !rules.range->Contains(value)) {
    return RuleError(path, rules.range->rule, text.empty() ? DoubleText(value) : text);
  }
  if (!std::isfinite(value)) return RuleError(path, "must be finite", DoubleText(value));
  return absl::OkStatus();
}

absl::Status CheckBudget(const FieldRules& rules, absl::string_view path, const Budget& value) {
  const double number = value.is_fraction() ? value.fraction() : static_cast<double>(value.count());
  if (rules.budget_range.has_value()) {
    const Range& range = rules.budget_range->For(value);
    if (!range.Contains(number)) {
      return RuleError(path, range.rule,
                       value.is_fraction() ? DoubleText(number) : value.ToString());
    }
  }
  if (!std::isfinite(number)) return RuleError(path, "must be finite", DoubleText(number));
  return absl::OkStatus();
}

}  // namespace sparse_attention
