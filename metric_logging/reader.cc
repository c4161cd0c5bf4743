#include "metric_logging/reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

// The record of a line whose sequence number is `seq`.
absl::StatusOr<LoggedMetric> ParseInSequence(absl::string_view line, int64_t seq) {
  SA_ASSIGN_OR_RETURN(LoggedMetric logged, ParseJsonlLine(line));
  if (logged.seq != seq) {
    return absl::DataLossError(absl::StrCat("seq must be ", seq, ", got ", logged.seq));
  }
  return logged;
}

}  // namespace

absl::Status VisitMetricLog(const std::string& path, const std::function<void(LoggedMetric)>& visit,
                            MetricLogEnd* end) {
  MetricLogEnd unused;
  MetricLogEnd& stop = end == nullptr ? unused : *end;
  stop = {};
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": open"));
  const absl::Cleanup close_fd = [fd] { close(fd); };

  const auto at_line = [&] { return absl::StrCat(path, ": line ", stop.records + 1); };
  std::array<char, 1 << 16> chunk;
  std::string line;  // what is read of the current line
  while (true) {
    const ssize_t size = read(fd, chunk.data(), chunk.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return absl::ErrnoToStatus(errno, absl::StrCat(path, ": read"));
    if (size == 0) break;
    absl::string_view rest(chunk.data(), static_cast<size_t>(size));
    while (!rest.empty()) {
      const size_t newline = rest.find('\n');
      absl::StrAppend(&line, rest.substr(0, newline));
      if (line.size() > kMaxJsonlLineBytes) {
        return absl::DataLossError(
            absl::StrCat(at_line(), ": must be at most ", kMaxJsonlLineBytes, " bytes long"));
      }
      if (newline == absl::string_view::npos) break;
      absl::StatusOr<LoggedMetric> logged = ParseInSequence(line, stop.records);
      if (!logged.ok()) return Annotate(logged.status(), at_line());
      visit(*std::move(logged));
      ++stop.records;
      stop.bytes += static_cast<int64_t>(line.size()) + 1;
      line.clear();
      rest.remove_prefix(newline + 1);
    }
  }
  if (line.empty()) return absl::OkStatus();
  stop.torn_bytes = static_cast<int64_t>(line.size());
  return absl::DataLossError(
      absl::StrCat(at_line(), ": torn, its ", stop.torn_bytes, " bytes have no end of line"));
}

absl::StatusOr<std::vector<LoggedMetric>> ReadMetricLog(const std::string& path) {
  std::vector<LoggedMetric> records;
  SA_RETURN_IF_ERROR(
      VisitMetricLog(path, [&](LoggedMetric logged) { records.push_back(std::move(logged)); }));
  return records;
}

}  // namespace sparse_attention
