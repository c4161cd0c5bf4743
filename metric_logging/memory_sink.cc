#include "metric_logging/memory_sink.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace sparse_attention {
namespace {

absl::Status NeverRecorded(const Metric& metric) {
  return absl::NotFoundError(absl::StrCat("metric \"", metric.name, "\" has no records"));
}

}  // namespace

void MemorySink::DoRecord(absl::Span<const MetricRecord> records) {
  std::lock_guard lock(mutex_);
  records_.insert(records_.end(), records.begin(), records.end());
}

std::vector<MetricRecord> MemorySink::records() const {
  std::lock_guard lock(mutex_);
  return records_;
}

void MemorySink::Clear() {
  std::lock_guard lock(mutex_);
  records_.clear();
}

std::vector<double> MemorySink::Values(const Metric& metric) const {
  std::lock_guard lock(mutex_);
  std::vector<double> values;
  for (const MetricRecord& record : records_) {
    if (record.metric->name == metric.name) values.push_back(record.value);
  }
  return values;
}

absl::StatusOr<double> MemorySink::Mean(const Metric& metric) const {
  const std::vector<double> values = Values(metric);
  if (values.empty()) return NeverRecorded(metric);
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

absl::StatusOr<double> MemorySink::Percentile(const Metric& metric, double percent) const {
  if (!(percent >= 0 && percent <= 100)) {
    return absl::InvalidArgumentError(absl::StrCat("percent must be in [0, 100], got ", percent));
  }
  std::vector<double> values = Values(metric);
  if (values.empty()) return NeverRecorded(metric);
  if (std::any_of(values.begin(), values.end(), [](double value) { return std::isnan(value); })) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  std::sort(values.begin(), values.end());
  const double rank = percent / 100 * static_cast<double>(values.size() - 1);
  const size_t below = static_cast<size_t>(rank);
  const double share = rank - static_cast<double>(below);
  // Without a share above, the next value is not looked at: it may be infinite.
  if (share == 0) return values[below];
  return values[below] + share * (values[below + 1] - values[below]);
}

absl::StatusOr<std::map<int64_t, double>> MemorySink::MeanPerLayer(const Metric& metric) const {
  std::lock_guard lock(mutex_);
  std::map<int64_t, double> sums;
  std::map<int64_t, int64_t> counts;
  for (const MetricRecord& record : records_) {
    if (record.metric->name != metric.name) continue;
    sums[record.layer] += record.value;
    ++counts[record.layer];
  }
  if (sums.empty()) return NeverRecorded(metric);
  for (auto& [layer, sum] : sums) sum /= static_cast<double>(counts[layer]);
  return sums;
}

}  // namespace sparse_attention
