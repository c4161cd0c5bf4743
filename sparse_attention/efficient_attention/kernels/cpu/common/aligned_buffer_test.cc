#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"

#include <cstdint>
#include <cstring>
#include <utility>

#include "gtest/gtest.h"

namespace sparse_attention::cpu {
namespace {

uintptr_t Address(const AlignedBuffer& buffer) {
  return reinterpret_cast<uintptr_t>(buffer.data());
}

TEST(AlignedBuffer, BeginsAtALineOrAHugePage) {
  for (size_t bytes : {1, 63, 64, 65, 100000, (2 << 20) - 1}) {
    AlignedBuffer buffer(bytes);
    ASSERT_NE(buffer.data(), nullptr);
    EXPECT_EQ(Address(buffer) % 64, 0u);
    EXPECT_EQ(buffer.size(), bytes);
    std::memset(buffer.data(), 1, bytes);
  }
  for (size_t bytes : {2 << 20, (2 << 20) + 1, 5 << 20}) {
    AlignedBuffer buffer(bytes);
    ASSERT_NE(buffer.data(), nullptr);
    EXPECT_EQ(Address(buffer) % (2 << 20), 0u);
    std::memset(buffer.data(), 1, bytes);
  }
}

TEST(AlignedBuffer, IsNullWhereThereIsNoMemory) {
  EXPECT_EQ(AlignedBuffer().data(), nullptr);
  EXPECT_EQ(AlignedBuffer(0).data(), nullptr);
  EXPECT_EQ(AlignedBuffer(SIZE_MAX).data(), nullptr);
  EXPECT_EQ(AlignedBuffer(SIZE_MAX).size(), 0u);
}

TEST(AlignedBuffer, MovesWithItsMemory) {
  AlignedBuffer from(4 * sizeof(int));
  from.as<int>()[3] = 7;
  AlignedBuffer to = std::move(from);
  EXPECT_EQ(to.as<int>()[3], 7);
  EXPECT_EQ(to.size(), 4 * sizeof(int));
}

}  // namespace
}  // namespace sparse_attention::cpu
