// A MetricSink that appends to a file, one JSON object a line (jsonl_line.h).
//
// Each group of records is one write(2) on an O_APPEND descriptor, made before RecordGroup returns:
// killing the process loses nothing that was recorded, and Flush makes it survive a power failure.
// Nothing is dropped silently. After a failed write the sink writes no more, so that nothing
// follows a torn line; Flush and Close then say what failed and how many records are missing.
//
// A file has one writer at a time; several processes write a file each. Thread-safe.
#ifndef METRIC_LOGGING_JSONL_SINK_H_
#define METRIC_LOGGING_JSONL_SINK_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "metric_logging/metric_sink.h"

namespace sparse_attention {

class JsonlSink final : public MetricSink {
 public:
  // Creates the file or continues it: sequence numbers go on, and a tail that a killed writer left
  // half-written is cut off (removed_tail_bytes). Devices and pipes are written as they are.
  // Errors begin with the path: NotFound where the folder is missing, FailedPrecondition where
  // another sink has the file open, DataLoss or InvalidArgument with the line that is not a record.
  static absl::StatusOr<std::unique_ptr<JsonlSink>> Open(const std::string& path);

  // Closes. An error that no Flush or Close has returned goes to stderr.
  ~JsonlSink() override;

  int64_t removed_tail_bytes() const { return removed_tail_bytes_; }

  // fdatasync, or the first error since Open with the path, the system's reason and the number of
  // records that are not in the file.
  absl::Status Flush() override;

  // Flush, then closes the file. Records after this are lost, which a later Flush reports. Closing
  // again changes nothing.
  absl::Status Close();

 private:
  JsonlSink(std::string path, int fd);

  void DoRecord(absl::Span<const MetricRecord> records) override;
  absl::Status ContinueExistingFile();
  absl::Status FlushLocked();
  absl::Status CloseLocked();

  const std::string path_;
  int64_t removed_tail_bytes_ = 0;
  std::mutex mutex_;  // guards what follows; the functions above named ...Locked want it held
  int fd_;            // -1 once closed
  int64_t next_seq_ = 0;
  std::string buffer_;   // the lines of one group; kept for its capacity
  absl::Status status_;  // the first error
  int64_t lost_records_ = 0;
  bool reported_ = true;  // the caller has seen status_ and lost_records_
};

}  // namespace sparse_attention

#endif  // METRIC_LOGGING_JSONL_SINK_H_
