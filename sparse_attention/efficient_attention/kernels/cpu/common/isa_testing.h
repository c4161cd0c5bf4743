// Tests of kernels run every case on every instruction set that the machine supports and count
// them: at the end the program prints the counts, and fails if a supported set ran none.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ISA_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ISA_TESTING_H_

#include <string>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// To be called once for each case.
void CountCase(Isa isa);

// A fixture with one instance an instruction set: SA_INSTANTIATE_ISAS(MyTest), then
// TEST_P(MyTest, ...) that uses GetParam().
class IsaTest : public ::testing::TestWithParam<Isa> {};

inline std::string IsaTestName(const ::testing::TestParamInfo<Isa>& info) {
  return IsaName(info.param);
}

}  // namespace sparse_attention::cpu

#define SA_INSTANTIATE_ISAS(Test)                                                                \
  INSTANTIATE_TEST_SUITE_P(Isas, Test,                                                           \
                           ::testing::ValuesIn(::sparse_attention::cpu::SupportedIsas().begin(), \
                                               ::sparse_attention::cpu::SupportedIsas().end()),  \
                           ::sparse_attention::cpu::IsaTestName)

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ISA_TESTING_H_
