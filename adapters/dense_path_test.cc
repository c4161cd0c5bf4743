#include "adapters/dense_path.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

struct Case {
  const char* name;
  int64_t queries;
  int64_t keys;
  bool causal = true;
  std::optional<int64_t> window = {};
  std::optional<int64_t> first = {};
  int64_t value_dim = 16;
};

class DensePathTest : public ::testing::TestWithParam<Case> {
 protected:
  AttentionInputs Make(at::ScalarType type) {
    const Case& c = GetParam();
    AttentionInputs in;
    in.q = random_.Normal({2, 6, c.queries, 16}, type);
    // Views of a longer cache, as a host model hands them over.
    in.k = random_.Normal({2, 2, c.keys + 7, 16}, type).narrow(2, 0, c.keys);
    in.v = random_.Normal({2, 2, c.keys + 7, c.value_dim}, type).narrow(2, 0, c.keys);
    in.causal = c.causal;
    in.sliding_window = c.window;
    in.first_query_position = c.first;
    return in;
  }

  RandomTensors random_{91};
};

TEST_P(DensePathTest, EqualsTheDefinition) {
  const AttentionInputs in = Make(at::kFloat);
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState expected, DenseAttention(in));
  // A softmax over up to 300 keys of logits around 1, then a weighted sum.
  EXPECT_THAT(FastDenseAttention(in),
              IsOkAndHolds(TensorNear(expected.out, {.relative_eps = 8, .absolute_eps = 32})));
}

TEST_P(DensePathTest, EqualsTheDefinitionInBfloat16) {
  const AttentionInputs in = Make(at::kBFloat16);
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState expected, DenseAttention(in));
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor out, FastDenseAttention(in));
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
  EXPECT_THAT(out, TensorNear(expected.out, {.relative_eps = 2, .absolute_eps = 2}));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, DensePathTest,
    ::testing::Values(
        Case{"one_query", 1, 300}, Case{"one_query_in_the_middle", 1, 300, true, {}, 40},
        Case{"one_query_window", 1, 300, true, 33}, Case{"square", 70, 70},
        Case{"first_of_more_keys", 70, 90, true, {}, 0}, Case{"after_a_past", 37, 300},
        Case{"in_the_middle", 37, 300, true, {}, 100}, Case{"window", 70, 70, true, 20},
        Case{"window_after_a_past", 37, 300, true, 64}, Case{"window_of_one", 37, 300, true, 1},
        Case{"window_without_causality", 37, 300, false, 64}, Case{"all_keys", 37, 300, false},
        Case{"more_queries_than_keys", 37, 20, false},
        Case{"queries_beyond_the_keys", 37, 20, true, {}, 0},
        Case{"value_dim", 37, 300, true, {}, {}, 24}, Case{"one_key", 1, 1},
        Case{"no_queries", 0, 20}, Case{"no_keys", 3, 0, false}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(DensePath, WhatFusedKernelsCannotExpressGoesThroughTheDefinition) {
  RandomTensors random(5);
  AttentionInputs in;
  in.q = random.Normal({1, 4, 9, 8});
  in.k = random.Normal({1, 2, 30, 8});
  in.v = random.Normal({1, 2, 30, 8});
  in.causal = true;
  in.softcap = 2.0;
  in.bias = random.Normal({1, 4, 9, 30});
  in.sink_logits = random.Normal({4});
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState expected, DenseAttention(in));
  EXPECT_THAT(FastDenseAttention(in), IsOkAndHolds(TensorEquals(expected.out)));
}

TEST(DensePath, ManyQueriesThroughTheDefinitionComeInPieces) {
  RandomTensors random(6);
  AttentionInputs in;
  // 4 heads x 3000 keys x 4 bytes: 1398 rows a piece.
  in.q = random.Normal({1, 4, 1500, 4});
  in.k = random.Normal({1, 1, 3000, 4});
  in.v = random.Normal({1, 1, 3000, 4});
  in.causal = true;
  in.softcap = 2.0;
  in.bias = random.Normal({1, 1, 1500, 3000});
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState expected, DenseAttention(in));
  EXPECT_THAT(FastDenseAttention(in),
              IsOkAndHolds(TensorNear(expected.out, {.relative_eps = 4, .absolute_eps = 8})));
}

TEST(DensePath, PositiveAndNegativeScales) {
  RandomTensors random(7);
  AttentionInputs in;
  in.q = random.Normal({1, 4, 9, 8});
  in.k = random.Normal({1, 2, 30, 8});
  in.v = random.Normal({1, 2, 30, 8});
  in.causal = true;
  for (double scale : {0.01, -0.7}) {
    in.scale = scale;
    SA_ASSERT_OK_AND_ASSIGN(const AttentionState expected, DenseAttention(in));
    EXPECT_THAT(FastDenseAttention(in),
                IsOkAndHolds(TensorNear(expected.out, {.relative_eps = 8, .absolute_eps = 32})))
        << scale;
  }
}

TEST(DensePath, RefusesBadInputs) {
  AttentionInputs in;
  EXPECT_THAT(FastDenseAttention(in), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("q")));
}

}  // namespace
}  // namespace sparse_attention
