#include "sparse_attention/config/check.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::string SchemaText(const Range& range) {
  Json schema = Json::object();
  range.AddToSchema(&schema);
  return DumpJson(schema);
}

struct RangeCase {
  Range range;
  std::string rule;
  std::string schema;
  std::vector<double> inside;
  std::vector<double> outside;
};

TEST(Range, TextSchemaAndMembershipAgree) {
  constexpr double kTiny = std::numeric_limits<double>::denorm_min();
  const RangeCase cases[] = {
      {Positive(), "must be > 0", R"({"exclusiveMinimum":0})", {kTiny, 1, 1e300}, {0, -kTiny, -1}},
      {NonNegative(), "must be >= 0", R"({"minimum":0})", {0, kTiny, 5}, {-kTiny, -1}},
      {AtLeast(2), "must be >= 2", R"({"minimum":2})", {2, 3}, {1, 1.999}},
      {InClosed(0, 1), "must be in [0, 1]", R"({"minimum":0,"maximum":1})", {0, .5, 1}, {-.1, 1.1}},
      {InOpen(0, 1),
       "must be in (0, 1)",
       R"({"exclusiveMinimum":0,"exclusiveMaximum":1})",
       {kTiny, .5},
       {0, 1, 2}},
      {InLeftOpen(0, 16),
       "must be in (0, 16]",
       R"({"exclusiveMinimum":0,"maximum":16})",
       {.1, 16},
       {0, 16.5}},
      {InRightOpen(0.5, 1),
       "must be in [0.5, 1)",
       R"({"minimum":0.5,"exclusiveMaximum":1})",
       {.5, .99},
       {.49, 1}},
  };
  for (const RangeCase& c : cases) {
    EXPECT_EQ(c.range.rule, c.rule);
    EXPECT_EQ(SchemaText(c.range), c.schema);
    for (double value : c.inside) EXPECT_TRUE(c.range.Contains(value)) << c.rule << " " << value;
    for (double value : c.outside) EXPECT_FALSE(c.range.Contains(value)) << c.rule << " " << value;
    EXPECT_FALSE(c.range.Contains(kNaN)) << c.rule;
  }
}

TEST(Range, SaysChangesOnlyTheText) {
  const Range range = InClosed(0, 1).Says("must be in range [0, 1]");
  EXPECT_EQ(range.rule, "must be in range [0, 1]");
  EXPECT_TRUE(range.Contains(1));
  EXPECT_FALSE(range.Contains(2));
}

TEST(CheckNumber, ShowsRuleAndValue) {
  FieldRules rules;
  rules.Add(InOpen(0, 1));
  SA_EXPECT_OK(CheckNumber(rules, "a.epsilon", 0.5, ""));
  EXPECT_THAT(CheckNumber(rules, "a.epsilon", 1.0, ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "a.epsilon must be in (0, 1), got 1.0"));
  EXPECT_THAT(CheckNumber(rules, "a.epsilon", kNaN, ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "a.epsilon must be in (0, 1), got nan"));
  EXPECT_THAT(CheckNumber(rules, "a.n", 7, "7"),
              StatusIs(absl::StatusCode::kInvalidArgument, "a.n must be in (0, 1), got 7"));
}

TEST(CheckNumber, RefusesNanAndInfinityWithoutARule) {
  const FieldRules none;
  SA_EXPECT_OK(CheckNumber(none, "a.x", 1e308, ""));
  EXPECT_THAT(CheckNumber(none, "a.x", kNaN, ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "a.x must be finite, got nan"));
  FieldRules positive;
  positive.Add(Positive());
  EXPECT_THAT(CheckNumber(positive, "a.x", kInfinity, ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "a.x must be finite, got inf"));
  EXPECT_THAT(CheckNumber(positive, "a.x", -kInfinity, ""),
              StatusIs(absl::StatusCode::kInvalidArgument, "a.x must be > 0, got -inf"));
}

TEST(CheckBudget, OneRuleForBothKinds) {
  FieldRules rules;
  rules.Add(PositiveBudget());
  SA_EXPECT_OK(CheckBudget(rules, "s.size", Budget::Count(1)));
  SA_EXPECT_OK(CheckBudget(rules, "s.size", Budget::Fraction(2.5)));
  EXPECT_THAT(CheckBudget(rules, "s.size", Budget::Count(0)),
              StatusIs(absl::StatusCode::kInvalidArgument, "s.size must be > 0, got 0"));
  EXPECT_THAT(CheckBudget(rules, "s.size", Budget::Fraction(0)),
              StatusIs(absl::StatusCode::kInvalidArgument, "s.size must be > 0, got 0.0"));
  EXPECT_THAT(CheckBudget(rules, "s.size", Budget::Fraction(kNaN)),
              StatusIs(absl::StatusCode::kInvalidArgument, "s.size must be > 0, got nan"));
  EXPECT_THAT(CheckBudget(FieldRules(), "s.size", Budget::Fraction(kInfinity)),
              StatusIs(absl::StatusCode::kInvalidArgument, "s.size must be finite, got inf"));
  EXPECT_EQ(rules.Text(), "must be > 0");
  EXPECT_EQ(NonNegativeBudget().Rule(), "must be >= 0");
}

TEST(CheckBudget, DifferentRulesByKind) {
  FieldRules rules;
  rules.Add(CountOrFraction(NonNegative().Says("must be non-negative"), InRightOpen(0, 1)));
  SA_EXPECT_OK(CheckBudget(rules, "a.rate", Budget::Count(0)));
  SA_EXPECT_OK(CheckBudget(rules, "a.rate", Budget::Count(5)));
  SA_EXPECT_OK(CheckBudget(rules, "a.rate", Budget::Fraction(0)));
  EXPECT_THAT(
      CheckBudget(rules, "a.rate", Budget::Count(-1)),
      StatusIs(absl::StatusCode::kInvalidArgument, "a.rate must be non-negative if int, got -1"));
  EXPECT_THAT(
      CheckBudget(rules, "a.rate", Budget::Fraction(1)),
      StatusIs(absl::StatusCode::kInvalidArgument, "a.rate must be in [0, 1) if float, got 1.0"));
  EXPECT_EQ(rules.Text(), "must be non-negative if int, must be in [0, 1) if float");
}

TEST(FieldRules, TextJoinsEveryRule) {
  FieldRules rules;
  EXPECT_EQ(rules.Text(), "");
  rules.Add(InClosed(0, 1));
  rules.Add(FloatOnly());
  EXPECT_EQ(rules.Text(), "must be in [0, 1], must be a float");
  FieldRules list;
  list.Add(NonEmpty());
  EXPECT_EQ(list.Text(), "must not be empty");
}

}  // namespace
}  // namespace sparse_attention
