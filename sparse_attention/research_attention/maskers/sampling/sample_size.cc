#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"

#include <algorithm>
#include <boost/math/distributions/chi_squared.hpp>
#include <cmath>

namespace sparse_attention {
namespace {

constexpr double kWorstVarianceError = 1.0 / 3;

// The budget without a bound on the population's size, for quantile q of the squared error.
double UnboundedBudget(double variance, double q, const SampleSizeProblem& problem) {
  const double n = static_cast<double>(problem.population);
  return q * variance * (n / problem.allowed_error) * (n / problem.allowed_error);
}

int64_t Bounded(double unbounded, int64_t least, int64_t population) {
  const double n = static_cast<double>(population);
  // Also true for NaN: nothing is known, so everything is read.
  if (!(unbounded < 1e18)) return population;
  const double budget = std::ceil(unbounded * n / (unbounded + n));
  return std::clamp(static_cast<int64_t>(budget), std::min(least, population), population);
}

}  // namespace

double SquaredErrorQuantile(double delta, double dimensions) {
  const boost::math::chi_squared distribution(dimensions);
  return boost::math::quantile(boost::math::complement(distribution, delta)) / dimensions;
}

SampleSize ComputeSampleSize(const SampleSpread& spread, const SampleSizeProblem& problem) {
  const double q = SquaredErrorQuantile(problem.delta, spread.dimensions);
  const double variance_error2 = spread.relative_variance / static_cast<double>(spread.count);
  // Half the curvature of P(chi2_nu / nu > q u) over its slope, at u = 1.
  const double curvature = (spread.dimensions * (q - 1) + 2) / 4;
  const double unbounded = UnboundedBudget(spread.variance, q, problem) *
                           (1 + std::max(0.0, curvature) * variance_error2);
  SampleSize size;
  size.budget = Bounded(unbounded, spread.count, problem.population);
  if (size.budget == problem.population) {
    size.guarantee_met = true;
    return size;
  }
  const double factor = static_cast<double>(problem.population) / static_cast<double>(size.budget);
  size.guarantee_met = variance_error2 <= kWorstVarianceError * kWorstVarianceError &&
                       problem.heaviest * factor <= problem.allowed_error;
  return size;
}

int64_t OptimalSampleSize(double variance, double dimensions, const SampleSizeProblem& problem) {
  const double q = SquaredErrorQuantile(problem.delta, dimensions);
  return Bounded(UnboundedBudget(variance, q, problem), 1, problem.population);
}

}  // namespace sparse_attention
