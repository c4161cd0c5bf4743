#include "sparse_attention/base/tensor_near.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/base/tensor_check.h"

namespace sparse_attention {
namespace {

double Epsilon(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return std::numeric_limits<double>::epsilon();
    case at::kFloat:
      return std::numeric_limits<float>::epsilon();
    case at::kHalf:
      return std::numeric_limits<c10::Half>::epsilon();
    case at::kBFloat16:
      return std::numeric_limits<c10::BFloat16>::epsilon();
    default:
      return 0;  // integers and bool: exact
  }
}

// "[0, 2, 1]": the position of entry `flat` in a tensor of this shape.
std::string IndexText(at::IntArrayRef sizes, int64_t flat) {
  std::string text;
  for (int64_t d = static_cast<int64_t>(sizes.size()) - 1; d >= 0; --d) {
    text = absl::StrCat(flat % sizes[d], text.empty() ? "" : ", ", text);
    flat /= sizes[d];
  }
  return absl::StrCat("[", text, "]");
}

bool SameClass(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  if (std::isinf(a) || std::isinf(b)) return a == b;
  return true;
}

}  // namespace

TensorNearMatcher::TensorNearMatcher(at::Tensor expected, const Tolerance& tolerance)
    : expected_(expected.to(at::kCPU, at::kDouble).contiguous()), tolerance_(tolerance) {}

bool TensorNearMatcher::MatchAndExplain(const at::Tensor& actual,
                                        ::testing::MatchResultListener* out) const {
  if (!actual.defined() || actual.sizes() != expected_.sizes()) {
    *out << "which is " << DescribeTensor(actual);
    return false;
  }
  const at::Tensor host = actual.to(at::kCPU, at::kDouble).contiguous();
  const double* a = host.const_data_ptr<double>();
  const double* e = expected_.const_data_ptr<double>();
  const int64_t count = host.numel();

  double magnitude = tolerance_.magnitude;
  int64_t misplaced = 0, first_misplaced = -1;
  for (int64_t i = 0; i < count; ++i) {
    if (!SameClass(a[i], e[i])) {
      if (misplaced++ == 0) first_misplaced = i;
    } else if (tolerance_.magnitude == 0 && std::isfinite(e[i])) {
      magnitude = std::max(magnitude, std::abs(e[i]));
    }
  }
  if (misplaced > 0) {
    *out << "where NaN or infinity differs at " << misplaced << " of " << count
         << " entries, first at " << IndexText(host.sizes(), first_misplaced) << ": got "
         << a[first_misplaced] << ", want " << e[first_misplaced];
    return false;
  }

  const double eps = Epsilon(actual.scalar_type());
  int64_t passed = 0, worst = -1;
  double worst_excess = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double error = std::isfinite(e[i]) ? std::abs(a[i] - e[i]) : 0;
    const double allowed =
        eps * (tolerance_.relative_eps * std::abs(e[i]) + tolerance_.absolute_eps * magnitude);
    if (error <= allowed || error == 0) {
      ++passed;
    } else if (worst == -1 || error - allowed > worst_excess) {
      worst = i;
      worst_excess = error - allowed;
    }
  }
  if (worst == -1) return true;
  *out << absl::StrCat("whose worst entry ", IndexText(host.sizes(), worst), " is ", a[worst],
                       ", want ", e[worst], ", off by ", std::abs(a[worst] - e[worst]), " where ",
                       std::abs(a[worst] - e[worst]) - worst_excess, " is allowed; ", passed,
                       " of ", count, " entries pass");
  return false;
}

void TensorNearMatcher::DescribeTo(std::ostream* out) const {
  *out << "is near " << DescribeTensor(expected_) << " within eps * (" << tolerance_.relative_eps
       << " * |expected| + " << tolerance_.absolute_eps << " * ";
  if (tolerance_.magnitude == 0) {
    *out << "max |expected|)";
  } else {
    *out << tolerance_.magnitude << ")";
  }
}

void TensorNearMatcher::DescribeNegationTo(std::ostream* out) const {
  *out << "not: ";
  DescribeTo(out);
}

}  // namespace sparse_attention

namespace at {

void PrintTo(const Tensor& tensor, std::ostream* out) {
  constexpr int64_t kMostPrinted = 32;
  *out << sparse_attention::DescribeTensor(tensor);
  if (!tensor.defined() || tensor.numel() > kMostPrinted) return;
  const Tensor host = tensor.to(kCPU, kDouble).contiguous();
  const double* begin = host.const_data_ptr<double>();
  *out << " {" << absl::StrJoin(begin, begin + host.numel(), ", ") << "}";
}

}  // namespace at
