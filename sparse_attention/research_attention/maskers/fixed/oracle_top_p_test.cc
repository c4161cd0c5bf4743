#include "sparse_attention/research_attention/maskers/fixed/oracle_top_p.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows whose attention mass is proportional to `masses`.
AttentionInputs InputsWithMasses(std::vector<std::vector<float>> masses) {
  for (auto& row : masses) {
    for (float& mass : row) mass = std::log(mass);
  }
  return InputsWithLogits(masses);
}

Json Config(double top_p, const char* rule = "greater", const char* coverage = "residual") {
  return {{"top_p", top_p}, {"threshold_rule", rule}, {"coverage", coverage}};
}

Mask AddTopP(const Json& config, const AttentionInputs& in, const Mask& previous,
             const MaskerOptions& options = {}) {
  const auto mask =
      MakeMasker<OracleTopP>(DumpJson(config), options)->AddMask(in, previous, nullptr);
  SA_CHECK_OK(mask);
  return *mask;
}

std::string FirstRow(const Json& config, const AttentionInputs& in) {
  return MaskRow(AddTopP(config, in, Mask::MakeEmpty(in.mask_shape())), 0, 0, 0);
}

TEST(OracleTopP, KeepsTheFewestKeysThatHoldTheMass) {
  const AttentionInputs in = InputsWithMasses({{.1, .4, .05, .3, .15}, {.9, .02, .02, .02, .04}});
  const auto rows = [&](double top_p) {
    const Mask mask = AddTopP(Config(top_p), in, Mask::MakeEmpty(in.mask_shape()));
    return std::vector<std::string>{MaskRow(mask, 0, 0, 0), MaskRow(mask, 0, 0, 1)};
  };
  // Rows differ in how many keys they need.
  EXPECT_THAT(rows(0.35), ::testing::ElementsAre(".1...", "1...."));
  EXPECT_THAT(rows(0.6), ::testing::ElementsAre(".1.1.", "1...."));
  EXPECT_THAT(rows(0.8), ::testing::ElementsAre(".1.11", "1...."));
  EXPECT_THAT(rows(0.93), ::testing::ElementsAre("11.11", "1...1"));
}

TEST(OracleTopP, IsAShareOfMassAndNotACount) {
  // 0.6 of five keys would be three of them.
  EXPECT_EQ(FirstRow(Config(0.6), InputsWithMasses({{.7, .1, .1, .05, .05}})), "1....");
  EXPECT_EQ(FirstRow(Config(0.8), InputsWithMasses({{.7, .2, .05, .03, .02}})), "11...");
}

TEST(OracleTopP, NoShareKeepsTheMaximumAndItsTies) {
  EXPECT_EQ(FirstRow(Config(0.0), InputsWithLogits({{1, 3, 2, 0}})), ".1..");
  EXPECT_EQ(FirstRow(Config(0.0), InputsWithLogits({{3, 1, 3, 0}})), "1.1.");
  EXPECT_EQ(FirstRow(Config(0.0, "at_least"), InputsWithLogits({{3, 1, 3, 0}})), "1.1.");
}

TEST(OracleTopP, TheWholeShareKeepsEverything) {
  const AttentionInputs in = InputsWithLogits({{1, 3, 2, -50}});
  EXPECT_TRUE(AddTopP(Config(1.0), in, Mask::MakeEmpty(in.mask_shape())).is_full());
  EXPECT_TRUE(AddTopP(Config(1.0, "at_least"), in, MaskFromRows({"s..."})).is_full());
}

TEST(OracleTopP, TiesAtTheThresholdAreAllKept) {
  EXPECT_EQ(FirstRow(Config(0.5), InputsWithLogits({{2, 0, 0, 0, 0, -9}})), "1.....");
  EXPECT_EQ(FirstRow(Config(0.8), InputsWithLogits({{2, 0, 0, 0, 0, -9}})), "11111.");
}

TEST(OracleTopP, TheTwoRulesDifferWhereAPartialSumEqualsTheShare) {
  const AttentionInputs in = InputsWithLogits({{0, -1}});
  const double second = at::tensor({-1.f}).exp().item<float>();
  const double share = 1 / (1 + second);  // of the first key, as float64 sums give it
  EXPECT_EQ(FirstRow(Config(share, "at_least"), in), "1.");
  EXPECT_EQ(FirstRow(Config(share, "greater"), in), "11");
  const double less = std::nextafter(share, 0), more = std::nextafter(share, 1);
  for (const char* rule : {"greater", "at_least"}) {
    EXPECT_EQ(FirstRow(Config(less, rule), in), "1.");
    EXPECT_EQ(FirstRow(Config(more, rule), in), "11");
  }
}

TEST(OracleTopP, CoversTheMassThatIsLeftOrAllMass) {
  const AttentionInputs in = InputsWithMasses({{.4, .3, .2, .1}});
  const Mask previous = MaskFromRows({"s..."});
  const auto row = [&](double top_p, const char* coverage) {
    return MaskRow(AddTopP(Config(top_p, "greater", coverage), in, previous), 0, 0, 0);
  };
  EXPECT_EQ(row(0.6, "residual"), "s11.");  // 0.36 of 0.6: 0.3 is not enough
  EXPECT_EQ(row(0.6, "total"), "s1..");     // 0.4 is held, 0.3 brings 0.7
  EXPECT_EQ(row(0.3, "residual"), "s1..");
  EXPECT_EQ(row(0.3, "total"), "s...");  // 0.4 is enough
  EXPECT_EQ(row(0.95, "total"), "s111");
  const auto of_nothing_held = [&](const char* coverage) {
    return FirstRow(Config(0.6, "greater", coverage), in);
  };
  EXPECT_EQ(of_nothing_held("residual"), "11..");
  EXPECT_EQ(of_nothing_held("total"), "11..");
}

TEST(OracleTopP, HeldKeysDoNotHideWhatIsFarBelowThem) {
  // exp(-200) is 0 in float32: the open keys are measured against their own maximum.
  const AttentionInputs in = InputsWithLogits({{200, 0, -1, -9}});
  const Mask mask = AddTopP(Config(0.9), in, MaskFromRows({"1..."}));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "111.");
  const Mask total = AddTopP(Config(0.9, "greater", "total"), in, MaskFromRows({"1..."}));
  EXPECT_EQ(MaskRow(total, 0, 0, 0), "1...");
}

TEST(OracleTopP, NeverSelectsInvisibleKeysNorCountsTheirMass) {
  AttentionInputs in = InputsWithMasses({{.1, .2, .1, .6}, {.1, .2, .1, .6}});
  in.bias = at::zeros({1, 1, 2, 4});
  in.bias->select(3, 3).fill_(std::numeric_limits<float>::lowest());
  in.bias->select(2, 1).fill_(-kInfinity);
  for (const char* coverage : {"residual", "total"}) {
    const Mask mask =
        AddTopP(Config(0.4, "greater", coverage), in, Mask::MakeEmpty(in.mask_shape()));
    EXPECT_EQ(MaskRow(mask, 0, 0, 0), ".1..") << coverage;
    EXPECT_EQ(MaskRow(mask, 0, 0, 1), "....") << coverage;  // sees no key
  }
}

TEST(OracleTopP, SelectsNothingWhereNoMassIsLeft) {
  AttentionInputs in = InputsWithLogits({{3, 2, 1, 9}});
  in.bias = at::zeros({1, 1, 1, 4});
  in.bias->select(3, 3).fill_(std::numeric_limits<float>::lowest());
  for (const char* coverage : {"residual", "total"}) {
    const Mask mask = AddTopP(Config(0.9, "greater", coverage), in, MaskFromRows({"1s1."}));
    EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1s1.") << coverage;
  }
}

TEST(OracleTopP, NanAndInfinityHoldAllMass) {
  const AttentionInputs in = InputsWithLogits({{1, NAN, 3, kInfinity, 2, -kInfinity}});
  EXPECT_EQ(FirstRow(Config(0.2), in), ".1.1..");
  EXPECT_EQ(FirstRow(Config(0.9, "greater", "total"), in), ".1.1..");
  const Mask group = AddTopP(Config(0.2), in, Mask::MakeEmpty(in.mask_shape()),
                             {.selection = Selection::kKvGroup});
  EXPECT_EQ(MaskRow(group, 0, 0, 0), ".1.1..");
}

TEST(OracleTopP, AGroupReducesTheSharesOfItsHeads) {
  AttentionInputs in = InputsWithMasses({{.7, .1, .1, .1}, {.02, .34, .33, .31}});
  in.q = in.q.transpose(1, 2).contiguous();  // two heads of a group
  const auto rows = [&](const MaskerOptions& options) {
    const Mask mask = AddTopP(Config(0.6), in, Mask::MakeEmpty(in.mask_shape()), options);
    return MaskRow(mask, 0, 0, 0) + " " + MaskRow(mask, 0, 1, 0);
  };
  EXPECT_EQ(rows({}), "1... .11.");
  MaskerOptions group = {.selection = Selection::kKvGroup};
  // .7, .34, .33, .31 of 1.68: the first two hold 0.62 of it
  EXPECT_EQ(rows(group), "11.. 11..");
  // .36, .22, .215, .205: the first two hold 0.58
  group.group_reduce = GroupReduce::kMean;
  EXPECT_EQ(rows(group), "111. 111.");
  group.group_reduce = GroupReduce::kSum;
  EXPECT_EQ(rows(group), "111. 111.");
}

// The definition, checked on random rows: what is kept holds more than the share, and without its
// smallest key it would not.
TEST(OracleTopP, HoldsTheShareAndNoKeyTooMany) {
  const AttentionInputs in = RandomInputs({.batch = 2, .queries = 3, .keys = 200, .dim = 16}, 7);
  const at::Tensor mass = ComputeLogits(in).to(at::kDouble).softmax(-1);
  for (double top_p : {0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99}) {
    const Mask mask = AddTopP(Config(top_p), in, Mask::MakeEmpty(in.mask_shape()));
    const at::Tensor kept = mass.masked_fill(mask.ToActive().logical_not(), 0);
    const at::Tensor smallest = mass.masked_fill(mask.ToActive().logical_not(), 2).amin(-1);
    EXPECT_TRUE(kept.sum(-1).gt(top_p - 1e-6).all().item<bool>()) << top_p;
    EXPECT_TRUE(kept.sum(-1).sub(smallest).le(top_p + 1e-6).all().item<bool>()) << top_p;
  }
}

TEST(OracleTopP, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const Json& json) {
    return OracleTopPDescriptor().create(json, MaskerOptions());
  };
  EXPECT_THAT(create(Json::object()), StatusIs(kInvalid, "oracle_top_p.top_p is required"));
  EXPECT_THAT(create({{"top_p", -0.1}}),
              StatusIs(kInvalid, "oracle_top_p.top_p must be in range [0, 1], got -0.1"));
  EXPECT_THAT(create({{"top_p", 1.1}}),
              StatusIs(kInvalid, "oracle_top_p.top_p must be in range [0, 1], got 1.1"));
  EXPECT_THAT(create({{"top_p", NAN}}),
              StatusIs(kInvalid, "oracle_top_p.top_p must be in range [0, 1], got nan"));
  // An integer would be a count elsewhere.
  EXPECT_THAT(create({{"top_p", 1}}),
              StatusIs(kInvalid, "oracle_top_p.top_p must be a float, got 1"));
  EXPECT_THAT(create({{"top_p", "0.5"}}), StatusIs(kInvalid, HasSubstr("must be a float")));
  EXPECT_THAT(create({{"top_p", 0.5}, {"threshold_rule", "above"}}),
              StatusIs(kInvalid, HasSubstr("oracle_top_p.threshold_rule must be 'greater' or "
                                           "'at_least', got \"above\"")));
  EXPECT_THAT(create({{"top_p", 0.5}, {"coverage", "all"}}),
              StatusIs(kInvalid, HasSubstr("'residual' or 'total'")));
  for (double top_p : {0.0, 0.5, 1.0}) SA_EXPECT_OK(create({{"top_p", top_p}}));
}

}  // namespace
}  // namespace sparse_attention
