// A MetricSink that keeps every record in memory, with the summaries that reports and tests ask
// for.
//
// Memory grows with each record (about 200 bytes); for long runs log to a file. Thread-safe.
#ifndef METRIC_LOGGING_MEMORY_SINK_H_
#define METRIC_LOGGING_MEMORY_SINK_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "metric_logging/metric_sink.h"

namespace sparse_attention {

class MemorySink final : public MetricSink {
 public:
  std::vector<MetricRecord> records() const;
  void Clear();

  // All values of `metric`, in the order of recording.
  std::vector<double> Values(const Metric& metric) const;

  // NotFound where `metric` was never recorded, here and below; a NaN among the values makes the
  // result NaN.
  absl::StatusOr<double> Mean(const Metric& metric) const;

  // Linear between the two closest ranks, as NumPy's default: 0 is the least value, 100 the
  // largest. InvalidArgument unless 0 <= percent <= 100.
  absl::StatusOr<double> Percentile(const Metric& metric, double percent) const;

  // Layer -> mean over its records; -1 holds the records of no layer.
  absl::StatusOr<std::map<int64_t, double>> MeanPerLayer(const Metric& metric) const;

 private:
  void DoRecord(absl::Span<const MetricRecord> records) override;

  mutable std::mutex mutex_;  // guards what follows
  std::vector<MetricRecord> records_;
};

}  // namespace sparse_attention

#endif  // METRIC_LOGGING_MEMORY_SINK_H_
