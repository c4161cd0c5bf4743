// How many keys a uniform sample needs so that attention stays within a promised error: the
// statistics of vAttention.
//
// A sum over N keys is estimated from b of them, drawn without replacement and weighted by N / b.
// By the central limit theorem for finite populations the error has the covariance N^2 (1/b - 1/N)
// C, where C is the covariance of one key's contribution. Its squared length is close to that of a
// Gaussian with the same trace and effective number of dimensions, tr(C) chi2_nu / nu with nu =
// tr(C)^2 / tr(C^2) (Satterthwaite 1946). The promise
//   P(error > a) <= delta
// therefore asks for N^2 (1/b - 1/N) tr(C) q <= a^2 with q the 1 - delta quantile of chi2_nu / nu.
// For a scalar (nu = 1) sqrt(q) is the two-sided normal quantile; vAttention (Desai et al., 2025)
// and the Python hub use the one-sided one, which keeps only half of the promise.
//
// tr(C) comes from a small base sample and is uncertain itself; a budget that is right on average
// fails more often than delta, since failing grows faster than linearly as the budget shrinks. The
// budget is therefore raised by the second-order term of that effect; for a scalar Gaussian this is
// Student's correction.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLE_SIZE_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLE_SIZE_H_

#include <cstdint>

namespace sparse_attention {

// What a base sample tells about the contributions of single keys.
struct SampleSpread {
  int64_t count = 0;      // keys in the base sample, >= 2
  double variance = 0;    // tr(C), unbiased
  double dimensions = 1;  // nu >= 1; 1 for a scalar
  double relative_variance =
      0;  // of squared deviations: Var(|x - m|^2) / E[|x - m|^2]^2; kurtosis - 1 for a scalar
};

struct SampleSizeProblem {
  int64_t population = 0;    // N
  double allowed_error = 0;  // a, of the estimated sum
  double delta = 0.05;       // in (0, 1)
  double heaviest = 0;  // the largest contribution that any single key of the population can make
};

struct SampleSize {
  int64_t budget = 0;  // keys to draw, in [min(base count, N), N]
  // False: the promise is not supported, because the base sample says too little about its own
  // spread (relative standard error of the variance above 1/3), or because one key of the sample
  // could break it alone.
  bool guarantee_met = false;
};

SampleSize ComputeSampleSize(const SampleSpread& spread, const SampleSizeProblem& problem);

// The smallest budget that the central limit theorem allows where the spread is known exactly.
int64_t OptimalSampleSize(double variance, double dimensions, const SampleSizeProblem& problem);

// The 1 - delta quantile of chi2_nu / nu. delta in (0, 1), nu >= 1.
double SquaredErrorQuantile(double delta, double dimensions);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLE_SIZE_H_
