// Typed metric ids: what can be measured, in which unit, and the list of all of them.
//
// A metric is a constant; code refers to it by that constant, never by its name, so that a misspelt
// metric does not compile:
//
//   inline constexpr Metric kPagesRead{"pages_read", MetricType::kInteger, "pages", "Pages ..."};
//   SA_RETURN_IF_ERROR(RegisterMetric(kPagesRead));   // once, from main
//
// Names are what logs and plots show. The first two are the Python hub's; values mean what its do.
#ifndef METRIC_LOGGING_METRIC_H_
#define METRIC_LOGGING_METRIC_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

// Whether values are whole numbers. Either way a record holds a double.
enum class MetricType { kFloat, kInteger };

struct Metric {
  absl::string_view name;  // lower_snake_case, unique
  MetricType type = MetricType::kFloat;
  absl::string_view unit;
  absl::string_view summary;  // one sentence
};

inline constexpr Metric kResearchAttentionDensity{
    "research_attention_density", MetricType::kFloat, "fraction",
    "Keys that the mask selects over the keys that attention may see."};
inline constexpr Metric kResearchAttentionOutputError{
    "research_attention_output_error", MetricType::kFloat, "ratio",
    "||o - o_dense|| / ||o_dense|| on identical q, k and v."};
inline constexpr Metric kKvRowsFraction{
    "kv_rows_fraction", MetricType::kFloat, "fraction",
    "Distinct K and V rows read, united over the query heads of a KV head, over all rows."};
inline constexpr Metric kIndexBytesFraction{"index_bytes_fraction", MetricType::kFloat, "ratio",
                                            "Bytes that scoring reads over the bytes of K and V."};
inline constexpr Metric kSampleBudget{"sample_budget", MetricType::kFloat, "keys",
                                      "Keys that a sampling masker drew."};
inline constexpr Metric kGuaranteeMetFraction{
    "guarantee_met_fraction", MetricType::kFloat, "fraction",
    "Rows whose (epsilon, delta) promise the sample supports."};
inline constexpr Metric kGuaranteeUnknownFraction{
    "guarantee_unknown_fraction", MetricType::kFloat, "fraction",
    "Rows whose sample cannot tell whether the (epsilon, delta) promise holds."};
inline constexpr Metric kEmptyRows{"empty_rows", MetricType::kInteger, "rows",
                                   "Query rows that see no key."};
inline constexpr Metric kNanRows{"nan_rows", MetricType::kInteger, "rows",
                                 "Query rows whose output holds a NaN."};

// The metrics above, then the registered ones in order of registration. Thread-safe.
std::vector<const Metric*> AllMetrics();

// nullptr where no metric has this name. Thread-safe.
const Metric* FindMetric(absl::string_view name);

// Adds a metric of one's own; `metric` and its text must live as long as the process. Thread-safe.
// FailedPrecondition if the name is taken, InvalidArgument if it is not lower_snake_case.
absl::Status RegisterMetric(const Metric& metric);

}  // namespace sparse_attention

#endif  // METRIC_LOGGING_METRIC_H_
