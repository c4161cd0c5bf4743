#include "sparse_attention/research_attention/maskers/fixed/socket_top_k.h"

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/key_index/socket_planes.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

Mask AddSocket(absl::string_view json, const AttentionInputs& in, const Mask& previous,
               MaskerState* state = nullptr) {
  const auto mask = MakeMasker<SocketTopK>(json)->AddMask(in, previous, state);
  SA_CHECK_OK(mask);
  return *mask;
}

Mask AddSocket(absl::string_view json, const AttentionInputs& in) {
  return AddSocket(json, in, Mask::MakeEmpty(in.mask_shape()));
}

// The score by its definition: sum over tables of prod over planes of sigmoid(2 a side) times the
// norm of the value, a = tanh(q . plane) / (sqrt(dim) tau).
TEST(SocketTopK, KeepsTheKeysWithTheHighestScores) {
  const AttentionInputs in = RandomInputs({.queries = 3, .keys = 40});
  const at::Tensor planes = TensorOf(SocketPlanes(5, 4, 8)).to(at::kDouble);
  const at::Tensor mask =
      AddSocket(R"({"heavy_size": 7, "K": 4, "L": 5, "tau": 0.4})", in).ToActive();
  for (int64_t head = 0; head < 4; ++head) {
    const at::Tensor k = in.k[0][head / 2].to(at::kDouble), q = in.q[0][head].to(at::kDouble);
    at::Tensor scores = at::zeros({3, 40}, at::kDouble);
    for (int64_t table = 0; table < 5; ++table) {
      at::Tensor p = at::ones({3, 40}, at::kDouble);
      for (int64_t plane = 0; plane < 4; ++plane) {
        const at::Tensor side = at::matmul(k, planes[table][plane]).ge(0).mul(2).sub(1);
        const at::Tensor a = at::matmul(q, planes[table][plane]).tanh().div(std::sqrt(8.) * 0.4);
        p = p.mul(a.unsqueeze(1).mul(side.unsqueeze(0)).mul(2).sigmoid());
      }
      scores.add_(p);
    }
    scores.mul_(at::linalg_vector_norm(in.v[0][head / 2].to(at::kDouble), 2, {-1}));
    const at::Tensor best = std::get<1>(scores.topk(7, -1));
    at::Tensor expected = at::zeros({3, 40}, at::kBool);
    expected.scatter_(1, best, true);
    EXPECT_TRUE(mask[0][head].equal(expected)) << "head " << head;
  }
}

TEST(SocketTopK, ManyQueriesAndLongTablesGoInPieces) {
  const AttentionInputs in = RandomInputs({.heads = 2, .kv_heads = 1, .queries = 40, .keys = 50});
  const Mask all = AddSocket(R"({"heavy_size": 9, "K": 18, "L": 3})", in);
  for (int64_t query : {0, 17, 39}) {
    AttentionInputs one = in;
    one.q = in.q.narrow(2, query, 1);
    const at::Tensor alone = AddSocket(R"({"heavy_size": 9, "K": 18, "L": 3})", one).ToDense();
    EXPECT_TRUE(all.ToDense().narrow(2, query, 1).equal(alone));
  }
}

TEST(SocketTopK, KeysThatAreHeldTakePlacesOfTheBudget) {
  const AttentionInputs in = RandomInputs({.queries = 1, .keys = 40});
  const char* const json = R"({"heavy_size": 7, "K": 4, "L": 5})";
  const Mask first = AddSocket(json, in);
  EXPECT_TRUE(AddSocket(json, in, first).ToDense().equal(first.ToDense()));
}

TEST(SocketTopK, AValueThatIsNotFiniteCountsAsNone) {
  AttentionInputs in = RandomInputs({.queries = 1, .keys = 40});
  const char* const json = R"({"heavy_size": 7, "K": 4, "L": 5})";
  in.v.select(2, 11).zero_();
  const at::Tensor of_zero = AddSocket(json, in).ToDense();
  for (const double value : {NAN, INFINITY}) {
    in.v.select(2, 11).select(2, 3).fill_(value);
    EXPECT_TRUE(AddSocket(json, in).ToDense().equal(of_zero)) << value;
  }
}

TEST(SocketTopK, AChangedValueIsNoticed) {
  AttentionInputs in = RandomInputs({.queries = 1, .keys = 40});
  const char* const json = R"({"heavy_size": 1, "K": 4, "L": 5})";
  const auto state = MakeMasker<SocketTopK>(json)->NewState();
  AddSocket(json, in, Mask::MakeEmpty(in.mask_shape()), state.get());
  in.v = in.v.clone();
  in.v.select(2, 11).mul_(1000);
  const Mask mask = AddSocket(json, in, Mask::MakeEmpty(in.mask_shape()), state.get());
  EXPECT_TRUE(mask.ToActive().select(3, 11).all().item<bool>());
}

TEST(SocketTopK, IndexBytes) {
  const AttentionInputs in = RandomInputs({.keys = 30});
  const auto bytes = [&](const char* json) { return MakeMasker<SocketTopK>(json)->IndexBytes(in); };
  EXPECT_EQ(bytes(R"({"heavy_size": 1, "K": 8, "L": 60})"), 2 * 30 * (60 + 4));
  EXPECT_EQ(bytes(R"({"heavy_size": 1, "K": 10, "L": 60})"), 2 * 30 * (120 + 4));
}

TEST(SocketTopK, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* json) {
    return SocketTopKDescriptor().create(ParsedJson(json), MaskerOptions());
  };
  EXPECT_THAT(create(R"({"heavy_size": 1, "K": 0})"),
              StatusIs(kInvalid, "socket_top_k.K must be positive, got 0"));
  EXPECT_THAT(create(R"({"heavy_size": 1, "L": 0})"),
              StatusIs(kInvalid, "socket_top_k.L must be positive, got 0"));
  EXPECT_THAT(create(R"({"heavy_size": 1, "tau": 0.0})"),
              StatusIs(kInvalid, "socket_top_k.tau must be positive, got 0.0"));
  EXPECT_THAT(create(R"({"heavy_size": 1, "K": 21})"),
              StatusIs(kInvalid, "socket_top_k: K must be <= 20, got 21"));
}

}  // namespace
}  // namespace sparse_attention
