#include "sparse_attention/key_index/socket_planes.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>

#include <tuple>

#include "gtest/gtest.h"
#include "sparse_attention/key_index/tensor_array.h"

namespace sparse_attention {
namespace {

// Both are within a few roundings of float32 of the exact transform.
TEST(SocketPlanes, AreThoseThatLibTorchDraws) {
  for (const auto& [tables, bits, dim] : {std::tuple{1, 1, 1},
                                          {1, 1, 15},
                                          {1, 2, 7},
                                          {1, 4, 4},
                                          {1, 1, 17},
                                          {1, 3, 9},
                                          {5, 4, 8},
                                          {60, 10, 128},
                                          {7, 3, 63}}) {
    const at::Tensor drawn =
        at::randn({tables, bits, dim}, at::detail::createCPUGenerator(123456789 + 7777),
                  at::TensorOptions().dtype(at::kFloat));
    const at::Tensor planes = TensorOf(SocketPlanes(tables, bits, dim));
    ASSERT_EQ(planes.sizes(), drawn.sizes());
    EXPECT_LT(planes.sub(drawn).abs().max().item<float>(), 3e-6f) << planes.sizes();
  }
}

}  // namespace
}  // namespace sparse_attention
