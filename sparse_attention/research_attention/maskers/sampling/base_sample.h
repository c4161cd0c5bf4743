// What a base sample tells about a row of attention: how much its keys differ, and which error the
// promise allows. Shared by both engines.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_BASE_SAMPLE_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_BASE_SAMPLE_H_

#include <cstdint>

#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"

namespace sparse_attention {

// Masses are exponentials of logits relative to any one number, the same for all; 0 of a key that
// the head holds already. With m their mean, and s the mean of (x - m)^2:
struct MassMoments {
  int64_t count = 0;   // >= 2
  double sum = 0;      // of x
  double squares = 0;  // of (x - m)^2
  double fourth = 0;   // of ((x - m)^2 - s)^2
};
MassMoments MomentsOf(const double* masses, int64_t count);

struct BaseSample {
  MassMoments moments;
  int64_t population = 0;  // keys open to sampling, >= count
  double certain = 0;      // mass of the keys that are held
  double heaviest = 0;     // the most that a key of the population may have
};

struct BaseSampleValues {
  const double* masses = nullptr;  // [count]
  const double* values = nullptr;  // [count, dim], the values of the sample's keys
  const float* certain = nullptr;  // [dim], sum over the held keys of mass times value
  int64_t dim = 0;
};

struct RowStatistics {
  SampleSpread spread;
  double allowed_error = 0;
  double heaviest = 0;
};

// For a promise about the denominator: |D^ - D| <= epsilon D.
RowStatistics DenominatorStatistics(const BaseSample& sample, double epsilon);

// For a promise about the output, ||o^ - o|| <= epsilon ||o||. To first order the output's error is
// the error of sum x_j (v_j - o), divided by the denominator. An output whose length the base
// sample cannot tell from 0 allows no error. `scratch` holds OutputScratchDoubles(count, dim).
RowStatistics OutputStatistics(const BaseSample& sample, const BaseSampleValues& values,
                               double epsilon, double* scratch);
constexpr int64_t OutputScratchDoubles(int64_t count, int64_t dim) {
  return count * dim + count + 3 * dim;
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_BASE_SAMPLE_H_
