// ErrorHistogram: the mean and percentiles of many relative errors, in little memory and mergeable.
//
// A sample of a long task has tens of thousands of errors (layers x heads x tokens); results of
// samples must survive in a journal and add up to the percentiles of a cell. Errors are counted in
// bins that grow by 1 %, so a percentile is within 0.5 % of the exact one; the mean is exact.
#ifndef EVALUATION_ERROR_HISTOGRAM_H_
#define EVALUATION_ERROR_HISTOGRAM_H_

#include <cstdint>
#include <map>

#include "absl/status/statusor.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

class ErrorHistogram {
 public:
  // `error` >= 0. NaN counts as infinite, so that a broken row cannot look exact.
  void Add(double error, int64_t times = 1);
  void Merge(const ErrorHistogram& other);

  int64_t count() const { return count_; }
  double Mean() const;                      // 0 without errors
  double Percentile(double percent) const;  // in [0, 100]; 0 without errors

  Json ToJson() const;
  static absl::StatusOr<ErrorHistogram> FromJson(const Json& json);

 private:
  std::map<int, int64_t> bins_;  // bin -> errors in it
  int64_t count_ = 0;
  double sum_ = 0;
};

}  // namespace sparse_attention

#endif  // EVALUATION_ERROR_HISTOGRAM_H_
