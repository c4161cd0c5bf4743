#include "sparse_attention/research_attention/maskers/sampling/base_sample.h"

#include <algorithm>
#include <cmath>

namespace sparse_attention {
namespace {

// How far from 0 an output's squared length must lie to be one.
constexpr double kStandardErrors = 3;

double Denominator(const BaseSample& sample) {
  const double mean = sample.moments.sum / static_cast<double>(sample.moments.count);
  return sample.certain + static_cast<double>(sample.population) * mean;
}

// Of squared deviations, from the sums of them and of their own squared deviations.
double RelativeVariance(double count, double sum, double squares) {
  const double mean = sum / count;
  return mean <= 0 ? 0 : squares / count / (mean * mean);
}

}  // namespace

MassMoments MomentsOf(const double* masses, int64_t count) {
  MassMoments moments;
  moments.count = count;
  const double n = static_cast<double>(count);
  for (int64_t s = 0; s < count; ++s) moments.sum += masses[s];
  const double mean = moments.sum / n;
  for (int64_t s = 0; s < count; ++s) moments.squares += (masses[s] - mean) * (masses[s] - mean);
  for (int64_t s = 0; s < count; ++s) {
    const double off = (masses[s] - mean) * (masses[s] - mean) - moments.squares / n;
    moments.fourth += off * off;
  }
  return moments;
}

RowStatistics DenominatorStatistics(const BaseSample& sample, double epsilon) {
  const MassMoments& m = sample.moments;
  const double count = static_cast<double>(m.count);
  return {{m.count, m.squares / (count - 1), 1, RelativeVariance(count, m.squares, m.fourth)},
          epsilon * Denominator(sample),
          sample.heaviest};
}

RowStatistics OutputStatistics(const BaseSample& sample, const BaseSampleValues& values,
                               double epsilon, double* scratch) {
  const int64_t dim = values.dim, count = sample.moments.count;
  const double* const v = values.values;
  const double n = static_cast<double>(count);
  const double population = static_cast<double>(sample.population);
  const double denominator = Denominator(sample);
  double* const residuals = scratch;  // [count, dim]
  double* const squares = residuals + count * dim;
  double* const output = squares + count;
  double* const mean = output + dim;
  double* const covariance = mean + dim;

  std::fill_n(output, dim, 0.0);
  for (int64_t s = 0; s < count; ++s) {
    for (int64_t c = 0; c < dim; ++c) output[c] += values.masses[s] * v[s * dim + c];
  }
  double length2 = 0;
  for (int64_t c = 0; c < dim; ++c) {
    output[c] = (output[c] * population / n + values.certain[c]) / denominator;
    length2 += output[c] * output[c];
  }
  // The contributions x_j (v_j - o), their mean taken off.
  std::fill_n(mean, dim, 0.0);
  double longest2 = 0;
  for (int64_t s = 0; s < count; ++s) {
    double distance2 = 0;
    for (int64_t c = 0; c < dim; ++c) {
      const double distance = v[s * dim + c] - output[c];
      distance2 += distance * distance;
      mean[c] += residuals[s * dim + c] = values.masses[s] * distance;
    }
    longest2 = std::max(longest2, distance2);
  }
  double sum = 0;
  for (int64_t s = 0; s < count; ++s) {
    squares[s] = 0;
    for (int64_t c = 0; c < dim; ++c) {
      const double residual = residuals[s * dim + c] -= mean[c] / n;
      squares[s] += residual * residual;
    }
    sum += squares[s];
  }
  const double trace = sum / (n - 1);
  // tr(C^2) by plain loops: a row is too small for a threaded product. The sample covariance
  // overstates it by about tr(C)^2 / count.
  double squared = 0;
  for (int64_t a = 0; a < dim; ++a) {
    std::fill_n(covariance, dim, 0.0);
    for (int64_t s = 0; s < count; ++s) {
      const double* row = residuals + s * dim;
      for (int64_t b = 0; b < dim; ++b) covariance[b] += row[a] * row[b];
    }
    for (int64_t b = 0; b < dim; ++b) squared += covariance[b] * covariance[b];
  }
  const double trace2 = squared / ((n - 1) * (n - 1)) - trace * trace / (n - 1);
  // Two keys tell nothing of the dimensions: what is left is rounding. One dimension asks for most
  // keys. So does no spread at all, as where the head holds every key of the sample already.
  const double dimensions = trace2 > 0 && count > 2
                                ? std::clamp(trace * trace / trace2, 1.0, static_cast<double>(dim))
                                : 1.0;
  // The base sample's own noise makes the output look longer than it is.
  const double noise2 =
      trace * population * population * (1 / n - 1 / population) / (denominator * denominator);
  // What is left is uncertain too, by what a Gaussian of that length and those dimensions adds of
  // itself and along the output. A length that cannot be told from 0 allows no error: the output is
  // then an average of all keys, of which a sample has its noise alone.
  const double seen2 = std::max(0.0, length2 - noise2);
  const double variance_of_length2 = (2 * noise2 + 4 * seen2) * noise2 / dimensions;
  const double told2 = seen2 > kStandardErrors * std::sqrt(variance_of_length2) ? seen2 : 0.0;
  double fourth = 0;
  for (int64_t s = 0; s < count; ++s) fourth += (squares[s] - sum / n) * (squares[s] - sum / n);
  // The heaviest key may point as far away as any value seen.
  return {{count, trace, dimensions, RelativeVariance(n, sum, fourth)},
          epsilon * denominator * std::sqrt(told2),
          sample.heaviest * std::sqrt(longest2)};
}

}  // namespace sparse_attention
