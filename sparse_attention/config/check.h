// Rules for the value of a field. A rule knows its text for messages and documentation and its JSON
// Schema keywords.
//
//   Field{"epsilon", &C::epsilon, "...", InOpen(0, 1)}                     epsilon must be in (0,
//   1), got 1.5 Field{"top_p", &C::top_p, "...", InClosed(0, 1).Says("must be in range [0, 1]"),
//   FloatOnly()} Field{"heavy_size", &C::heavy_size, "...", PositiveBudget(), Required()}
//   Field{"init_offset", &C::init_offset, "...", CountOrFraction(NonNegative(), InClosed(0, 1))}
//
// NaN and infinities break every rule and are refused without one, too. Rules that join several
// fields belong into the config's own `absl::Status Validate() const`.
#ifndef SPARSE_ATTENTION_CONFIG_CHECK_H_
#define SPARSE_ATTENTION_CONFIG_CHECK_H_

#include <limits>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// An interval for numbers. Integers are compared as doubles, so bounds beyond 2^53 are not exact.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;
  std::string rule;  // "must be > 0"

  bool Contains(double value) const;
  // The same interval with its rule in other words.
  Range Says(std::string text) const;
  // Adds minimum, exclusiveMinimum, maximum, exclusiveMaximum.
  void AddToSchema(Json* schema) const;
};

Range Positive();                            // must be > 0
Range NonNegative();                         // must be >= 0
Range AtLeast(double low);                   // must be >= low
Range InClosed(double low, double high);     // must be in [low, high]
Range InOpen(double low, double high);       // must be in (low, high)
Range InLeftOpen(double low, double high);   // must be in (low, high]
Range InRightOpen(double low, double high);  // must be in [low, high)

// Rules for a Budget: one for a count, one for a fraction.
struct BudgetRange {
  Range count;
  Range fraction;

  const Range& For(const Budget& budget) const { return budget.is_fraction() ? fraction : count; }
  // For documentation: one text where both agree.
  std::string Rule() const;
};

BudgetRange PositiveBudget();     // must be > 0
BudgetRange NonNegativeBudget();  // must be >= 0
// Different rules by kind, shown as "<count rule> if int" and "<fraction rule> if float".
BudgetRange CountOrFraction(const Range& count, const Range& fraction);

struct Required {};   // The field has no default in JSON.
struct FloatOnly {};  // An integer is refused where a number is expected.
struct NonEmpty {};   // A string or list has at least one element.

// The rules of one field, collected from its options.
struct FieldRules {
  bool required = false;
  bool float_only = false;
  bool non_empty = false;
  std::optional<Range> range;
  std::optional<BudgetRange> budget_range;

  void Add(Required) { required = true; }
  void Add(FloatOnly) { float_only = true; }
  void Add(NonEmpty) { non_empty = true; }
  void Add(const Range& r) { range = r; }
  void Add(const BudgetRange& r) { budget_range = r; }

  // Every rule in words, "" without rules.
  std::string Text() const;
};

// "<path> <rule>, got <value>".
absl::Status RuleError(absl::string_view path, absl::string_view rule, absl::string_view value);

// One value against the rules that apply to its type. `path` names the value in the message; `text`
// is how the value is shown, "" for the double's own text (an integer need not survive the
// conversion).
absl::Status CheckNumber(const FieldRules& rules, absl::string_view path, double value,
                         absl::string_view text);
absl::Status CheckBudget(const FieldRules& rules, absl::string_view path, const Budget& value);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_CHECK_H_
