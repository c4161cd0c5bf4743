#include "sparse_attention/efficient_attention/cpu/kv_cache.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

// The address sanitizer asks for this; otherwise it would end the process where memory is refused.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace sparse_attention::cpu {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kHeads = 3, kDim = 5, kValueDim = 2;

KvCacheOptions Options(int64_t page_size, int64_t sequences = 2, int64_t capacity = 40) {
  KvCacheOptions options;
  options.shape = {Element::kFloat32, kDim, kValueDim, 6, kHeads, 0};
  options.sequences = sequences;
  options.capacity = capacity;
  options.page_size = page_size;
  return options;
}

float Value(int64_t sequence, int64_t head, int64_t token, int64_t channel) {
  return static_cast<float>(((sequence * 7 + head) * 1000 + token) * 10 + channel);
}

// [tokens, heads, dim], as projections of a model give them.
std::vector<float> Rows(int64_t sequence, int64_t first, int64_t tokens, int64_t dim, float sign) {
  std::vector<float> rows;
  for (int64_t t = first; t < first + tokens; ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      for (int64_t c = 0; c < dim; ++c) rows.push_back(sign * Value(sequence, h, t, c));
    }
  }
  return rows;
}

absl::Status Append(KvCache& cache, int64_t sequence, int64_t tokens, int64_t numbered_from = -1) {
  const int64_t first = numbered_from < 0 ? cache.length(sequence) : numbered_from;
  const std::vector<float> keys = Rows(sequence, first, tokens, kDim, 1);
  const std::vector<float> values = Rows(sequence, first, tokens, kValueDim, -1);
  return cache.Append(
      sequence, {reinterpret_cast<const char*>(keys.data()), kDim * 4, kHeads * kDim * 4},
      {reinterpret_cast<const char*>(values.data()), kValueDim * 4, kHeads * kValueDim * 4},
      tokens);
}

void ExpectHolds(const KvCache& cache, int64_t sequence, int64_t length) {
  const SequenceKv& kv = cache.sequence(sequence);
  ASSERT_EQ(kv.length, length);
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t t = 0; t < length; ++t) {
      const auto* k = reinterpret_cast<const float*>(kv.Keys(h).Row(t));
      const auto* v = reinterpret_cast<const float*>(kv.Values(h).Row(t));
      for (int64_t c = 0; c < kDim; ++c) ASSERT_EQ(k[c], Value(sequence, h, t, c)) << t;
      for (int64_t c = 0; c < kValueDim; ++c) ASSERT_EQ(v[c], -Value(sequence, h, t, c)) << t;
    }
  }
}

class KvCacheTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(KvCacheTest, SequencesGrowByAndBy) {
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, KvCache::Create(Options(GetParam())));
  for (int64_t tokens : {1, 15, 1, 0, 3, 20}) {
    SA_ASSERT_OK(Append(cache, 0, tokens));
    SA_ASSERT_OK(Append(cache, 1, tokens / 2));
  }
  ExpectHolds(cache, 0, 40);
  ExpectHolds(cache, 1, 18);
}

TEST_P(KvCacheTest, AFullCacheSaysSoAndIsUnchanged) {
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, KvCache::Create(Options(GetParam())));
  SA_ASSERT_OK(Append(cache, 1, 38));
  EXPECT_THAT(Append(cache, 1, 3),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("sequence 1 holds 38 of 40 tokens; there is no room for 3 more")));
  ExpectHolds(cache, 1, 38);
  SA_ASSERT_OK(Append(cache, 1, 2));
  ExpectHolds(cache, 1, 40);
}

TEST_P(KvCacheTest, ACutSequenceGoesOnFromThere) {
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, KvCache::Create(Options(GetParam())));
  SA_ASSERT_OK(Append(cache, 0, 10));
  SA_ASSERT_OK(Append(cache, 0, 20, /*numbered_from=*/500));
  SA_ASSERT_OK(cache.Truncate(0, 10));
  ExpectHolds(cache, 0, 10);
  SA_ASSERT_OK(Append(cache, 0, 25));
  ExpectHolds(cache, 0, 35);
  EXPECT_THAT(cache.Truncate(0, 36),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("length must be in [0, 35], the tokens of sequence 0, got 36")));
  EXPECT_THAT(cache.Truncate(0, -1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("-1")));
}

TEST_P(KvCacheTest, PaddingIsACountOfTokens) {
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, KvCache::Create(Options(GetParam())));
  SA_ASSERT_OK(Append(cache, 0, 10));
  SA_ASSERT_OK(cache.SetPadding(0, 7));
  EXPECT_EQ(cache.sequence(0).begin, 7);
  EXPECT_THAT(cache.SetPadding(0, 11),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("11")));
  SA_ASSERT_OK(cache.Truncate(0, 3));
  EXPECT_EQ(cache.sequence(0).begin, 3);
}

INSTANTIATE_TEST_SUITE_P(PageSizes, KvCacheTest, ::testing::Values(0, 1, 16, 64));

TEST(KvCache, PagesAreTakenAsNeededAndGivenBack) {
  KvCacheOptions options = Options(16);
  options.pages = 4;
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, KvCache::Create(options));
  EXPECT_EQ(cache.free_pages(), 4);
  SA_ASSERT_OK(Append(cache, 0, 16));
  EXPECT_EQ(cache.free_pages(), 3);
  SA_ASSERT_OK(Append(cache, 1, 17));
  EXPECT_EQ(cache.free_pages(), 1);
  SA_ASSERT_OK(Append(cache, 0, 1));
  EXPECT_THAT(cache.block_table(0), ElementsAre(0, 3));
  EXPECT_THAT(cache.block_table(1), ElementsAre(1, 2));
  EXPECT_THAT(Append(cache, 1, 16), StatusIs(absl::StatusCode::kResourceExhausted,
                                             HasSubstr("sequence 1 needs 1 pages, 0 are free")));
  ExpectHolds(cache, 0, 17);
  ExpectHolds(cache, 1, 17);
  SA_ASSERT_OK(cache.Truncate(0, 0));
  EXPECT_EQ(cache.free_pages(), 2);
  SA_ASSERT_OK(Append(cache, 1, 16));
  ExpectHolds(cache, 1, 33);
}

TEST(KvCache, AppendAllocatesNothing) {
  SA_ASSERT_OK_AND_ASSIGN(KvCache cache, KvCache::Create(Options(1)));
  const void* const table = cache.block_table(0).data();
  SA_ASSERT_OK(Append(cache, 0, 1));
  EXPECT_EQ(static_cast<const void*>(cache.sequence(0).k.pages), table);
  SA_ASSERT_OK(Append(cache, 0, 39));
  EXPECT_EQ(static_cast<const void*>(cache.block_table(0).data()), table);
}

TEST(KvCache, WrongOptionsAreNamed) {
  const auto error = [](const KvCacheOptions& options) {
    return std::string(KvCache::Create(options).status().message());
  };
  EXPECT_THAT(error(Options(24)),
              HasSubstr("KvCacheOptions.page_size must be 0 or a power of two, got 24"));
  EXPECT_THAT(error(Options(0, 0)), HasSubstr("sequences must be positive, got 0"));
  EXPECT_THAT(error(Options(0, 1, 0)), HasSubstr("capacity must be in [1, 2^31], got 0"));
  KvCacheOptions options = Options(0);
  options.pages = 3;
  EXPECT_THAT(error(options), HasSubstr("pages must be 0 unless page_size is given"));
  options = Options(0);
  options.shape.kv_heads = 0;
  EXPECT_THAT(error(options), HasSubstr("shape.kv_heads must be positive, got 0"));
}

TEST(KvCache, MoreMemoryThanThereIsIsAnError) {
  KvCacheOptions options = Options(0, int64_t{1} << 20, int64_t{1} << 31);
  EXPECT_THAT(KvCache::Create(options),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("a KV cache of ")));
}

}  // namespace
}  // namespace sparse_attention::cpu
