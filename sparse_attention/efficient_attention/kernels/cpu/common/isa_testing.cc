#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

#include <array>
#include <atomic>
#include <cstdio>

namespace sparse_attention::cpu {
namespace {

std::array<std::atomic<int64_t>, kNumIsas> cases;

class PrintCases : public ::testing::Environment {
 public:
  void TearDown() override {
    // A part of the tests, or a list of them, promises nothing.
    const bool all = ::testing::GTEST_FLAG(filter) == "*";
    for (Isa isa : SupportedIsas()) {
      const int64_t count = cases[static_cast<size_t>(isa)];
      std::printf("cases on %s: %lld\n", IsaName(isa), static_cast<long long>(count));
      EXPECT_TRUE(count > 0 || !all) << "no case ran on " << IsaName(isa);
    }
  }
};

const ::testing::Environment* const environment =
    ::testing::AddGlobalTestEnvironment(new PrintCases);

}  // namespace

void CountCase(Isa isa) { ++cases[static_cast<size_t>(isa)]; }

}  // namespace sparse_attention::cpu
