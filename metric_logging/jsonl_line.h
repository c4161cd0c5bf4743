// One line of a metric log: a JSON object with the Python hub's keys in its order, then a sequence
// number and a checksum.
//
//   {"timestamp":"2025-03-01T09:30:00.000125","metric":"research_attention_density","value":0.02,
//    "metadata":{"layer_idx":3,"head":0,"query_position":4095,"masker":"sink"},
//    "location":"ResearchAttention.Run","seq":17,"crc":"9a3bd1f0"}                 (on one line)
//
// timestamp: local time in microseconds. value: a number, or "NaN", "Infinity", "-Infinity".
// metadata: `layer_idx`, `head`, `query_position`, `masker` where they apply, then the caller's own
// members. seq: 0 for the first line of a file, then one more for each line. crc: CRC-32C in eight
// hexadecimal digits of the line as it would be without it, `{...,"seq":17}`.
#ifndef METRIC_LOGGING_JSONL_LINE_H_
#define METRIC_LOGGING_JSONL_LINE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "metric_logging/metric_sink.h"

namespace sparse_attention {

// A record as read back. Its metric is a name, since a log may hold metrics that this program does
// not know.
struct LoggedMetric {
  std::string timestamp;
  std::string metric;
  double value = 0;
  int64_t layer = -1;  // these four as in MetricRecord
  int64_t head = -1;
  int64_t query_position = -1;
  std::string masker;
  std::string location;
  Json metadata = Json::object();  // the other members
  int64_t seq = 0;
};

// Appends the line and its end to `out`. Text that is not UTF-8 is written as U+FFFD.
void AppendJsonlLine(const MetricRecord& record, absl::Time time, int64_t seq, std::string& out);

// Reads a line without its end. DataLoss: no or a wrong checksum. InvalidArgument: the checksum
// holds, but the line is not as described above.
absl::StatusOr<LoggedMetric> ParseJsonlLine(absl::string_view line);

}  // namespace sparse_attention

#endif  // METRIC_LOGGING_JSONL_LINE_H_
