// Where measurements go. A `MetricSink*` is passed to whoever measures; nullptr, the default
// everywhere, means that nothing is measured or kept.
//
//   if (WantsMetric(sink, kResearchAttentionOutputError)) {   // skips what is costly to compute
//     sink->Record({.metric = &kResearchAttentionOutputError, .value = error, .layer = layer});
//   }
#ifndef METRIC_LOGGING_METRIC_SINK_H_
#define METRIC_LOGGING_METRIC_SINK_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "metric_logging/metric.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// One measured value and what it belongs to. What does not apply stays at its default.
struct MetricRecord {
  const Metric* metric = nullptr;
  double value = 0;             // NaN and infinities are kept as such
  int64_t layer = -1;           // -1: not of one layer
  int64_t head = -1;            // query head; -1: over all heads
  int64_t query_position = -1;  // absolute; -1: over all queries
  std::string masker = {};      // the masker's type, where one masker is measured
  std::string location = {};    // "ResearchAttention.Run": the code that measured
  Json metadata = nullptr;      // null or an object with anything else worth keeping
};

// Takes records from any number of threads at once. Recording never fails at the call: a sink that
// loses a record says so in Flush.
class MetricSink {
 public:
  virtual ~MetricSink() = default;
  MetricSink(const MetricSink&) = delete;
  MetricSink& operator=(const MetricSink&) = delete;

  // False where records of this metric would be thrown away.
  virtual bool Wants(const Metric& metric) const;

  void Record(const MetricRecord& record);
  // The records of one step: kept next to one another, in this order.
  void RecordGroup(absl::Span<const MetricRecord> records);

  // Makes everything recorded before the call durable, or says what was lost and why.
  virtual absl::Status Flush();

 protected:
  MetricSink() = default;

 private:
  // Not called with an empty group; every record has a metric, and null or an object as metadata.
  virtual void DoRecord(absl::Span<const MetricRecord> records) = 0;
};

inline bool WantsMetric(const MetricSink* sink, const Metric& metric) {
  return sink != nullptr && sink->Wants(metric);
}

}  // namespace sparse_attention

#endif  // METRIC_LOGGING_METRIC_SINK_H_
