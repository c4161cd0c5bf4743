// Instruction sets: what kernels are compiled for, and what this machine runs.
//
// A kernel is one source that is compiled once for every instruction set, each time in a namespace
// of its own (SA_ISA, see simd.h), and chosen at run time: one binary runs everywhere.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ISA_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ISA_H_

#include <span>

namespace sparse_attention::cpu {

// From the least to the most.
enum class Isa {
  kGeneric,     // what the compiler makes of vectors in its baseline: SSE2, or whatever it has
  kAvx2,        // AVX2, FMA, F16C, BMI2: Haswell, Zen and later
  kAvx512,      // AVX-512 F, BW, DQ, VL, CD: Skylake servers and later
  kAvx512Bf16,  // and BF16, VNNI, VBMI, VBMI2, BITALG, VPOPCNTDQ: Zen 4, Sapphire Rapids and later
  kNeon,        // Advanced SIMD of ARMv8.0: every AArch64 machine
};

constexpr int kNumIsas = 5;

const char* IsaName(Isa isa);  // "generic", "avx2", "avx512", "avx512_bf16", "neon"

// Those that this machine runs, the least first, never empty.
std::span<const Isa> SupportedIsas();

// The most of them, or less where the environment variable SA_ISA names another. A name that is
// unknown or not supported here ends the process with a message.
Isa BestIsa();

// Whether rows that are asked for ahead should go into the first level of the cache. AMD's Zen 4
// and earlier have too few miss buffers there: the second level gives 1.25 to 1.4 times the
// bandwidth. Zen 5 is faster through the first. Measured on both; others are taken to be like
// Zen 5.
bool PrefersNearPrefetch();

}  // namespace sparse_attention::cpu

// The table of a kernel's variants: SA_CHOOSE_ISA(isa, MakeKernels) is
// SA_ISA namespace's MakeKernels() of that instruction set. The variants are declared by
// SA_DECLARE_ISAS(Kernels MakeKernels()).
#if defined(__x86_64__)
#define SA_DECLARE_ISAS(declaration) \
  namespace generic {                \
  declaration;                       \
  }                                  \
  namespace avx2 {                   \
  declaration;                       \
  }                                  \
  namespace avx512 {                 \
  declaration;                       \
  }                                  \
  namespace avx512_bf16 {            \
  declaration;                       \
  }
#define SA_CHOOSE_ISA(isa, function)                                          \
  ((isa) == ::sparse_attention::cpu::Isa::kAvx512Bf16 ? avx512_bf16::function \
   : (isa) == ::sparse_attention::cpu::Isa::kAvx512   ? avx512::function      \
   : (isa) == ::sparse_attention::cpu::Isa::kAvx2     ? avx2::function        \
                                                      : generic::function)
#elif defined(__aarch64__)
#define SA_DECLARE_ISAS(declaration) \
  namespace generic {                \
  declaration;                       \
  }                                  \
  namespace neon {                   \
  declaration;                       \
  }
#define SA_CHOOSE_ISA(isa, function) \
  ((isa) == ::sparse_attention::cpu::Isa::kNeon ? neon::function : generic::function)
#else
#define SA_DECLARE_ISAS(declaration) \
  namespace generic {                \
  declaration;                       \
  }
#define SA_CHOOSE_ISA(isa, function) (static_cast<void>(isa), generic::function)
#endif

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ISA_H_
