// Normally distributed draws from a Philox stream.
#ifndef SPARSE_ATTENTION_BASE_NORMAL_H_
#define SPARSE_ATTENTION_BASE_NORMAL_H_

#include <cmath>
#include <numbers>
#include <utility>

#include "sparse_attention/base/philox.h"

namespace sparse_attention {

// Two independent standard normal numbers from the next two uniform ones: Box and Muller, 1958.
inline std::pair<double, double> NormalPair(PhiloxStream& stream) {
  const double radius = std::sqrt(-2 * std::log(1 - stream.Uniform()));  // 1 - u is never 0
  const double angle = 2 * std::numbers::pi * stream.Uniform();
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_BASE_NORMAL_H_
