#include "metric_logging/jsonl_sink.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metric_logging/reader.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string FreshPath() {
  const std::string path = absl::StrCat(::testing::TempDir(), "jsonl_sink_test.jsonl");
  std::filesystem::remove(path);
  return path;
}

std::unique_ptr<JsonlSink> OpenSink(const std::string& path) {
  absl::StatusOr<std::unique_ptr<JsonlSink>> sink = JsonlSink::Open(path);
  SA_CHECK_OK(sink);
  return *std::move(sink);
}

TEST(JsonlSink, RecordsAreReadableBeforeFlush) {
  const std::string path = FreshPath();
  const std::unique_ptr<JsonlSink> sink = OpenSink(path);
  sink->Record({.metric = &kEmptyRows, .value = 1, .layer = 4});
  sink->RecordGroup({{.metric = &kNanRows, .value = 2}, {.metric = &kNanRows, .value = 3}});
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<LoggedMetric> records, ReadMetricLog(path));
  ASSERT_EQ(records.size(), 3);
  EXPECT_EQ(records[0].metric, "empty_rows");
  EXPECT_EQ(records[0].layer, 4);
  EXPECT_EQ(records[2].value, 3);
  SA_EXPECT_OK(sink->Flush());
  SA_EXPECT_OK(sink->Close());
  SA_EXPECT_OK(sink->Close());
}

TEST(JsonlSink, ContinuesAFile) {
  const std::string path = FreshPath();
  for (int run = 0; run < 3; ++run) OpenSink(path)->Record({.metric = &kEmptyRows, .value = 1});
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<LoggedMetric> records, ReadMetricLog(path));
  EXPECT_EQ(records.size(), 3);
}

TEST(JsonlSink, CutsATornTailAndSaysSo) {
  const std::string path = FreshPath();
  OpenSink(path)->Record({.metric = &kEmptyRows, .value = 1});
  std::ofstream(path, std::ios::app) << "{\"timest";
  const std::unique_ptr<JsonlSink> sink = OpenSink(path);
  EXPECT_EQ(sink->removed_tail_bytes(), 8);
  sink->Record({.metric = &kEmptyRows, .value = 2});
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<LoggedMetric> records, ReadMetricLog(path));
  ASSERT_EQ(records.size(), 2);
  EXPECT_EQ(records[1].value, 2);
}

TEST(JsonlSink, LeavesADamagedOrForeignFileAlone) {
  const std::string path = FreshPath();
  const std::string text = "not a log\nof ours\n";
  std::ofstream(path) << text;
  EXPECT_THAT(JsonlSink::Open(path),
              StatusIs(absl::StatusCode::kDataLoss, StartsWith(path + ": line 1: ")));
  EXPECT_EQ(std::filesystem::file_size(path), text.size());
}

TEST(JsonlSink, OneWriterAtATime) {
  const std::string path = FreshPath();
  std::unique_ptr<JsonlSink> first = OpenSink(path);
  EXPECT_THAT(JsonlSink::Open(path), StatusIs(absl::StatusCode::kFailedPrecondition,
                                              StartsWith(path + ": another writer")));
  first.reset();
  SA_EXPECT_OK(JsonlSink::Open(path));
}

TEST(JsonlSink, MissingFolder) {
  EXPECT_THAT(
      JsonlSink::Open("/nowhere/m.jsonl"),
      StatusIs(absl::StatusCode::kNotFound, "/nowhere/m.jsonl: open: No such file or directory"));
}

TEST(JsonlSink, ThreadsLoseNothingAndGroupsStayTogether) {
  const std::string path = FreshPath();
  const std::unique_ptr<JsonlSink> sink = OpenSink(path);
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < 6; ++thread) {
    threads.emplace_back([&sink, thread] {
      for (int64_t step = 0; step < 200; ++step) {
        sink->RecordGroup({{.metric = &kEmptyRows, .layer = thread, .query_position = step},
                           {.metric = &kNanRows, .layer = thread, .query_position = step}});
        if (step % 50 == 0) {
          SA_EXPECT_OK(sink->Flush());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<LoggedMetric> records, ReadMetricLog(path));
  ASSERT_EQ(records.size(), 6 * 200 * 2);
  std::map<int64_t, int64_t> steps;
  for (size_t i = 0; i < records.size(); i += 2) {
    EXPECT_EQ(records[i].metric, "empty_rows");
    EXPECT_EQ(records[i + 1].metric, "nan_rows");
    EXPECT_EQ(records[i].layer, records[i + 1].layer);
    EXPECT_EQ(records[i].query_position, steps[records[i].layer]++);
  }
}

TEST(JsonlSink, FullDisk) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const std::unique_ptr<JsonlSink> sink = OpenSink("/dev/full");
  SA_EXPECT_OK(sink->Flush());
  sink->RecordGroup({{.metric = &kEmptyRows}, {.metric = &kEmptyRows}});
  sink->Record({.metric = &kEmptyRows});
  const auto fails = StatusIs(absl::StatusCode::kResourceExhausted,
                              "/dev/full: write: No space left on device; records not written: 3");
  EXPECT_THAT(sink->Flush(), fails);
  EXPECT_THAT(sink->Close(), fails);
}

// The limit on file size lets the system take a part of a group only.
TEST(JsonlSink, PartOfAGroupFits) {
  const std::string path = FreshPath();
  const std::unique_ptr<JsonlSink> sink = OpenSink(path);
  sink->Record({.metric = &kEmptyRows, .value = 1});
  const rlim_t line_bytes = std::filesystem::file_size(path);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit limit = {line_bytes * 2 + 20, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  sink->RecordGroup({{.metric = &kEmptyRows, .value = 2}, {.metric = &kEmptyRows, .value = 3}});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, old_handler);

  sink->Record({.metric = &kEmptyRows, .value = 4});  // space or not: nothing follows a torn line
  const absl::Status closed = sink->Close();
  EXPECT_FALSE(closed.ok());
  EXPECT_THAT(std::string(closed.message()), AllOf(StartsWith(path + ": write: File too large"),
                                                   EndsWith("records not written: 2")));
  MetricLogEnd end;
  EXPECT_THAT(VisitMetricLog(
                  path, [](LoggedMetric) {}, &end),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("line 3: torn")));
  EXPECT_EQ(end.records, 2);
  EXPECT_EQ(OpenSink(path)->removed_tail_bytes(), 20);
}

TEST(JsonlSink, DescriptorClosedBehindItsBack) {
  const std::string path = FreshPath();
  std::unique_ptr<JsonlSink> sink = OpenSink(path);
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    if (std::filesystem::read_symlink(entry, error) == std::filesystem::canonical(path)) {
      close(std::stoi(entry.path().filename()));
      break;
    }
  }
  sink->Record({.metric = &kEmptyRows});
  EXPECT_THAT(sink->Flush(),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       path + ": write: Bad file descriptor; records not written: 1"));
}

TEST(JsonlSink, RecordAfterClose) {
  const std::string path = FreshPath();
  const std::unique_ptr<JsonlSink> sink = OpenSink(path);
  SA_ASSERT_OK(sink->Close());
  SA_EXPECT_OK(sink->Flush());
  sink->Record({.metric = &kEmptyRows});
  EXPECT_THAT(sink->Flush(), StatusIs(absl::StatusCode::kFailedPrecondition,
                                      path + ": recorded after Close; records not written: 1"));
}

TEST(JsonlSink, DestructorReportsWhatNobodyAskedFor) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  for (const bool ask : {false, true}) {
    ::testing::internal::CaptureStderr();
    {
      const std::unique_ptr<JsonlSink> sink = OpenSink("/dev/full");
      sink->Record({.metric = &kEmptyRows});
      if (ask) {
        EXPECT_FALSE(sink->Flush().ok());
      }
    }
    EXPECT_EQ(::testing::internal::GetCapturedStderr(),
              ask ? "" : "/dev/full: write: No space left on device; records not written: 1\n");
  }
}

// A killed writer has lost nothing that Record returned from, and its log can be continued.
TEST(JsonlSink, KilledWriter) {
  const std::string path = FreshPath();
  PhiloxStream random(1, RandomPurpose::kTest, 0, 0, 0);
  int64_t least = 0;  // records that must be in the log
  for (int round = 0; round < 20; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const std::unique_ptr<JsonlSink> sink = OpenSink(path);
      while (true) {
        sink->Record({.metric = &kEmptyRows});
        if (write(pipe_ends[1], "x", 1) != 1) _exit(1);
      }
    }
    close(pipe_ends[1]);
    char byte;
    for (uint32_t i = random.Below(200) + 1; i > 0; --i) {
      ASSERT_EQ(read(pipe_ends[0], &byte, 1), 1);
      ++least;
    }
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    while (read(pipe_ends[0], &byte, 1) == 1) ++least;
    close(pipe_ends[0]);

    MetricLogEnd end;
    const absl::Status read_back = VisitMetricLog(
        path, [](LoggedMetric) {}, &end);
    EXPECT_TRUE(read_back.ok() || end.torn_bytes > 0) << read_back;
    EXPECT_GE(end.records, least);
    EXPECT_LE(end.records, least + 1);
    least = end.records;
  }
}

}  // namespace
}  // namespace sparse_attention
