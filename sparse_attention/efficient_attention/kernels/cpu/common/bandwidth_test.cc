#include "sparse_attention/efficient_attention/kernels/cpu/common/bandwidth.h"

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

class BandwidthTest : public IsaTest {};
SA_INSTANTIATE_ISAS(BandwidthTest);

// The sum of the words of whole lines and of the bytes behind them.
uint64_t Expected(const char* row, int64_t bytes) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < bytes / 64 * 64; i += 4) {
    uint32_t word;
    std::memcpy(&word, row + i, 4);
    sum += word;
  }
  for (int64_t i = bytes / 64 * 64; i < bytes; ++i) sum += static_cast<uint8_t>(row[i]);
  return sum;
}

TEST_P(BandwidthTest, EveryByteIsReadOnce) {
  const ReadKernels kernels = SA_CHOOSE_ISA(GetParam(), MakeReadKernels());
  std::mt19937 random(7);
  for (int64_t row_bytes : {1, 64, 100, 128, 256, 300, 1024}) {
    for (ReadAhead ahead : {ReadAhead{}, ReadAhead{64, 1}, ReadAhead{4096, 2}}) {
      CountCase(GetParam());
      constexpr int64_t kRows = 50;
      // Small words, so that no lane overflows.
      std::vector<uint32_t> data(static_cast<size_t>(kRows * row_bytes + 3) / 4);
      for (uint32_t& word : data) word = random() % 1000;
      const char* base = reinterpret_cast<const char*>(data.data());
      ReadItem item = {.view = {.base = base, .row_stride = row_bytes}, .row_bytes = row_bytes};
      item.count = kRows;
      uint64_t expected = 0;
      for (int64_t i = 0; i < kRows; ++i) expected += Expected(base + i * row_bytes, row_bytes);
      EXPECT_EQ(kernels.read(item, ahead), expected);
      const std::vector<uint32_t> rows = {0, 3, 4, 17, 49};
      item.rows = rows.data();
      item.count = static_cast<int64_t>(rows.size());
      expected = 0;
      for (uint32_t i : rows) expected += Expected(base + i * row_bytes, row_bytes);
      EXPECT_EQ(kernels.read(item, ahead), expected);
      item.count = 0;
      EXPECT_EQ(kernels.read(item, ahead), 0u);
    }
  }
}

TEST(Bandwidth, EvictedDataAreStillThere) {
  std::vector<char> data(10000);
  std::iota(data.begin(), data.end(), char{1});
  const std::vector<char> before = data;
  EXPECT_TRUE(EvictFromCaches(data.data() + 3, 9000));
  EXPECT_EQ(data, before);
}

TEST(Bandwidth, ItemsCoverAStream) {
  std::vector<char> data(100 * 4096);
  std::vector<ReadItem> items(7);
  const auto used = StreamItems(data.data(), static_cast<int64_t>(data.size()), items);
  EXPECT_EQ(BytesOf(used), static_cast<int64_t>(data.size()));
  const char* next = data.data();
  for (const ReadItem& item : used) {
    EXPECT_EQ(item.view.base, next);
    next += item.count * item.row_bytes;
  }
  Workers workers(2);
  EXPECT_GT(SecondsToRead(workers, used, BestReadAhead(workers, used)), 0);
}

}  // namespace
}  // namespace sparse_attention::cpu
