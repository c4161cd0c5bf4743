#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"

#include <string>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/select_testing.h"

namespace sparse_attention::cpu {
namespace {

class BitmapTest : public IsaTest {
 protected:
  const BitmapKernels kernels_ = BitmapKernelsFor(GetParam());
};
SA_INSTANTIATE_ISAS(BitmapTest);

double RandomShare(std::mt19937_64& random) {
  constexpr double kShares[] = {0, 0.02, 0.1, 0.5, 0.98, 1};
  return kShares[random() % std::size(kShares)];
}

TEST_P(BitmapTest, ListsCountsRanksAndPlaces) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = static_cast<int64_t>(random() % 3000);
    const std::vector<bool> bits = RandomBits(random, n, RandomShare(random));
    const std::vector<uint64_t> words = ToBitmap(bits);
    const int64_t num_words = BitmapWords(n);
    const uint32_t base = static_cast<uint32_t>(random() % 2 == 0 ? 0 : random());
    std::vector<uint32_t> want;
    for (int64_t j = 0; j < n; ++j) {
      if (random() % 16 == 0) {
        ASSERT_EQ(kernels_.rank(words.data(), j), static_cast<int64_t>(want.size()));
      }
      ASSERT_EQ(TestBit(words.data(), j), bits[j]);
      if (!bits[j]) continue;
      want.push_back(base + static_cast<uint32_t>(j));
    }
    const int64_t count = static_cast<int64_t>(want.size());
    ASSERT_EQ(kernels_.count(words.data(), num_words), count);
    ASSERT_EQ(kernels_.rank(words.data(), n), count);
    // With room for more, for exactly all and for fewer.
    for (int64_t capacity : {count + 100, count, count * 2 / 3}) {
      Guarded out(capacity * 4);
      uint32_t* const keys = reinterpret_cast<uint32_t*>(out.get());
      const int64_t written = kernels_.to_list(words.data(), num_words, base, keys, capacity);
      ASSERT_EQ(written, std::min(count, capacity));
      ASSERT_TRUE(std::equal(keys, keys + written, want.begin()));
      ASSERT_TRUE(out.Intact());
    }
  }
}

TEST_P(BitmapTest, UnionsListKeysAndMembers) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = static_cast<int64_t>(random() % 2000);
    const int32_t num_rows = 1 + static_cast<int32_t>(random() % 16);
    const double share = RandomShare(random);
    std::vector<std::vector<uint64_t>> rows;
    std::vector<const uint64_t*> pointers;
    for (int32_t r = 0; r < num_rows; ++r) rows.push_back(ToBitmap(RandomBits(random, n, share)));
    for (const auto& row : rows) pointers.push_back(row.data());
    std::vector<uint32_t> want;
    std::vector<uint16_t> want_members;
    for (int64_t j = 0; j < n; ++j) {
      uint32_t members = 0;
      for (int32_t r = 0; r < num_rows; ++r) members |= TestBit(pointers[r], j) << r;
      if (members == 0) continue;
      want.push_back(7 + static_cast<uint32_t>(j));
      want_members.push_back(static_cast<uint16_t>(members));
    }
    const int64_t count = static_cast<int64_t>(want.size());
    for (int64_t capacity : {count + 100, count, count / 2}) {
      Guarded out(capacity * 4), out_members(capacity * 2);
      uint32_t* const keys = reinterpret_cast<uint32_t*>(out.get());
      uint16_t* const members = reinterpret_cast<uint16_t*>(out_members.get());
      const int64_t written = kernels_.union_to_list(pointers.data(), num_rows, BitmapWords(n), 7,
                                                     keys, members, capacity);
      ASSERT_EQ(written, std::min(count, capacity));
      ASSERT_TRUE(std::equal(keys, keys + written, want.begin()));
      ASSERT_TRUE(std::equal(members, members + written, want_members.begin()));
      ASSERT_TRUE(out.Intact() && out_members.Intact());
    }
  }
}

TEST_P(BitmapTest, DepositAndNotAndUnite) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    std::mt19937_64 random(seed);
    const int64_t n = static_cast<int64_t>(random() % 2000);
    const std::vector<bool> mask = RandomBits(random, n, RandomShare(random));
    const std::vector<bool> old = RandomBits(random, n, 0.1);
    const int64_t count = std::count(mask.begin(), mask.end(), true);
    const std::vector<bool> bits = RandomBits(random, count, RandomShare(random));
    std::vector<uint64_t> words = ToBitmap(bits);
    while (static_cast<int64_t>(words.size()) < count / 64 + 2) words.push_back(random());
    std::vector<bool> want = old, fewer = old;
    int64_t at = 0;
    for (int64_t j = 0; j < n; ++j) {
      if (mask[j] && bits[at++]) want[j] = true;
      if (mask[j]) fewer[j] = false;
    }
    const std::vector<uint64_t> places = ToBitmap(mask);
    std::vector<uint64_t> out = ToBitmap(old);
    kernels_.deposit(words.data(), places.data(), BitmapWords(n), out.data());
    ASSERT_EQ(out, ToBitmap(want));
    out = ToBitmap(old);
    kernels_.and_not(places.data(), BitmapWords(n), out.data());
    ASSERT_EQ(out, ToBitmap(fewer));
  }
}

TEST(BitmapRangeTest, SetsAndClearsEveryRange) {
  for (int64_t begin = 0; begin <= 200; ++begin) {
    for (int64_t end = begin; end <= 200; ++end) {
      std::vector<bool> set(256), cleared(256, true);
      for (int64_t j = begin; j < end; ++j) {
        set[j] = true;
        cleared[j] = false;
      }
      std::vector<uint64_t> words(4), ones(4, ~uint64_t{0});
      SetBits(words.data(), begin, end);
      ClearBits(ones.data(), begin, end);
      ASSERT_EQ(words, ToBitmap(set)) << begin << " " << end;
      ASSERT_EQ(ones, ToBitmap(cleared)) << begin << " " << end;
    }
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
