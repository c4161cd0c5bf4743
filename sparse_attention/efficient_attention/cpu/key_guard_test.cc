#include "sparse_attention/efficient_attention/cpu/key_guard.h"

#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace sparse_attention::cpu {
namespace {

struct Rows {
  explicit Rows(int64_t count, int64_t bytes = 10) : bytes(bytes), data(count * bytes) {
    std::iota(data.begin(), data.end(), 0);
  }
  RowView view() const {
    RowView rows;
    rows.base = data.data();
    rows.row_stride = bytes;
    return rows;
  }
  int64_t bytes;
  std::vector<char> data;
};

TEST(KeyGuard, AppendedKeysLeaveTheOthersUnchanged) {
  const Rows rows(500);
  KeyGuard guard(500, 10);
  EXPECT_EQ(guard.Update(rows.view(), 100), 0);
  EXPECT_EQ(guard.Update(rows.view(), 101), 100);
  EXPECT_EQ(guard.Update(rows.view(), 500), 101);
  EXPECT_EQ(guard.Update(rows.view(), 500), 500);
}

TEST(KeyGuard, AShorterCacheIsACut) {
  const Rows rows(500);
  KeyGuard guard(500, 10);
  guard.Update(rows.view(), 400);
  EXPECT_EQ(guard.Update(rows.view(), 300), 300);
  EXPECT_EQ(guard.covered(), 300);
}

TEST(KeyGuard, ACutWithAnotherContinuationIsFoundToThePosition) {
  Rows rows(1000);
  KeyGuard guard(1000, 10);
  guard.Update(rows.view(), 1000);
  for (int64_t key = 870; key < 1000; ++key) ++rows.data[key * 10 + key % 10];
  EXPECT_EQ(guard.Update(rows.view(), 930), 870);
  EXPECT_EQ(guard.Update(rows.view(), 930), 930);
}

// As where a generated token is replaced by another.
TEST(KeyGuard, OneOfTheLatestKeysIsEnough) {
  for (int64_t back : {1, 2, 30, 64}) {
    Rows rows(1000);
    KeyGuard guard(1000, 10);
    guard.Update(rows.view(), 930);
    rows.data[(930 - back) * 10] ^= 1;
    EXPECT_EQ(guard.Update(rows.view(), 930), 930 - back);
  }
}

TEST(KeyGuard, EveryByteOfALatestRowCounts) {
  for (int64_t bytes : {1, 7, 8, 9, 64, 100}) {
    for (int64_t byte = 0; byte < bytes; ++byte) {
      Rows rows(3, bytes);
      KeyGuard guard(3, bytes);
      guard.Update(rows.view(), 3);
      rows.data[1 * bytes + byte] ^= 4;
      EXPECT_EQ(guard.Update(rows.view(), 3), 1) << bytes << " " << byte;
    }
  }
}

TEST(KeyGuard, AnotherSequenceIsNoticed) {
  Rows rows(5000);
  KeyGuard guard(5000, 10);
  guard.Update(rows.view(), 5000);
  for (int64_t key = 0; key < 4000; ++key) ++rows.data[key * 10];
  EXPECT_EQ(guard.Update(rows.view(), 5000), 0);
}

TEST(KeyGuard, TruncateForgets) {
  Rows rows(20);
  KeyGuard guard(20, 10);
  guard.Update(rows.view(), 20);
  guard.Truncate(5);
  ++rows.data[10 * 10];
  EXPECT_EQ(guard.Update(rows.view(), 20), 5);
}

}  // namespace
}  // namespace sparse_attention::cpu
