#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace sparse_attention::cpu {
namespace {

std::array<std::atomic<int64_t>, kNumIsas> cases;

class PrintCases : public ::testing::Environment {
 public:
  void TearDown() override {
    // A part of the tests, a list of them, or one case that is run again promises nothing.
    const bool all = ::testing::GTEST_FLAG(filter) == "*" && std::getenv("SA_SEED") == nullptr;
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
