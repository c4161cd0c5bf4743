#include "sparse_attention/config/budget.h"

#include <limits>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

TEST(Budget, CountsResolveToThemselves) {
  EXPECT_EQ(Budget::Count(4).Resolve(100), 4);
  EXPECT_EQ(Budget::Count(4).Resolve(2), 4);
  EXPECT_EQ(Budget::Count(-3).Resolve(100), -3);
  EXPECT_EQ(Budget::Count(1).Resolve(100), 1);
  EXPECT_EQ(Budget().Resolve(100), 0);
}

TEST(Budget, FractionsResolveToTheTruncatedDoubleProduct) {
  EXPECT_EQ(Budget::Fraction(1.0).Resolve(100), 100);
  EXPECT_EQ(Budget::Fraction(2.5).Resolve(100), 250);
  EXPECT_EQ(Budget::Fraction(0.29).Resolve(100), 28);  // 28.999999999999996
  EXPECT_EQ(Budget::Fraction(0.57).Resolve(100), 56);  // 56.99999999999999
  EXPECT_EQ(Budget::Fraction(0.1).Resolve(30), 3);
  EXPECT_EQ(Budget::Fraction(0.001).Resolve(100), 0);
  EXPECT_EQ(Budget::Fraction(-0.25).Resolve(10), -2);
  EXPECT_EQ(Budget::Fraction(0.0).Resolve(100), 0);
  EXPECT_EQ(Budget::Fraction(0.5).Resolve(0), 0);
}

TEST(Budget, ProductsOutsideTheIntegersAreDefined) {
  EXPECT_EQ(Budget::Fraction(1e300).Resolve(10), kMax);
  EXPECT_EQ(Budget::Fraction(-1e300).Resolve(10), kMin);
  EXPECT_EQ(Budget::Fraction(1.0).Resolve(kMax), kMax);
  EXPECT_EQ(Budget::Fraction(std::numeric_limits<double>::infinity()).Resolve(10), kMax);
  EXPECT_EQ(Budget::Fraction(std::numeric_limits<double>::infinity()).Resolve(0), 0);
  EXPECT_EQ(Budget::Fraction(std::numeric_limits<double>::quiet_NaN()).Resolve(10), 0);
}

TEST(Budget, TheKindIsPartOfTheValue) {
  EXPECT_EQ(Budget::Count(1), Budget::Count(1));
  EXPECT_NE(Budget::Count(1), Budget::Fraction(1.0));
  EXPECT_NE(Budget::Count(0), Budget::Fraction(0.0));
  EXPECT_NE(Budget::Count(1), Budget::Count(2));
  EXPECT_NE(Budget::Fraction(0.1), Budget::Fraction(0.2));
  EXPECT_EQ(Budget::Count(7).count(), 7);
  EXPECT_EQ(Budget::Fraction(0.5).fraction(), 0.5);
  EXPECT_FALSE(Budget::Count(7).is_fraction());
  EXPECT_TRUE(Budget::Fraction(7).is_fraction());
}

TEST(BudgetDeathTest, AskingForTheOtherKindIsADefect) {
  EXPECT_DEATH(Budget::Count(1).fraction(), "is_fraction_");
  EXPECT_DEATH(Budget::Fraction(1).count(), "is_fraction_");
}

TEST(Budget, TextAndJsonKeepTheKind) {
  for (const auto& [budget, text] :
       {std::pair(Budget::Count(1), "1"), std::pair(Budget::Fraction(1.0), "1.0"),
        std::pair(Budget::Fraction(0.02), "0.02"),
        std::pair(Budget::Count(kMin), "-9223372036854775808"),
        std::pair(Budget::Count(kMax), "9223372036854775807")}) {
    EXPECT_EQ(budget.ToString(), text);
    std::ostringstream out;
    out << budget;
    EXPECT_EQ(out.str(), text);
    EXPECT_THAT(Budget::FromJson(*ParseJson(text)), IsOkAndHolds(budget));
    EXPECT_THAT(Budget::FromJson(budget.ToJson()), IsOkAndHolds(budget));
  }
}

TEST(Budget, OtherJsonIsAnError) {
  EXPECT_THAT(Budget::FromJson("many"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "must be an integer (count) or a float (fraction), got \"many\""));
  for (const char* text : {"null", "true", "[]", "{}", "[1]"}) {
    EXPECT_THAT(Budget::FromJson(*ParseJson(text)), StatusIs(absl::StatusCode::kInvalidArgument))
        << text;
  }
  EXPECT_THAT(Budget::FromJson(*ParseJson("9223372036854775808")),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "must fit in a signed 64-bit integer, got 9223372036854775808"));
}

}  // namespace
}  // namespace sparse_attention
