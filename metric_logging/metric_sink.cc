#include "metric_logging/metric_sink.h"

#include "sparse_attention/base/status.h"

namespace sparse_attention {

bool MetricSink::Wants(const Metric&) const { return true; }

void MetricSink::Record(const MetricRecord& record) {
  RecordGroup(absl::MakeConstSpan(&record, 1));
}

void MetricSink::RecordGroup(absl::Span<const MetricRecord> records) {
  for (const MetricRecord& record : records) {
    SA_CHECK(record.metric != nullptr);
    SA_CHECK(record.metadata.is_null() || record.metadata.is_object());
  }
  if (!records.empty()) DoRecord(records);
}

absl::Status MetricSink::Flush() { return absl::OkStatus(); }

}  // namespace sparse_attention
