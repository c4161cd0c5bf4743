#include "sparse_attention/efficient_attention/decode.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/reference_attention.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/efficient_attention/cpu/part_keys.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

// A random step, and the mask [batch, query heads, 1, keys] that its lists and lengths stand for.
struct Problem {
  AttentionInputs in;
  ChosenKeys chosen;
  at::Tensor weights;
};

enum class Form { kDense, kByHead, kByGroup, kFlatByHead, kFlatByGroup };

// Rows in one piece of memory with other rows between them.
at::Tensor Spread(const at::Tensor& x) {
  return at::cat({x, at::full_like(x, kNan)}, 3).narrow(3, 0, x.size(3));
}

// Up to four ranges a sequence, also empty ones and ones that touch. Returns which keys lie in
// none.
std::vector<std::vector<bool>> ChooseRanges(RandomTensors& random,
                                            const std::vector<int64_t>& lengths, Problem& problem) {
  const int64_t count = random.Integer(0, 4);
  std::vector<int64_t> ends;
  std::vector<std::vector<bool>> open;
  for (size_t s = 0; s < lengths.size(); ++s) {
    open.emplace_back(lengths[s], true);
    std::vector<int64_t> its;
    for (int64_t i = 0; i < 2 * count; ++i) its.push_back(random.Integer(0, lengths[s]));
    std::sort(its.begin(), its.end());
    for (int64_t i = 0; i < 2 * count; i += 2) {
      std::fill(open[s].begin() + its[i], open[s].begin() + its[i + 1], false);
      problem.weights[static_cast<int64_t>(s)].slice(2, its[i], its[i + 1]).fill_(1);
    }
    ends.insert(ends.end(), its.begin(), its.end());
  }
  problem.chosen.ranges = at::tensor(ends, random.Chance(0.5) ? at::kInt : at::kLong)
                              .view({static_cast<int64_t>(lengths.size()), count, 2});
  return open;
}

Problem MakeProblem(RandomTensors& random, at::ScalarType type, Form form, int64_t most_keys) {
  Problem problem;
  const int64_t batch = random.Integer(1, 3), kv = random.Integer(1, 3);
  const int64_t group = random.OneOf<int64_t>({1, 2, 4, 8, 16}), heads = kv * group;
  const int64_t dim = random.OneOf<int64_t>({1, 16, 20, 64, 128});
  const int64_t value_dim = random.Chance(0.5) ? dim : random.OneOf<int64_t>({1, 8, 96});
  const int64_t keys = random.Integer(1, most_keys);
  AttentionInputs& in = problem.in;
  in.q = random.Normal({batch, heads, 1, dim}, type);
  in.k = random.Normal({batch, kv, keys, dim}, type);
  in.v = random.Normal({batch, kv, keys, value_dim}, type);
  if (random.Chance(0.3)) in.q = Spread(in.q);
  if (random.Chance(0.3)) in.k = Spread(in.k);
  if (random.Chance(0.3)) in.v = in.v.transpose(1, 2).contiguous().transpose(1, 2);
  if (random.Chance(0.2)) in.v = in.v.transpose(2, 3).contiguous().transpose(2, 3);
  if (random.Chance(0.3)) in.scale = random.Real(-0.5, 0.5);
  if (random.Chance(0.3)) in.softcap = random.Real(1, 30);
  if (random.Chance(0.3)) in.sink_logits = random.Normal({heads}, at::kFloat);

  std::vector<int64_t> lengths(static_cast<size_t>(batch), keys);
  if (random.Chance(0.5)) {
    for (int64_t& length : lengths) length = random.Integer(0, keys);
    problem.chosen.lengths = at::tensor(lengths, at::kLong);
    if (random.Chance(0.5)) problem.chosen.lengths = problem.chosen.lengths->to(at::kInt);
  }
  problem.weights = at::zeros({batch, heads, 1, keys});
  std::vector<std::vector<bool>> open;
  for (const int64_t length : lengths) open.emplace_back(length, true);
  const bool with_ranges = random.Chance(0.5);
  if (with_ranges) open = ChooseRanges(random, lengths, problem);
  if (form == Form::kDense) {
    if (with_ranges) return problem;
    for (int64_t s = 0; s < batch; ++s) problem.weights[s].narrow(2, 0, lengths[s]).fill_(1);
    return problem;
  }
  const bool by_group = form == Form::kByGroup || form == Form::kFlatByGroup;
  const bool flat = form == Form::kFlatByHead || form == Form::kFlatByGroup;
  const bool weighted = random.Chance(0.6);
  const int64_t lists = by_group ? kv : heads;
  std::vector<int64_t> left;
  for (const auto& its : open) left.push_back(std::count(its.begin(), its.end(), true));
  const int64_t n = random.Integer(0, *std::min_element(left.begin(), left.end()));
  std::vector<int64_t> indices, offsets = {0};
  std::vector<double> inverse;
  for (int64_t s = 0; s < batch; ++s) {
    for (int64_t h = 0; h < lists; ++h) {
      int64_t wanted = flat ? random.Integer(0, left[s]) : n, rest = left[s];
      for (int64_t j = 0; j < lengths[s] && wanted > 0; ++j) {
        if (!open[s][j]) continue;
        // Every subset is equally likely.
        if (random.Integer(0, --rest) >= wanted) continue;
        --wanted;
        const double weight = weighted ? std::exp2(random.Integer(0, 6)) : 1;
        indices.push_back(j);
        inverse.push_back(weight);
        const int64_t per_list = heads / lists;
        problem.weights[s].narrow(0, h * per_list, per_list).select(2, j).fill_(1 / weight);
      }
      offsets.push_back(static_cast<int64_t>(indices.size()));
    }
  }
  at::Tensor all = at::tensor(indices, at::kLong);
  at::Tensor of_all = at::tensor(inverse, at::kDouble);
  if (flat) {
    // Room that is not read.
    all = at::cat({all, at::full({3}, -7, at::kLong)});
    of_all = at::cat({of_all, at::full({3}, kNan, at::kDouble)});
    problem.chosen.offsets = at::tensor(offsets, at::kLong);
  } else {
    all = all.view({batch, lists, n});
    of_all = of_all.view({batch, lists, n});
  }
  problem.chosen.indices = random.Chance(0.5) ? all.to(at::kInt) : all;
  if (weighted) {
    problem.chosen.inverse_probabilities =
        of_all.to(random.OneOf<at::ScalarType>({at::kDouble, at::kFloat, at::kHalf}));
  }
  return problem;
}

// As masked_attention_test has it for float32 sums; the output is rounded to its type once more.
void ExpectNearReference(const DecodeResult& result, const Problem& problem) {
  const AttentionInputs& in = problem.in;
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, Mask::FromDense(problem.weights));
  SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference, ReferenceAttention(in, mask));
  const at::Tensor q = in.q.to(at::kDouble).abs(), k = in.k.to(at::kDouble).abs();
  const double logit =
      at::matmul(q, k.repeat_interleave(in.group_size(), 1).transpose(2, 3)).max().item<double>() *
      std::abs(in.effective_scale());
  const double eps =
      2 * static_cast<double>(in.dim() + 6) * (11 + logit) + static_cast<double>(in.keys());
  const double largest = in.v.to(at::kDouble).abs().max().item<double>();
  const double unit = std::numeric_limits<float>::epsilon();
  const at::Tensor error = result.out.to(at::kDouble).sub(reference.out).abs();
  const double rounding = in.q.scalar_type() == at::kFloat  ? unit
                          : in.q.scalar_type() == at::kHalf ? 0x1p-10
                                                            : 0x1p-7;
  const at::Tensor allowed = reference.out.abs().mul(rounding).add(unit * eps * largest + 0x1p-24);
  EXPECT_TRUE(error.le(allowed).all().item<bool>())
      << "largest error " << error.max().item<double>();
  EXPECT_THAT(result.lse,
              TensorNear(reference.lse, {.relative_eps = 2, .absolute_eps = eps, .magnitude = 1}));
  EXPECT_EQ(result.out.scalar_type(), in.q.scalar_type());
  EXPECT_EQ(result.lse.scalar_type(), at::kFloat);
}

class DecodeOfType : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, DecodeOfType,
                         ::testing::Values(at::kFloat, at::kHalf, at::kBFloat16),
                         [](const auto& info) { return std::string(toString(info.param)); });

TEST_P(DecodeOfType, IsMaskedAttention) {
  for (const Form form :
       {Form::kDense, Form::kByHead, Form::kByGroup, Form::kFlatByHead, Form::kFlatByGroup}) {
    for (uint64_t seed = 0; seed < 25; ++seed) {
      SCOPED_TRACE("form " + std::to_string(static_cast<int>(form)) + ", seed " +
                   std::to_string(seed));
      RandomTensors random(seed);
      const Problem problem = MakeProblem(random, GetParam(), form, seed % 5 == 0 ? 3000 : 150);
      SA_ASSERT_OK_AND_ASSIGN(const DecodeResult result, Decode(problem.in, problem.chosen));
      ExpectNearReference(result, problem);
    }
  }
}

// Several parts; bits do not depend on threads, nor on what else is in the batch.
TEST(Decode, BitsDependOnNeitherThreadsNorBatch) {
  const int threads = at::get_num_threads();
  RandomTensors random(5);
  Problem problem;
  const int64_t keys = 3 * cpu::kPartKeys + 100;
  AttentionInputs& in = problem.in;
  in.q = random.Normal({2, 4, 1, 16});
  in.k = random.Normal({2, 2, keys, 16});
  in.v = random.Normal({2, 2, keys, 16});
  problem.weights = at::zeros({2, 4, 1, keys});
  problem.weights.slice(3, 0, std::nullopt, 2).fill_(1);
  const at::Tensor even =
      at::cat({at::arange(0, cpu::kPartKeys, 2), at::arange(cpu::kPartKeys + 2, keys, 2)})
          .expand({2, 4, -1});
  // Across the border of two parts, and the last key.
  const at::Tensor ranges =
      at::tensor({cpu::kPartKeys - 1, cpu::kPartKeys + 2, keys - 1, keys}, at::kLong)
          .view({1, 2, 2})
          .expand({2, -1, -1});
  for (const bool dense : {false, true}) {
    problem.chosen = {};
    if (dense) problem.weights.fill_(1);
    if (!dense) {
      problem.chosen.indices = even;
      problem.chosen.ranges = ranges;
      for (const int64_t key : {cpu::kPartKeys - 1, cpu::kPartKeys + 1, keys - 1}) {
        problem.weights.select(3, key).fill_(1);
      }
    }
    at::set_num_threads(1);
    SA_ASSERT_OK_AND_ASSIGN(const DecodeResult one, Decode(in, problem.chosen));
    ExpectNearReference(one, problem);
    at::set_num_threads(3);
    SA_ASSERT_OK_AND_ASSIGN(const DecodeResult three, Decode(in, problem.chosen));
    at::set_num_threads(threads);
    EXPECT_TRUE(one.out.equal(three.out) && one.lse.equal(three.lse));
    AttentionInputs second;
    second.q = in.q.narrow(0, 1, 1);
    second.k = in.k.narrow(0, 1, 1);
    second.v = in.v.narrow(0, 1, 1);
    ChosenKeys its = problem.chosen;
    if (!dense) {
      its.indices = even.narrow(0, 1, 1);
      its.ranges = ranges.narrow(0, 1, 1);
    }
    SA_ASSERT_OK_AND_ASSIGN(const DecodeResult alone, Decode(second, its));
    EXPECT_TRUE(alone.out.equal(one.out.narrow(0, 1, 1)));
  }
}

double Seconds(clockid_t clock) {
  timespec time;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// The share of the work that threads other than the caller's did.
double ShareOfOthers(const auto& work) {
  const int threads = at::get_num_threads();
  at::set_num_threads(4);
  const double all = Seconds(CLOCK_PROCESS_CPUTIME_ID), own = Seconds(CLOCK_THREAD_CPUTIME_ID);
  work();
  const double used = Seconds(CLOCK_PROCESS_CPUTIME_ID) - all;
  const double by_caller = Seconds(CLOCK_THREAD_CPUTIME_ID) - own;
  at::set_num_threads(threads);
  return 1 - by_caller / used;
}

// Each of four threads does about a quarter, however few cores there are.
TEST(Decode, WorksInSeveralThreads) {
  RandomTensors random(6);
  AttentionInputs in;
  in.q = random.Normal({1, 16, 1, 256});
  in.k = random.Normal({1, 1, 8 * cpu::kPartKeys, 256});
  in.v = in.k;
  EXPECT_GT(ShareOfOthers([&] { SA_EXPECT_OK(Decode(in, {})); }), 0.4);
  const at::Tensor scores = random.Normal({32, 1 << 18});
  EXPECT_GT(ShareOfOthers([&] { SA_EXPECT_OK(ExactTopK(scores, 1 << 17)); }), 0.4);
}

TEST(Decode, EdgeContract) {
  RandomTensors random(9);
  AttentionInputs in;
  in.q = random.Normal({1, 2, 1, 8});
  in.k = random.Normal({1, 1, 6, 8});
  in.v = random.Normal({1, 1, 6, 8});
  // NaN in keys that are not chosen, or beyond the length.
  in.k[0][0][3].fill_(kNan);
  in.v[0][0][3].fill_(kInf);
  in.k[0][0][5].fill_(kNan);
  const at::Tensor lists = at::tensor({1, 0, 4}, at::kLong);  // head 0: key 1; head 1: keys 0, 4
  ChosenKeys chosen;
  chosen.lengths = at::tensor({5}, at::kLong);
  chosen.indices = lists;
  chosen.offsets = at::tensor({0, 1, 3}, at::kLong);
  SA_ASSERT_OK_AND_ASSIGN(DecodeResult result, Decode(in, chosen));
  EXPECT_TRUE(result.out[0][0][0].equal(in.v[0][0][1]));  // bit for bit
  EXPECT_TRUE(result.out.isfinite().all().item<bool>());
  // A chosen NaN shows in its row alone.
  chosen.indices = at::tensor({1, 0, 3}, at::kLong);
  SA_ASSERT_OK_AND_ASSIGN(result, Decode(in, chosen));
  EXPECT_TRUE(result.out[0][0].isfinite().all().item<bool>());
  EXPECT_TRUE(result.out[0][1].isnan().all().item<bool>());
  // No keys: 0 and -inf, or the sink.
  chosen.offsets = at::tensor({0, 0, 0}, at::kLong);
  SA_ASSERT_OK_AND_ASSIGN(result, Decode(in, chosen));
  EXPECT_TRUE(result.out.eq(0).all().item<bool>());
  EXPECT_TRUE(result.lse.eq(-kInf).all().item<bool>());
  in.sink_logits = at::tensor({0.5, -1.5}, at::kFloat);
  SA_ASSERT_OK_AND_ASSIGN(result, Decode(in, chosen));
  EXPECT_TRUE(result.out.eq(0).all().item<bool>());
  EXPECT_TRUE(result.lse.flatten().equal(*in.sink_logits));
}

TEST(Decode, ShapesWithoutElements) {
  for (const std::vector<int64_t>& s :
       {std::vector<int64_t>{0, 4, 2, 5}, {2, 0, 2, 5}, {2, 4, 2, 0}}) {
    AttentionInputs in;
    in.q = at::zeros({s[0], s[1], 1, 8});
    in.k = at::zeros({s[0], s[2], s[3], 8});
    in.v = at::zeros({s[0], s[2], s[3], 6});
    ChosenKeys listed;
    listed.indices = at::zeros({s[0], s[1], 0}, at::kLong);
    for (const ChosenKeys& chosen : {ChosenKeys(), listed}) {
      SA_ASSERT_OK_AND_ASSIGN(const DecodeResult result, Decode(in, chosen));
      EXPECT_EQ(result.out.sizes(), (std::vector<int64_t>{s[0], s[1], 1, 6}));
      EXPECT_EQ(result.lse.sizes(), (std::vector<int64_t>{s[0], s[1], 1}));
      EXPECT_TRUE(result.out.eq(0).all().item<bool>());
    }
  }
}

AttentionInputs SmallInputs() {
  RandomTensors random(11);
  AttentionInputs in;
  in.q = random.Normal({2, 4, 1, 8});
  in.k = random.Normal({2, 2, 10, 8});
  in.v = random.Normal({2, 2, 10, 8});
  return in;
}

// The same keys named in three ways.
TEST(Decode, RangesAreListsAreLengths) {
  const AttentionInputs in = SmallInputs();
  ChosenKeys by_length, by_range, by_list;
  by_length.lengths = at::tensor({6, 6}, at::kLong);
  by_range.ranges = at::tensor({0, 2, 2, 6, 0, 6, 6, 6}, at::kLong).view({2, 2, 2});
  by_list.indices = at::arange(6).expand({2, 2, 6});
  SA_ASSERT_OK_AND_ASSIGN(const DecodeResult expected, Decode(in, by_length));
  for (const ChosenKeys& chosen : {by_range, by_list}) {
    SA_ASSERT_OK_AND_ASSIGN(const DecodeResult result, Decode(in, chosen));
    EXPECT_THAT(result.out, TensorNear(expected.out, {.absolute_eps = 16}));
    EXPECT_THAT(result.lse, TensorNear(expected.lse, {.absolute_eps = 16}));
  }
}

// python/.../test_efficient_operators.py has each rule; here is what only C++ can ask for, and one
// of each kind.
TEST(Decode, RefusesWhatItCannotDo) {
  using ::testing::HasSubstr;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const auto refuses = [](absl::StatusCode code, const std::string& message, const auto& change) {
    AttentionInputs in = SmallInputs();
    ChosenKeys chosen;
    change(in, chosen);
    EXPECT_THAT(Decode(in, chosen), StatusIs(code, HasSubstr(message)));
  };
  const auto list = [](int64_t key) {
    return at::tensor({int64_t{2}, key}, at::kLong).expand({2, 2, 2});
  };
  const auto range = [](int64_t begin, int64_t end) {
    return at::tensor({begin, end}, at::kLong).view({1, 1, 2}).expand({2, 1, 2});
  };
  constexpr auto absent = "bias, sliding_window and first_query_position must be absent";
  refuses(kUnimplemented, absent, [](auto& in, auto&) {
    in.bias = at::zeros({1, 1, 1, 10}, at::kFloat);
  });
  refuses(kUnimplemented, absent, [](auto& in, auto&) { in.sliding_window = 3; });
  refuses(kUnimplemented, absent, [](auto& in, auto&) { in.first_query_position = 9; });
  refuses(kInvalid, "q must have 4 dimensions, got undefined",
          [](auto& in, auto&) { in.q = at::Tensor(); });
  refuses(kInvalid, "indices (without offsets) must have 3 dimensions, got undefined",
          [](auto&, auto& chosen) { chosen.indices = at::Tensor(); });
  for (const int64_t key : {int64_t{10}, int64_t{-1}, int64_t{1} << 32, kLeast}) {
    refuses(
        kInvalid,
        "indices[0][0][1] must be in [0, 10), the keys of its sequence, got " + std::to_string(key),
        [&](auto&, auto& chosen) { chosen.indices = list(key); });
  }
  for (const int64_t key : {2, 1}) {
    refuses(kInvalid, "indices[0][0][1] must be above the index before it, 2",
            [&](auto&, auto& chosen) { chosen.indices = list(key); });
  }
  refuses(kInvalid, "indices[0][0][1] must not lie in a range, [5, 7)", [&](auto&, auto& chosen) {
    chosen.indices = list(6);
    chosen.ranges = range(5, 7);
  });
  for (const auto& [begin, end] :
       {std::pair<int64_t, int64_t>{-1, 2}, {3, 2}, {0, 11}, {kLeast, 3}, {0, kMost}}) {
    refuses(kInvalid, "ranges[0][0] must be [begin, end) with 0 <= begin <= end <= 10",
            [&](auto&, auto& chosen) { chosen.ranges = range(begin, end); });
  }
}

// Many lists are checked by several threads; the first error is reported.
TEST(Decode, ReportsTheFirstOfManyErrors) {
  AttentionInputs in;
  in.q = at::zeros({16, 4, 1, 8});
  in.k = in.v = at::zeros({16, 4, 5000, 8});
  ChosenKeys chosen;
  chosen.indices = at::arange(5000).expand({16, 4, 5000}).clone();
  for (const int64_t list : {3, 5, 17, 40, 63}) {
    chosen.indices->view({64, 5000})[list][4999].fill_(7);
  }
  const int threads = at::get_num_threads();
  at::set_num_threads(4);
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THAT(Decode(in, chosen), StatusIs(absl::StatusCode::kInvalidArgument,
                                             ::testing::HasSubstr("indices[0][3][4999] must be")));
  }
  at::set_num_threads(threads);
}

TEST(ExactTopK, IsAStableSortOfFloats) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      RandomTensors random(seed);
      const int64_t n = random.Integer(1, seed % 4 == 0 ? 9000 : 200);
      at::Tensor scores = random.Normal({2, 3, n}).mul(4).round().div(4).to(type);  // ties
      random.Plant(scores, kNan, 2);
      random.Plant(scores, kInf, 2);
      random.Plant(scores, -kInf, 2);
      if (seed % 2 == 1) scores = scores.transpose(0, 2).contiguous().transpose(0, 2);
      for (const int64_t k : {int64_t{0}, random.Integer(0, n), n}) {
        SA_ASSERT_OK_AND_ASSIGN(const at::Tensor indices, ExactTopK(scores, k));
        const at::Tensor order = scores.to(at::kFloat).nan_to_num(kInf, kInf, -kInf);
        const at::Tensor expected =
            std::get<0>(std::get<1>(order.sort(/*stable=*/true, -1, /*descending=*/true))
                            .narrow(-1, 0, k)
                            .sort(-1));
        EXPECT_TRUE(indices.equal(expected)) << "seed " << seed << ", k " << k;
      }
    }
  }
}

TEST(ExactTopK, RefusesWhatItCannotDo) {
  using ::testing::HasSubstr;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const at::Tensor row = at::zeros({2, 5});
  EXPECT_THAT(ExactTopK(row, 6), StatusIs(kInvalid, HasSubstr("k must be in [0, 5], got 6")));
  EXPECT_THAT(ExactTopK(row, -1), StatusIs(kInvalid, HasSubstr("k must be in [0, 5], got -1")));
  EXPECT_THAT(ExactTopK(row.to(at::kDouble), 1), StatusIs(kInvalid, HasSubstr("got float64")));
  EXPECT_THAT(ExactTopK(row[0][0], 0), StatusIs(kInvalid, HasSubstr("at least one dimension")));
  EXPECT_THAT(ExactTopK(at::Tensor(), 0), StatusIs(kInvalid, HasSubstr("got undefined")));
  EXPECT_THAT(ExactTopK(row[0][0].expand({int64_t{1} << 31}), 1),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("less than 2^31 a row")));
}

}  // namespace
}  // namespace sparse_attention
