#include "sparse_attention/research_attention/maskers/sampling/magic_pig.h"

#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

Mask AddPig(absl::string_view json, const AttentionInputs& in, const Mask& previous,
            const MaskerOptions& options = {}, MaskerState* state = nullptr) {
  const auto mask = MakeMasker<MagicPig>(json, options)->AddMask(in, previous, state);
  SA_CHECK_OK(mask);
  return *mask;
}

Mask AddPig(absl::string_view json, const AttentionInputs& in, const MaskerOptions& options = {}) {
  return AddPig(json, in, Mask::MakeEmpty(in.mask_shape()), options);
}

// Mean and standard error of what is added.
class Mean {
 public:
  void Add(double x) {
    ++count_;
    const double delta = x - mean_;
    mean_ += delta / count_;
    squares_ += delta * (x - mean_);
  }
  double mean() const { return mean_; }
  double standard_error() const { return std::sqrt(squares_ / (count_ - 1) / count_); }

 private:
  double count_ = 0, mean_ = 0, squares_ = 0;
};

struct Draws {
  std::vector<Mean> numerators, denominators;  // of each query head
  std::vector<std::vector<int64_t>> chosen;    // how often, [head][key]
  at::Tensor probabilities;                    // float64 [heads, keys], as the masks say
};

// Over many seeds: sums of e / p and e v / p over the sample, for the first channel of the values.
Draws DrawMany(const AttentionInputs& in, const char* json, const Mask& previous, int64_t draws,
               Selection selection = Selection::kQueryHead) {
  const int64_t heads = in.query_heads(), keys = in.keys();
  const at::Tensor e = ComputeLogits(in).exp().to(at::kDouble).view({heads, keys});
  const at::Tensor v =
      in.v.select(3, 0).repeat_interleave(in.group_size(), 1).to(at::kDouble).view({heads, keys});
  Draws result;
  result.numerators.resize(heads);
  result.denominators.resize(heads);
  result.chosen.assign(heads, std::vector<int64_t>(keys, 0));
  result.probabilities = at::zeros({heads, keys}, at::kDouble);
  const double* const e_data = e.const_data_ptr<double>();
  const at::Tensor v_dense = v.contiguous();
  const double* const v_data = v_dense.const_data_ptr<double>();
  for (int64_t draw = 0; draw < draws; ++draw) {
    const at::Tensor weights =
        AddPig(json, in, previous, {.seed = static_cast<uint64_t>(draw), .selection = selection})
            .ToDense()
            .contiguous();
    const float* const w = weights.const_data_ptr<float>();
    for (int64_t head = 0; head < heads; ++head) {
      double numerator = 0, denominator = 0;
      for (int64_t j = head * keys; j < (head + 1) * keys; ++j) {
        if (w[j] == 0) continue;
        denominator += e_data[j] / w[j];
        numerator += e_data[j] * v_data[j] / w[j];
        ++result.chosen[head][j - head * keys];
        result.probabilities.data_ptr<double>()[j] = w[j];
      }
      result.numerators[head].Add(numerator);
      result.denominators[head].Add(denominator);
    }
  }
  return result;
}

AttentionInputs OneQuery(int64_t keys) {
  AttentionInputs in =
      RandomInputs({.heads = 2, .kv_heads = 1, .queries = 1, .keys = keys, .dim = 4}, 3);
  in.v.add_(1);
  return in;
}

void ExpectUnbiased(const AttentionInputs& in, const Draws& draws) {
  const at::Tensor e = ComputeLogits(in).exp().to(at::kDouble).view({2, -1});
  const at::Tensor v = in.v.select(3, 0).view({-1}).to(at::kDouble);
  for (int64_t head = 0; head < 2; ++head) {
    const double denominator = e[head].sum().item<double>();
    const double numerator = e[head].mul(v).sum().item<double>();
    const Mean &d = draws.denominators[head], &n = draws.numerators[head];
    EXPECT_LT(std::abs(d.mean() - denominator), 5 * d.standard_error());
    EXPECT_LT(std::abs(n.mean() - numerator), 5 * n.standard_error());
    // The test would see an error of 1 %.
    EXPECT_LT(5 * d.standard_error(), 0.01 * denominator);
    EXPECT_LT(5 * n.standard_error() / denominator, 0.02);
  }
}

// Keys are drawn as often as their weights say: inside the exact binomial band that all of them
// leave with probability 1e-6 at most.
void ExpectFrequencies(const Draws& draws, int64_t count) {
  const double alarm = 1e-6 / static_cast<double>(draws.probabilities.numel());
  for (size_t head = 0; head < draws.chosen.size(); ++head) {
    for (size_t j = 0; j < draws.chosen[head].size(); ++j) {
      const double p =
          draws.probabilities[static_cast<int64_t>(head)][static_cast<int64_t>(j)].item<double>();
      const boost::math::binomial binomial(static_cast<double>(count), p);
      const double seen = static_cast<double>(draws.chosen[head][j]);
      EXPECT_GE(seen, boost::math::quantile(binomial, alarm / 2)) << head << ", " << j;
      EXPECT_LE(seen, boost::math::quantile(boost::math::complement(binomial, alarm / 2)))
          << head << ", " << j;
    }
  }
}

constexpr char kFourTables[] = R"({"lsh_l": 4, "lsh_k": 2})";

TEST(MagicPig, EstimatesAreUnbiasedAndFrequenciesAreThoseOfTheFormula) {
  constexpr int64_t kDraws = 100000;
  const AttentionInputs in = OneQuery(12);
  const Draws draws = DrawMany(in, kFourTables, Mask::MakeEmpty(in.mask_shape()), kDraws);
  ExpectUnbiased(in, draws);
  ExpectFrequencies(draws, kDraws);
}

TEST(MagicPig, KeysThatAreHeldAndGroupsAndNoCentre) {
  constexpr int64_t kDraws = 20000;
  const AttentionInputs in = OneQuery(12);
  at::Tensor held = at::zeros({1, 2, 1, 12});
  held.narrow(3, 2, 3).fill_(1);
  const Draws draws = DrawMany(in, R"({"lsh_l": 6, "lsh_k": 2, "center": false})",
                               Mask::AdoptDense(held), kDraws, Selection::kKvGroup);
  const at::Tensor e = ComputeLogits(in).exp().to(at::kDouble).view({2, -1});
  for (int64_t head = 0; head < 2; ++head) {
    const Mean& d = draws.denominators[head];
    EXPECT_LT(std::abs(d.mean() - e[head].sum().item<double>()), 5 * d.standard_error());
    for (int64_t j = 2; j < 5; ++j) EXPECT_EQ(draws.chosen[head][j], kDraws);
  }
  ExpectFrequencies(draws, kDraws);
}

TEST(MagicPig, ParallelVectorsAlwaysMeet) {
  AttentionInputs in;
  in.q = at::tensor({2.f, 0.f}).view({1, 1, 1, 2});
  in.k = at::tensor({3.f, 0.f, -3.f, 0.f, 0.f, 1.f}).view({1, 1, 3, 2});
  in.v = in.k;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const at::Tensor weights =
        AddPig(R"({"lsh_l": 2, "lsh_k": 8, "center": false})", in, {.seed = seed}).ToDense();
    EXPECT_EQ(weights[0][0][0][0].item<float>(), 1);
    EXPECT_EQ(weights[0][0][0][1].item<float>(), 0);
  }
}

TEST(MagicPig, BothSeedsChangeTheDraw) {
  const AttentionInputs in = RandomInputs({.queries = 3, .keys = 64});
  const at::Tensor mask = AddPig(R"({"lsh_l": 4, "lsh_k": 3})", in).ToDense();
  EXPECT_FALSE(AddPig(R"({"lsh_l": 4, "lsh_k": 3, "seed": 1})", in).ToDense().equal(mask));
  EXPECT_FALSE(AddPig(R"({"lsh_l": 4, "lsh_k": 3})", in, {.seed = 1}).ToDense().equal(mask));
}

// Step by step as at once, from the same prefix: also where LibTorch's generator moves on.
TEST(MagicPig, AppendedKeysAreHashedLikeOthers) {
  AttentionInputs all = RandomInputs({.batch = 2, .queries = 1, .keys = 90});
  all.k.narrow(2, 70, 20).mul_(0.3);  // within the radius
  const auto masker = MakeMasker<MagicPig>(R"({"lsh_l": 4, "lsh_k": 3})");
  const auto at_once = masker->NewState(), step_by_step = masker->NewState();
  const auto first = [&](int64_t keys, int64_t queries) {
    AttentionInputs in = all;
    in.k = all.k.narrow(2, 0, keys);
    in.v = all.v.narrow(2, 0, keys);
    in.q = all.q.narrow(2, 0, queries);
    return in;
  };
  SA_ASSERT_OK(masker->Prepare(first(70, 0), at_once.get()));
  SA_ASSERT_OK(masker->Prepare(first(70, 0), step_by_step.get()));
  const auto mask_of = [&](int64_t keys, MaskerState* state) {
    const auto mask = masker->AddMask(first(keys, 1), Mask::MakeEmpty({2, 4, 1, keys}), state);
    SA_CHECK_OK(mask);
    return mask->ToDense();
  };
  for (int64_t keys = 71; keys < 90; ++keys) mask_of(keys, step_by_step.get());
  at::manual_seed(99);
  EXPECT_TRUE(mask_of(90, step_by_step.get()).equal(mask_of(90, at_once.get())));
}

// The Python hub's radius grows and leaves the signatures of earlier keys behind; here all keys are
// hashed again.
TEST(MagicPig, AKeyBeyondTheRadiusHasAllKeysHashedAgain) {
  AttentionInputs in = RandomInputs({.queries = 1, .keys = 60});
  AttentionInputs longer = in;
  longer.k = at::cat({in.k, in.k.narrow(2, 0, 1).mul(10)}, 2);
  longer.v = at::cat({in.v, in.v.narrow(2, 0, 1)}, 2);
  for (const char* estimator : {"unbiased", "hub"}) {
    const std::string json =
        std::string(R"({"lsh_l": 4, "lsh_k": 3, "center": false, "estimator": ")") + estimator +
        "\"}";
    const auto state = MakeMasker<MagicPig>(json)->NewState();
    AddPig(json, in, Mask::MakeEmpty(in.mask_shape()), {}, state.get());
    const Mask empty = Mask::MakeEmpty(longer.mask_shape());
    const at::Tensor kept = AddPig(json, longer, empty, {}, state.get()).ToActive();
    const at::Tensor fresh = AddPig(json, longer, empty).ToActive();
    EXPECT_EQ(kept.equal(fresh), std::string(estimator) == "unbiased") << estimator;
  }
}

// Hub: what is visible or held is ignored, and weights add up.
TEST(MagicPig, TheHubIgnoresWhatIsHeldAndVisible) {
  AttentionInputs in = RandomInputs({.queries = 1, .keys = 60});
  in.bias = at::zeros({1, 1, 1, 60});
  in.bias->narrow(3, 0, 30).fill_(-std::numeric_limits<float>::infinity());
  at::Tensor held = at::zeros({1, 4, 1, 60});
  held.narrow(3, 40, 20).fill_(0.25);
  const Mask previous = Mask::AdoptDense(held);
  const char* const hub = R"({"lsh_l": 4, "lsh_k": 3, "estimator": "hub"})";
  const at::Tensor like_hub = AddPig(hub, in, previous).ToDense();
  EXPECT_TRUE(like_hub.narrow(3, 0, 30).gt(0).any().item<bool>());
  EXPECT_TRUE(like_hub.narrow(3, 40, 20).gt(0.25).any().item<bool>());
  const at::Tensor ours = AddPig(R"({"lsh_l": 4, "lsh_k": 3})", in, previous).ToDense();
  EXPECT_FALSE(ours.narrow(3, 0, 30).gt(0).any().item<bool>());
  EXPECT_TRUE(ours.narrow(3, 40, 20).eq(0.25).all().item<bool>());
}

TEST(MagicPig, ADrawOfTheGroupLeavesWhatAHeadHolds) {
  const AttentionInputs in = RandomInputs({.heads = 2, .kv_heads = 1, .queries = 1, .keys = 60});
  at::Tensor held = at::zeros({1, 2, 1, 60});
  held.select(1, 0).fill_(0.25);
  const at::Tensor weights = AddPig(R"({"lsh_l": 4, "lsh_k": 3})", in, Mask::AdoptDense(held),
                                    {.selection = Selection::kKvGroup}, nullptr)
                                 .ToDense();
  EXPECT_TRUE(weights.select(1, 0).eq(0.25).all().item<bool>());
  EXPECT_TRUE(weights.select(1, 1).gt(0).any().item<bool>());
}

TEST(MagicPig, AGroupHashesDirectionsNotLengths) {
  AttentionInputs in = RandomInputs({.heads = 2, .kv_heads = 1, .queries = 1, .keys = 60});
  const MaskerOptions group = {.selection = Selection::kKvGroup};
  const at::Tensor before = AddPig(R"({"lsh_l": 4, "lsh_k": 3})", in, group).ToDense();
  in.q.select(1, 0).mul_(64);
  EXPECT_TRUE(AddPig(R"({"lsh_l": 4, "lsh_k": 3})", in, group).ToDense().equal(before));
}

TEST(MagicPig, IndexBytes) {
  const AttentionInputs in = RandomInputs({.keys = 30});
  const auto bytes = [&](const char* json) { return MakeMasker<MagicPig>(json)->IndexBytes(in); };
  EXPECT_EQ(bytes(R"({"lsh_l": 75, "lsh_k": 10})"), 2 * 30 * 150);
  EXPECT_EQ(bytes(R"({"lsh_l": 75, "lsh_k": 8})"), 2 * 30 * 75);
}

TEST(MagicPig, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* json, Selection selection = Selection::kQueryHead) {
    return MagicPigDescriptor().create(ParsedJson(json), {.selection = selection});
  };
  EXPECT_THAT(create(R"({"lsh_l": 0, "lsh_k": 1})"),
              StatusIs(kInvalid, "magic_pig.lsh_l must be positive, got 0"));
  EXPECT_THAT(create(R"({"lsh_l": 1, "lsh_k": 0})"),
              StatusIs(kInvalid, "magic_pig.lsh_k must be positive, got 0"));
  EXPECT_THAT(create(R"({"lsh_l": 1, "lsh_k": 65})"),
              StatusIs(kInvalid, "magic_pig: lsh_k must be <= 64, got 65"));
  EXPECT_THAT(create(R"({"lsh_l": 1, "lsh_k": 1, "packing": "int8"})"),
              StatusIs(kInvalid, "magic_pig.packing must be 'int64' or 'float32', got \"int8\""));
  EXPECT_THAT(create(R"({"lsh_l": 1, "lsh_k": 1, "estimator": "hub"})", Selection::kKvGroup),
              StatusIs(kInvalid));
}

}  // namespace
}  // namespace sparse_attention
