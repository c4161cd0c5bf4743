// Top-p without sorting: the keys of one row whose mass reaches the threshold at which the mass of
// the heaviest keys exceeds a share of the whole.
//
// Sorted from the heaviest, the masses' running sum is divided by its total; the threshold is the
// mass at which the rule cuts, or the least of the row if it never does. Every entry that reaches
// the threshold is selected, ties included. The threshold is found by bracketing it with a sample
// and by sums of float64 over the few masses in the bracket.
//
// Sums here and in the sorted definition are of float64 in different orders, so each share is off
// by at most n * 2^-53 of itself. The threshold is that of the definition unless a running share
// lies within 2 n * 2^-53 of the share asked for; then it may be a neighbouring mass.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_P_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_P_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// Where the running share is cut.
enum class TopPRule : int32_t {
  kGreater,  // at the first share > p
  kAtLeast,  // at the first share >= p
};

// Floats of scratch for a row of n masses.
__attribute__((always_inline)) constexpr int64_t TopPScratchFloats(int64_t n) {
  return (n / 8 > 4096 ? n / 8 : 4096) + 128;
}

// What share of the open mass is still missing where p of all mass is wanted and `held` of it is
// kept already. Nothing is to be selected where it is not above 0, or where nothing is open.
constexpr double MissingShare(double p, double open, double held) {
  return open == 0 ? 0 : ((open + held) * p - held) / open;
}

struct TopPKernels {
  // The highest of logits[n] that are not set in `excluded` (bitmap or null); NaN counts as
  // infinity. -infinity where there is none.
  float (*highest)(const float* logits, int64_t n, const uint64_t* excluded);

  // masses[n] (may be the same memory) = exp(logits - top), 0 where excluded; the sum of them.
  // `top` is the highest logit of those that take part, or above it. Where it is +infinity the
  // entries that reach it, NaN too, have mass 1 and the others 0; where it is -infinity all have 0.
  double (*masses)(const float* logits, int64_t n, const uint64_t* excluded, float top,
                   float* masses);

  // The threshold of masses[n], n >= 1, non-negative and finite. 0 <= share <= 1.
  // scratch[TopPScratchFloats(n)].
  float (*threshold)(const float* masses, int64_t n, double share, TopPRule rule, float* scratch);

  // Sets in selected[BitmapWords(n)] the bits of the masses that are at least `threshold` and not
  // excluded; other bits stay.
  void (*select_reaching)(const float* masses, int64_t n, float threshold, const uint64_t* excluded,
                          uint64_t* selected);
};

TopPKernels TopPKernelsFor(Isa isa);

SA_DECLARE_ISAS(TopPKernels MakeTopPKernels())

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SELECT_TOP_P_H_
