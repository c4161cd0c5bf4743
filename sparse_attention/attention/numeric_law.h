// The numeric law of this project's attention, for tests: an implementation may be at most so much
// worse than the plain LibTorch computation in the same type, both judged by a float64 reference
// over the same keys:
//   max  |out - ref| <= 2 max |baseline - ref| + 2 max |(ref + 0.3 - 0.3) - ref|
//   mean |out - ref| <= 1.5 mean |baseline - ref|
// The last term of the first line is evaluated in the type of `out`: what one rounding costs.
// FlashAttention tests its kernels by such a law.
#ifndef SPARSE_ATTENTION_ATTENTION_NUMERIC_LAW_H_
#define SPARSE_ATTENTION_ATTENTION_NUMERIC_LAW_H_

#include <ATen/core/Tensor.h>

#include "gmock/gmock.h"

namespace sparse_attention {

// EXPECT_THAT(out, ObeysNumericLaw(reference, baseline)): `out` and `baseline` have the type of q,
// `reference` is float64, all finite.
MATCHER_P2(ObeysNumericLaw, reference, baseline, "obeys the numeric law") {
  if (arg.sizes() != reference.sizes() || arg.scalar_type() != baseline.scalar_type()) {
    *result_listener << "whose shape or type differs";
    return false;
  }
  if (arg.numel() == 0) return true;
  const at::Tensor rounded = reference.to(arg.scalar_type()).add(0.3).sub(0.3);
  const at::Tensor error = arg.to(at::kDouble).sub(reference).abs();
  const at::Tensor plain = baseline.to(at::kDouble).sub(reference).abs();
  const at::Tensor rounding = rounded.to(at::kDouble).sub(reference).abs();
  const double max_allowed =
      2 * plain.max().template item<double>() + 2 * rounding.max().template item<double>();
  const double mean_allowed = 1.5 * plain.mean().template item<double>();
  const double max_error = error.max().template item<double>();
  const double mean_error = error.mean().template item<double>();
  *result_listener << "largest error " << max_error << " of " << max_allowed << ", mean error "
                   << mean_error << " of " << mean_allowed;
  // Written so that NaN fails.
  return max_error <= max_allowed && mean_error <= mean_allowed;
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_NUMERIC_LAW_H_
