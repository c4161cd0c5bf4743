// Reads a metric log back (jsonl_line.h), checking every line's checksum and sequence number.
//
// A log that is missing, torn or damaged is an error, never an empty result. Messages begin with
// the path and the line: "run/metrics.jsonl: line 12: crc must be ...".
//   NotFound         there is no such file
//   DataLoss         torn tail (the last line has no end), wrong checksum, missing or repeated line
//   InvalidArgument  a line with a right checksum that is not a record
#ifndef METRIC_LOGGING_READER_H_
#define METRIC_LOGGING_READER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "metric_logging/jsonl_line.h"

namespace sparse_attention {

// A longer line is taken for damage, so that no file makes the reader run out of memory.
inline constexpr size_t kMaxJsonlLineBytes = size_t{64} << 20;

// Where reading stopped.
struct MetricLogEnd {
  int64_t records = 0;     // good lines
  int64_t bytes = 0;       // that they take
  int64_t torn_bytes = 0;  // behind them, where the fault is a torn tail; else 0
};

// Calls `visit` with each record in order, up to the first fault: whatever it got is good. Needs
// memory for one line.
absl::Status VisitMetricLog(const std::string& path, const std::function<void(LoggedMetric)>& visit,
                            MetricLogEnd* end = nullptr);

// All records of a log without faults.
absl::StatusOr<std::vector<LoggedMetric>> ReadMetricLog(const std::string& path);

}  // namespace sparse_attention

#endif  // METRIC_LOGGING_READER_H_
