#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k_list.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/select_testing.h"

// The address sanitizer asks for this; otherwise it would end the process where memory is refused.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace sparse_attention::cpu {
namespace {

class TopKListTest : public IsaTest {};
SA_INSTANTIATE_ISAS(TopKListTest);

// One object for rows of different lengths: nothing of a row is left for the next.
TEST_P(TopKListTest, SelectsRowsOneAfterTheOther) {
  std::mt19937_64 random(3);
  TopKList top_k(GetParam(), 20000);
  ASSERT_TRUE(top_k.ok());
  for (const int64_t n : {20000, 1, 777, 64, 5000, 65}) {
    CountCase(GetParam());
    std::vector<float> scores(n);
    for (float& x : scores) x = static_cast<float>(random() % 50);  // many ties
    const std::vector<bool> excluded = RandomBits(random, n, 0.3);
    const std::vector<uint64_t> drop = ToBitmap(excluded);
    for (const bool all : {true, false}) {
      const int64_t k = 1 + static_cast<int64_t>(random() % n);
      std::vector<bool> eligible(n, true);
      for (int64_t j = 0; !all && j < n; ++j) eligible[j] = !excluded[j];
      const std::vector<bool> expected = SortedTopK(scores, eligible, k);
      std::vector<uint32_t> want, got(k);
      for (int64_t j = 0; j < n; ++j) {
        if (expected[j]) want.push_back(static_cast<uint32_t>(j));
      }
      got.resize(top_k.Select(scores.data(), n, k, all ? nullptr : drop.data(), got.data()));
      EXPECT_EQ(got, want) << "n " << n << ", k " << k;
    }
  }
}

TEST(TopKList, SaysThatThereIsNoMemory) {
  EXPECT_FALSE(TopKList(Isa::kGeneric, int64_t{1} << 60).ok());
}

}  // namespace
}  // namespace sparse_attention::cpu
