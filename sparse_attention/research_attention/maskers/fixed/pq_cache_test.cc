#include "sparse_attention/research_attention/maskers/fixed/pq_cache.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::string Config(int64_t heavy, int64_t init_offset = 0, int64_t bits = 3,
                   const char* metric = "euclidean") {
  return DumpJson({{"heavy_size", heavy},
                   {"pq_group_factor", 2},
                   {"pq_bits", bits},
                   {"kmeans_iter", 10},
                   {"init_offset", init_offset},
                   {"metric", metric}});
}

Mask AddPq(const std::string& json, const AttentionInputs& in, MaskerState* state = nullptr) {
  const auto mask = MakeMasker<PqCache>(json)->AddMask(in, Mask::MakeEmpty(in.mask_shape()), state);
  SA_CHECK_OK(mask);
  return *mask;
}

// With no more distinct keys than centroids the reconstruction is exact.
TEST(PqCache, WithAnExactCodebookItIsTheOracle) {
  const AttentionInputs few = RandomInputs({.queries = 3, .keys = 8});
  AttentionInputs in = few;
  in.k = at::cat({few.k, few.k, few.k, few.k}, 2);
  in.v = at::cat({few.v, few.v, few.v, few.v}, 2);
  for (const char* metric : {"euclidean", "ip"}) {
    const Mask mask = AddPq(Config(8, 0, 3, metric), in);
    const auto oracle = MakeMasker<OracleTopK>(R"({"heavy_size": 8})")
                            ->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
    SA_ASSERT_OK(oracle.status());
    EXPECT_TRUE(mask.ToDense().equal(oracle->ToDense())) << metric;
  }
}

TEST(PqCache, LeadingKeysAreNoCandidates) {
  const AttentionInputs in = RandomInputs({.queries = 2, .keys = 60});
  const at::Tensor active = AddPq(Config(10, 20), in).ToActive();
  EXPECT_FALSE(active.narrow(3, 0, 20).any().item<bool>());
  EXPECT_TRUE(active.sum(-1).eq(10).all().item<bool>());
}

TEST(PqCache, IsFullWhereThereIsLittleToQuantise) {
  // heavy 4 + offset 3 + 2 queries + 8 centroids = 17
  EXPECT_TRUE(AddPq(Config(4, 3), RandomInputs({.queries = 2, .keys = 17})).is_full());
  EXPECT_FALSE(AddPq(Config(4, 3), RandomInputs({.queries = 2, .keys = 18})).is_full());
  EXPECT_TRUE(AddPq(Config(1000000), RandomInputs({.queries = 2, .keys = 18})).is_full());
}

// The codebook of what was prepared serves later keys: what is selected does not depend on the step
// in which they came.
TEST(PqCache, PreparedCodebooksAreKept) {
  const AttentionInputs all = RandomInputs({.queries = 1, .keys = 90});
  const auto first = [&](int64_t keys, int64_t queries = 1) {
    AttentionInputs in = all;
    in.k = all.k.narrow(2, 0, keys);
    in.v = all.v.narrow(2, 0, keys);
    in.q = all.q.narrow(2, 0, queries);
    return in;
  };
  const auto masker = MakeMasker<PqCache>(Config(6));
  const auto at_once = masker->NewState(), step_by_step = masker->NewState();
  SA_ASSERT_OK(masker->Prepare(first(70, 0), at_once.get()));
  SA_ASSERT_OK(masker->Prepare(first(70, 0), step_by_step.get()));
  const auto mask_of = [&](int64_t keys, MaskerState* state) {
    const auto mask = masker->AddMask(first(keys), Mask::MakeEmpty({1, 4, 1, keys}), state);
    SA_CHECK_OK(mask);
    return mask->ToDense();
  };
  for (int64_t keys = 71; keys < 90; keys += 3) mask_of(keys, step_by_step.get());
  EXPECT_TRUE(mask_of(90, step_by_step.get()).equal(mask_of(90, at_once.get())));
  // Another answer to the same context.
  step_by_step->Rewind();
  AttentionInputs other = first(80);
  other.k = at::cat({all.k.narrow(2, 0, 70), all.k.narrow(2, 0, 10).mul(2)}, 2);
  const auto again = masker->AddMask(other, Mask::MakeEmpty({1, 4, 1, 80}), step_by_step.get());
  const auto fresh = masker->NewState();
  SA_ASSERT_OK(masker->Prepare(first(70, 0), fresh.get()));
  const auto expected = masker->AddMask(other, Mask::MakeEmpty({1, 4, 1, 80}), fresh.get());
  SA_ASSERT_OK(again.status());
  SA_ASSERT_OK(expected.status());
  EXPECT_TRUE(again->ToDense().equal(expected->ToDense()));
}

// A codebook that was trained again, on keys behind the prepared ones, does not outlive them.
TEST(PqCache, RewindForgetsACodebookOfLaterKeys) {
  const AttentionInputs all = RandomInputs({.queries = 1, .keys = 90});
  AttentionInputs context = all;
  context.k = all.k.narrow(2, 0, 30);
  context.v = all.v.narrow(2, 0, 30);
  context.q = all.q.narrow(2, 0, 0);
  const auto masker = MakeMasker<PqCache>(Config(6));
  const auto state = masker->NewState(), fresh = masker->NewState();
  SA_ASSERT_OK(masker->Prepare(context, state.get()));
  SA_ASSERT_OK(masker->AddMask(all, Mask::MakeEmpty(all.mask_shape()), state.get()).status());
  state->Rewind();
  AttentionInputs next = all;
  next.k = all.k.narrow(2, 0, 40);
  next.v = all.v.narrow(2, 0, 40);
  for (MaskerState* s : {state.get(), fresh.get()}) SA_ASSERT_OK(masker->Prepare(context, s));
  const auto a = masker->AddMask(next, Mask::MakeEmpty(next.mask_shape()), state.get());
  const auto b = masker->AddMask(next, Mask::MakeEmpty(next.mask_shape()), fresh.get());
  SA_ASSERT_OK(a.status());
  SA_ASSERT_OK(b.status());
  EXPECT_TRUE(a->ToDense().equal(b->ToDense()));
}

// Prepared with no more keys than centroids: the first step trains.
TEST(PqCache, TooFewKeysArePreparedForNothing) {
  const AttentionInputs all = RandomInputs({.queries = 4, .keys = 17});
  AttentionInputs context = all;
  context.k = all.k.narrow(2, 0, 11);
  context.v = all.v.narrow(2, 0, 11);
  context.q = all.q.narrow(2, 0, 0);
  const std::string json = Config(1, 3);  // behind the offset 8 keys, as many as centroids
  const auto state = MakeMasker<PqCache>(json)->NewState();
  SA_ASSERT_OK(MakeMasker<PqCache>(json)->Prepare(context, state.get()));
  EXPECT_TRUE(AddPq(json, all, state.get()).ToDense().equal(AddPq(json, all).ToDense()));
}

TEST(PqCache, AChangedKeyHasTheCodebookTrainedAgain) {
  AttentionInputs in = RandomInputs({.queries = 20, .keys = 90});
  const std::string json = Config(6, 40);
  const auto state = MakeMasker<PqCache>(json)->NewState();
  AddPq(json, in, state.get());
  in.k = in.k.clone();
  in.k.narrow(2, 60, 20).mul_(-3);  // of the keys that it was trained on, 40 to 89
  EXPECT_TRUE(AddPq(json, in, state.get()).ToDense().equal(AddPq(json, in).ToDense()));
}

TEST(PqCache, SeedsOfItsOwn) {
  const AttentionInputs in = RandomInputs({.queries = 3, .keys = 90});
  const std::string json = Config(20);
  Json other = ParsedJson(json);
  other["seed"] = 7;
  EXPECT_FALSE(AddPq(json, in).ToDense().equal(AddPq(DumpJson(other), in).ToDense()));
}

TEST(PqCache, ABiasCountsAgainstScaledProducts) {
  std::vector<float> logits(60, 0.f);
  logits[7] = 10;
  AttentionInputs in = InputsWithLogits({logits});
  in.bias = at::zeros({1, 1, 1, 60});
  in.bias->select(3, 33).fill_(5);
  EXPECT_EQ(ActiveKeys(AddPq(Config(1), in), 0, 0, 0), std::vector<int64_t>{7});
  in.scale = 0.25;  // 2.5 against 5
  EXPECT_EQ(ActiveKeys(AddPq(Config(1), in), 0, 0, 0), std::vector<int64_t>{33});
}

TEST(PqCache, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* field, const Json& value) {
    Json json = ParsedJson(Config(4));
    json[field] = value;
    return PqCacheDescriptor().create(json, MaskerOptions());
  };
  EXPECT_THAT(create("pq_group_factor", 0),
              StatusIs(kInvalid, "pq_cache.pq_group_factor must be > 0, got 0"));
  EXPECT_THAT(create("pq_bits", 0), StatusIs(kInvalid, "pq_cache.pq_bits must be > 0, got 0"));
  EXPECT_THAT(create("pq_bits", 17), StatusIs(kInvalid, "pq_cache: pq_bits must be <= 16, got 17"));
  EXPECT_THAT(create("kmeans_iter", 0),
              StatusIs(kInvalid, "pq_cache.kmeans_iter must be > 0, got 0"));
  EXPECT_THAT(create("init_offset", -1),
              StatusIs(kInvalid, "pq_cache.init_offset must be >= 0, got -1"));
  EXPECT_THAT(create("metric", "cosine"),
              StatusIs(kInvalid, "pq_cache.metric must be 'euclidean' or 'ip', got \"cosine\""));
}

}  // namespace
}  // namespace sparse_attention
