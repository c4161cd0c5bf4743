#include "sparse_attention/key_index/key_ledger.h"

#include <limits>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"

namespace sparse_attention {
namespace {

TEST(KeyLedger, AppendedKeysLeaveThePrefixUnchanged) {
  const at::Tensor keys = RandomTensors(1).Normal({2, 3, 50, 8});
  KeyLedger ledger;
  EXPECT_EQ(ledger.Update(keys.narrow(2, 0, 20)), 0);
  EXPECT_EQ(ledger.Update(keys.narrow(2, 0, 20)), 20);
  EXPECT_EQ(ledger.Update(keys), 20);
  EXPECT_EQ(ledger.Update(keys.narrow(2, 0, 10)), 10);
  EXPECT_EQ(ledger.Update(keys), 10);
}

// Every single changed element of every position is seen, to the last bit.
TEST(KeyLedger, SeesEveryChange) {
  for (at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (int64_t dim : {1, 3, 8, 17}) {
      const at::Tensor keys = RandomTensors(2).Normal({2, 2, 9, dim}, type);
      for (int64_t i = 0; i < keys.numel(); ++i) {
        at::Tensor changed = keys.clone();
        char* const bytes = static_cast<char*>(changed.data_ptr());
        bytes[i * keys.element_size()] ^= 1;
        KeyLedger ledger;
        ledger.Update(keys);
        ASSERT_EQ(ledger.Update(changed), i / dim % 9) << toString(type) << " " << dim << " " << i;
      }
    }
  }
}

TEST(KeyLedger, SeesRowsThatChangePlaces) {
  const at::Tensor keys = RandomTensors(3).Normal({2, 2, 5, 8});
  for (const auto& [dim, a, b] : {std::tuple{0, 0, 1}, {1, 0, 1}, {2, 2, 4}}) {
    at::Tensor swapped = keys.clone();
    swapped.select(dim, a).copy_(keys.select(dim, b));
    swapped.select(dim, b).copy_(keys.select(dim, a));
    KeyLedger ledger;
    ledger.Update(keys);
    EXPECT_EQ(ledger.Update(swapped), dim == 2 ? 2 : 0);
  }
}

TEST(KeyLedger, AnotherKindOfKeysIsNew) {
  const at::Tensor keys = RandomTensors(4).Normal({2, 2, 5, 8});
  for (const at::Tensor& other :
       {keys.narrow(0, 0, 1), keys.narrow(1, 0, 1), keys.narrow(3, 0, 4), keys.to(at::kHalf)}) {
    KeyLedger ledger;
    ledger.Update(keys);
    EXPECT_EQ(ledger.Update(other), 0);
    EXPECT_EQ(ledger.Update(other), 5);
  }
  KeyLedger ledger;
  const at::Tensor half = keys.to(at::kHalf);
  ledger.Update(half);
  EXPECT_EQ(ledger.Update(half.view(at::kBFloat16)), 0);  // the same bytes
}

TEST(KeyLedger, StridesDoNotMatter) {
  const at::Tensor keys = RandomTensors(5).Normal({2, 2, 5, 8});
  KeyLedger ledger;
  ledger.Update(keys);
  EXPECT_EQ(ledger.Update(keys.transpose(1, 2).contiguous().transpose(1, 2)), 5);
  EXPECT_EQ(ledger.Update(keys.transpose(2, 3).contiguous().transpose(2, 3)), 5);
}

TEST(KeyLedger, NothingToRemember) {
  KeyLedger ledger;
  EXPECT_EQ(ledger.Update(RandomTensors(6).Normal({0, 2, 5, 8})), 0);
  EXPECT_EQ(ledger.Update(RandomTensors(6).Normal({1, 2, 0, 8})), 0);
  EXPECT_EQ(ledger.Update(RandomTensors(6).Normal({1, 2, 3, 8})), 0);
}

TEST(KeyLedger, NanIsEqualToItself) {
  at::Tensor keys = RandomTensors(7).Normal({1, 2, 5, 8});
  keys.select(2, 1).fill_(std::numeric_limits<float>::quiet_NaN());
  KeyLedger ledger;
  ledger.Update(keys);
  EXPECT_EQ(ledger.Update(keys), 5);
}

}  // namespace
}  // namespace sparse_attention
