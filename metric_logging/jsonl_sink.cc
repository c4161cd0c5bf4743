#include "metric_logging/jsonl_sink.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "metric_logging/jsonl_line.h"
#include "metric_logging/reader.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

absl::Status SystemError(const std::string& path, const char* call) {
  return absl::ErrnoToStatus(errno, absl::StrCat(path, ": ", call));
}

}  // namespace

JsonlSink::JsonlSink(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

absl::StatusOr<std::unique_ptr<JsonlSink>> JsonlSink::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return SystemError(path, "open");
  std::unique_ptr<JsonlSink> sink(new JsonlSink(path, fd));
  SA_RETURN_IF_ERROR(sink->ContinueExistingFile());
  return sink;
}

absl::Status JsonlSink::ContinueExistingFile() {
  std::lock_guard lock(mutex_);
  struct stat info;
  if (fstat(fd_, &info) != 0) return SystemError(path_, "fstat");
  if (!S_ISREG(info.st_mode)) return absl::OkStatus();
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return SystemError(path_, "flock");
    return absl::FailedPreconditionError(absl::StrCat(path_, ": another writer has the log open"));
  }
  MetricLogEnd end;
  const absl::Status read = VisitMetricLog(
      path_, [](LoggedMetric) {}, &end);
  if (!read.ok() && end.torn_bytes == 0) return read;
  if (end.torn_bytes > 0 && ftruncate(fd_, end.bytes) != 0) return SystemError(path_, "ftruncate");
  removed_tail_bytes_ = end.torn_bytes;
  next_seq_ = end.records;
  return absl::OkStatus();
}

JsonlSink::~JsonlSink() {
  std::lock_guard lock(mutex_);
  const bool seen = !status_.ok() && reported_;
  const absl::Status closed = CloseLocked();
  if (!closed.ok() && !seen) {
    std::fprintf(stderr, "%s\n", std::string(closed.message()).c_str());
  }
}

void JsonlSink::DoRecord(absl::Span<const MetricRecord> records) {
  std::lock_guard lock(mutex_);
  if (status_.ok() && fd_ < 0) {
    status_ = absl::FailedPreconditionError(absl::StrCat(path_, ": recorded after Close"));
  }
  if (!status_.ok()) {
    lost_records_ += static_cast<int64_t>(records.size());
    reported_ = false;
    return;
  }
  buffer_.clear();
  const absl::Time now = absl::Now();
  for (const MetricRecord& record : records) AppendJsonlLine(record, now, next_seq_++, buffer_);
  // One write(2), unless the system takes only part of it.
  absl::string_view rest = buffer_;
  while (!rest.empty()) {
    const ssize_t written = write(fd_, rest.data(), rest.size());
    if (written > 0) {
      rest.remove_prefix(static_cast<size_t>(written));
    } else if (written == 0 || errno != EINTR) {
      status_ = written == 0 ? absl::UnavailableError(absl::StrCat(path_, ": write: no progress"))
                             : SystemError(path_, "write");
      lost_records_ += std::count(rest.begin(), rest.end(), '\n');
      reported_ = false;
      return;
    }
  }
}

absl::Status JsonlSink::Flush() {
  std::lock_guard lock(mutex_);
  return FlushLocked();
}

absl::Status JsonlSink::FlushLocked() {
  // EINVAL: a pipe or device, which has nothing to make durable.
  if (status_.ok() && fd_ >= 0 && fdatasync(fd_) != 0 && errno != EINVAL) {
    status_ = SystemError(path_, "fdatasync");
  }
  reported_ = true;
  if (lost_records_ == 0) return status_;
  return absl::Status(status_.code(),
                      absl::StrCat(status_.message(), "; records not written: ", lost_records_));
}

absl::Status JsonlSink::Close() {
  std::lock_guard lock(mutex_);
  return CloseLocked();
}

absl::Status JsonlSink::CloseLocked() {
  const absl::Status flushed = FlushLocked();
  if (fd_ < 0) return flushed;
  const int closed = close(std::exchange(fd_, -1));
  if (closed != 0 && status_.ok()) return status_ = SystemError(path_, "close");
  return flushed;
}

}  // namespace sparse_attention
