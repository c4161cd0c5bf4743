// What every masker promises, checked for every masker that the registry lists. A masker's own test
// holds only what is special about it.
#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/where.h>

#include <limits>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "tests/conformance/masker_cases.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kKeys = 64;

class MaskerConformance : public ::testing::TestWithParam<MaskerCase> {
 protected:
  // With the same draws for every call, also where LibTorch's generator makes them.
  static Mask AddMask(const Masker& masker, const AttentionInputs& in, const Mask& previous) {
    at::manual_seed(3);
    const std::unique_ptr<MaskerState> state = masker.NewState();
    absl::StatusOr<Mask> mask = masker.AddMask(in, previous, state.get());
    SA_EXPECT_OK(mask);
    return mask.ok() ? *std::move(mask) : Mask::MakeEmpty(in.mask_shape());
  }
  static Mask AddMask(const AttentionInputs& in, const Mask& previous,
                      const MaskerOptions& options = {}) {
    return AddMask(*GetParam().Make(options), in, previous);
  }
  static Mask AddMask(const AttentionInputs& in, const MaskerOptions& options = {}) {
    return AddMask(in, Mask::MakeEmpty(in.mask_shape(), in.q.device()), options);
  }
};

// A third of the entries, half of them sampled.
Mask SomeMask(const MaskShape& s, uint64_t seed = 5) {
  const at::Tensor u = RandomTensors(seed).Uniform({s.batch, s.heads, s.queries, s.keys});
  return Mask::AdoptDense(
      at::where(u.lt(1. / 6), 1., at::where(u.lt(1. / 3), 0.375, 0.)).to(at::kFloat));
}

bool SameMask(const Mask& a, const Mask& b) {
  return a.shape() == b.shape() && a.ToDense().equal(b.ToDense());
}

// Bool [queries, keys]: keys after the query's own position.
at::Tensor Future(const AttentionInputs& in) {
  const int64_t first = in.query_position(0);
  return at::arange(in.keys()).gt(at::arange(first, first + in.queries()).unsqueeze(1));
}

AttentionInputs SliceBatch(const AttentionInputs& in, int64_t batch) {
  AttentionInputs part = in;
  part.q = in.q.narrow(0, batch, 1);
  part.k = in.k.narrow(0, batch, 1);
  part.v = in.v.narrow(0, batch, 1);
  return part;
}

TEST_P(MaskerConformance, HasAConfigToTest) {
  ASSERT_FALSE(GetParam().config.empty())
      << "no config of " << GetParam().descriptor->name
      << " follows from its schema: add one to kMoreConfigs in masker_cases.cc";
}

TEST_P(MaskerConformance, SurvivesJson) {
  const std::unique_ptr<Masker> masker = GetParam().Make();
  const Json json = masker->ToJson();
  EXPECT_EQ(json["type"], GetParam().descriptor->name);
  EXPECT_EQ(&masker->descriptor(), GetParam().descriptor);
  for (const auto& [name, value] : GetParam().config.items()) {
    EXPECT_TRUE(JsonEquals(json[name], value)) << name << " is " << json[name];
  }
  SA_ASSERT_OK_AND_ASSIGN(const Json parsed, ParseJson(DumpJson(json)));
  SA_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Masker> again, MaskerFromJson(parsed, {}));
  EXPECT_TRUE(JsonEquals(again->ToJson(), json));
}

TEST_P(MaskerConformance, RefusesFieldsThatItDoesNotHave) {
  Json config = GetParam().config;
  config["no_such_field"] = 1;
  EXPECT_THAT(MaskerFromJson(config, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       StartsWith(std::string(GetParam().descriptor->name) +
                                  " has no field \"no_such_field\"")));
}

TEST_P(MaskerConformance, EveryFieldIsCheckedAndNamed) {
  const std::string name = GetParam().descriptor->name;
  for (const FieldDoc& field : GetParam().descriptor->fields()) {
    SCOPED_TRACE(field.name);
    EXPECT_NE(field.doc, "");
    Json config = GetParam().config;
    config[field.name] = Json::array();
    EXPECT_THAT(MaskerFromJson(config, {}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         StartsWith(name + "." + field.name + " must ")));
    if (!field.required) continue;
    config.erase(field.name);
    EXPECT_THAT(MaskerFromJson(config, {}), StatusIs(absl::StatusCode::kInvalidArgument,
                                                     name + "." + field.name + " is required"));
  }
}

TEST_P(MaskerConformance, TheSameSeedGivesTheSameMask) {
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  in.v.add_(3);  // outputs that are more than noise, of which all keys would be read
  const Mask mask = AddMask(in, {.seed = 7});
  EXPECT_TRUE(SameMask(AddMask(in, {.seed = 7}), mask));
  const bool by_chance = GetParam().descriptor->kind == MaskerKind::kSampling;
  if (!GetParam().like_hub()) {
    EXPECT_EQ(SameMask(AddMask(in, {.seed = 8}), mask), !by_chance);
  }
}

TEST_P(MaskerConformance, WeightsAreProbabilities) {
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  for (const Mask& previous : {Mask::MakeEmpty(in.mask_shape()), SomeMask(in.mask_shape())}) {
    const at::Tensor weights = AddMask(in, previous).ToDense();
    EXPECT_TRUE(weights.ge(0).logical_and(weights.le(1)).all().item<bool>());
  }
}

TEST_P(MaskerConformance, OnlyAdds) {
  AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  in.first_query_position = 40;
  const Mask previous = SomeMask(in.mask_shape());
  const at::Tensor before = previous.ToDense();
  at::Tensor after = AddMask(in, previous).ToDense();
  if (!GetParam().descriptor->only_adds) {
    // The declared exception, and nothing but it: keys after the query are cleared.
    const at::Tensor future = Future(in).expand(after.sizes());
    EXPECT_FALSE(after.masked_select(future).any().item<bool>());
    after = at::where(future, before, after);
  }
  EXPECT_TRUE(after.ge(before).all().item<bool>());
  if (GetParam().chooses()) {
    EXPECT_TRUE(at::where(before.gt(0), after, before).equal(before)) << "a weight was changed";
  }
}

TEST_P(MaskerConformance, FullStaysFull) {
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  EXPECT_TRUE(AddMask(in, Mask::MakeFull(in.mask_shape())).is_full());
}

TEST_P(MaskerConformance, TouchesNeitherInputsNorThePreviousMask) {
  AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  in.bias = RandomTensors(4).Normal({1, 4, 3, kKeys});
  const at::Tensor q = in.q.clone(), k = in.k.clone(), v = in.v.clone(), bias = in.bias->clone();
  const Mask dense = SomeMask(in.mask_shape());
  const Mask::Csr rows = dense.ToCsr();
  const Mask csr = *Mask::FromCsr(dense.shape(), rows.indptr, rows.indices, rows.weights);
  const at::Tensor before = dense.ToDense();
  for (const Mask& previous : {dense, csr}) {
    const Mask mask = AddMask(in, previous);
    EXPECT_TRUE(previous.ToDense().equal(before));
    EXPECT_TRUE(SameMask(mask, AddMask(in, previous)));
  }
  EXPECT_TRUE(in.q.equal(q) && in.k.equal(k) && in.v.equal(v) && in.bias->equal(bias));
}

TEST_P(MaskerConformance, HowThePreviousMaskIsStoredDoesNotMatter) {
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  const Mask dense = SomeMask(in.mask_shape());
  const Mask::Csr rows = dense.ToCsr();
  const Mask csr = *Mask::FromCsr(dense.shape(), rows.indptr, rows.indices, rows.weights);
  EXPECT_TRUE(SameMask(AddMask(in, dense), AddMask(in, csr)));
  if (GetParam().like_hub()) return;  // its empty flag means dense attention
  const Mask empty = Mask::MakeEmpty(in.mask_shape());
  EXPECT_TRUE(SameMask(AddMask(in, empty), AddMask(in, Mask::AdoptDense(empty.ToDense()))));
}

TEST_P(MaskerConformance, StridedInputsGiveTheSameMask) {
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  AttentionInputs strided = in;
  strided.q = in.q.transpose(1, 2).contiguous().transpose(1, 2);
  strided.k = in.k.transpose(1, 2).contiguous().transpose(1, 2);
  strided.v = in.v.transpose(2, 3).contiguous().transpose(2, 3);
  EXPECT_TRUE(SameMask(AddMask(strided), AddMask(in)));
}

TEST_P(MaskerConformance, TakesOddShapes) {
  const TestShape shapes[] = {
      {.queries = 1, .keys = 1},
      {.queries = 1, .keys = 2},
      {.queries = 1, .keys = 3},
      {.heads = 1, .kv_heads = 1, .queries = 1, .keys = kKeys, .dim = 1},
      {.heads = 8, .kv_heads = 2, .queries = 1, .keys = kKeys},
      {.heads = 4, .kv_heads = 4, .queries = 5, .keys = 7},
      {.queries = 6, .keys = 6},
      {.queries = 6, .keys = 2},
      {.keys = 0},
      {.queries = 0},
      {.batch = 0},
      {.heads = 0, .kv_heads = 2},
      {.batch = 3, .heads = 6, .kv_heads = 2, .queries = 2, .keys = 33, .dim = 3},
  };
  for (const TestShape& shape : shapes) {
    for (Selection selection : {Selection::kQueryHead, Selection::kKvGroup}) {
      // The hub's rule has no groups and refuses them when it is made.
      if (GetParam().like_hub() && selection == Selection::kKvGroup) continue;
      AttentionInputs in = LayeredInputs(shape);
      in.causal = true;
      in.first_query_position = std::max<int64_t>(0, shape.keys - shape.queries);
      SCOPED_TRACE(ToString(in.mask_shape()));
      const Mask mask = AddMask(in, {.selection = selection});
      EXPECT_EQ(mask.shape(), in.mask_shape());
      SA_ASSERT_OK_AND_ASSIGN(const AttentionState state, MaskedAttention(in, mask));
      EXPECT_FALSE(state.out.isnan().any().item<bool>());
    }
  }
}

TEST_P(MaskerConformance, ASequenceDoesNotDependOnItsBatch) {
  if (GetParam().like_hub()) GTEST_SKIP() << "the hub draws row after row";
  const AttentionInputs in = LayeredInputs({.batch = 2, .queries = 3, .keys = kKeys});
  const Mask previous = SomeMask(in.mask_shape());
  for (Selection selection : {Selection::kQueryHead, Selection::kKvGroup}) {
    const at::Tensor both = AddMask(in, previous, {.selection = selection}).ToDense();
    for (int64_t b = 0; b < 2; ++b) {
      const Mask part = Mask::AdoptDense(previous.ToDense().narrow(0, b, 1));
      const Mask alone = AddMask(SliceBatch(in, b), part, {.selection = selection});
      EXPECT_TRUE(both.narrow(0, b, 1).equal(alone.ToDense())) << "sequence " << b;
    }
  }
}

TEST_P(MaskerConformance, AQueryDoesNotDependOnThoseBesideIt) {
  if (GetParam().like_hub()) GTEST_SKIP() << "the hub draws row after row";
  if (!GetParam().descriptor->queries_apart)
    GTEST_SKIP() << "the queries of a step choose together";
  // Far more keys than a window and the queries: a shorter sequence is full by the Local rule.
  AttentionInputs in = LayeredInputs({.queries = 4, .keys = kKeys});
  in.causal = true;
  in.first_query_position = 50;
  const Mask previous = SomeMask(in.mask_shape());
  const at::Tensor together = AddMask(in, previous).ToDense();
  for (int64_t i = 0; i < in.queries(); ++i) {
    AttentionInputs one = in;
    one.q = in.q.narrow(2, i, 1);
    one.first_query_position = 50 + i;
    const Mask part = Mask::AdoptDense(previous.ToDense().narrow(2, i, 1));
    EXPECT_TRUE(together.narrow(2, i, 1).equal(AddMask(one, part).ToDense())) << "query " << i;
  }
}

TEST_P(MaskerConformance, AGroupSelectsTheSameNewKeys) {
  if (GetParam().like_hub()) GTEST_SKIP() << "the hub has no groups";
  const AttentionInputs in =
      LayeredInputs({.heads = 8, .kv_heads = 2, .queries = 3, .keys = kKeys});
  const Mask one_head = SomeMask({1, 1, 3, kKeys});
  const Mask shared = Mask::AdoptDense(one_head.ToDense().expand({1, 8, 3, kKeys}));
  for (GroupReduce reduce : {GroupReduce::kMax, GroupReduce::kMean, GroupReduce::kSum}) {
    for (const Mask& previous : {Mask::MakeEmpty(in.mask_shape()), shared}) {
      const at::Tensor weights =
          AddMask(in, previous, {.selection = Selection::kKvGroup, .group_reduce = reduce})
              .ToDense()
              .view({2, 4, 3, kKeys});
      EXPECT_TRUE(weights.eq(weights.narrow(1, 0, 1)).all().item<bool>());
    }
  }
}

TEST_P(MaskerConformance, HeadsThatHoldDifferentKeysKeepTheirWeights) {
  if (!GetParam().chooses()) GTEST_SKIP() << "keeps keys by position";
  const AttentionInputs in =
      LayeredInputs({.heads = 8, .kv_heads = 2, .queries = 3, .keys = kKeys});
  const Mask previous = SomeMask(in.mask_shape());
  const at::Tensor before = previous.ToDense();
  const at::Tensor after = AddMask(in, previous, {.selection = Selection::kKvGroup}).ToDense();
  EXPECT_TRUE(at::where(before.gt(0), after, before).equal(before));
  // A new key of one head is new or held in every head of its group.
  const at::Tensor fresh =
      after.gt(0).logical_and(before.eq(0)).view({2, 4, 3, kKeys}).any(1, true);
  EXPECT_TRUE(
      after.view({2, 4, 3, kKeys}).gt(0).logical_or(fresh.logical_not()).all().item<bool>());
}

TEST_P(MaskerConformance, HalfPrecisionGivesTheMaskOfItsValues) {
  for (at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    const AttentionInputs half = LayeredInputs({.queries = 3, .keys = kKeys}, 1, type);
    AttentionInputs wide = half;
    wide.q = half.q.to(at::kFloat);
    wide.k = half.k.to(at::kFloat);
    wide.v = half.v.to(at::kFloat);
    EXPECT_TRUE(SameMask(AddMask(half), AddMask(wide))) << toString(type);
  }
}

TEST_P(MaskerConformance, NeverSelectsInvisibleKeys) {
  if (!GetParam().chooses()) GTEST_SKIP() << "keeps keys by position, or the hub's rule";
  AttentionInputs in = LayeredInputs({.batch = 2, .queries = 3, .keys = kKeys});
  in.causal = true;
  in.first_query_position = 20;
  in.sliding_window = 15;
  RandomTensors random(6);
  const at::Tensor hidden = random.Uniform({2, 1, 3, kKeys}).lt(0.3);
  in.bias = random.Normal({2, 1, 3, kKeys}).masked_fill(hidden, -kInfinity);
  const Mask previous = SomeMask(in.mask_shape());
  const at::Tensor unseen = VisibleKeys(in)->logical_not().expand({2, 4, 3, kKeys});
  for (Selection selection : {Selection::kQueryHead, Selection::kKvGroup}) {
    const MaskerOptions options = {.selection = selection};
    const at::Tensor fresh = AddMask(in, options).ToActive();
    EXPECT_FALSE(fresh.logical_and(unseen).any().item<bool>());
    EXPECT_TRUE(fresh.any().item<bool>());
    const at::Tensor added = AddMask(in, previous, options).ToDense().ne(previous.ToDense());
    EXPECT_FALSE(added.logical_and(unseen).any().item<bool>());
  }
}

TEST_P(MaskerConformance, OneMaskerServesSeveralThreads) {
  if (GetParam().like_hub()) GTEST_SKIP() << "the hub's draws come from one generator";
  const AttentionInputs in = LayeredInputs({.queries = 3, .keys = kKeys});
  const std::unique_ptr<Masker> masker = GetParam().Make();
  const Mask expected = AddMask(*masker, in, SomeMask(in.mask_shape()));
  std::vector<int> same(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < same.size(); ++t) {
    threads.emplace_back([&, t] {
      const std::unique_ptr<MaskerState> state = masker->NewState();
      const auto mask = masker->AddMask(in, SomeMask(in.mask_shape()), state.get());
      same[t] = mask.ok() && SameMask(*mask, expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(same, ::testing::Each(1));
}

INSTANTIATE_TEST_SUITE_P(AllMaskers, MaskerConformance, ::testing::ValuesIn(AllMaskerCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sparse_attention
