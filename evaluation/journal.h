// Journal: the result of every (config, task, context, sample) of a run, written as it comes, so
// that an interrupted run goes on where it stopped.
//
// `journal.jsonl` in the run's folder: one JSON object a line, appended with a single write and
// synced to the disk. A line is found again by its key, a hash of everything that the result
// depends on; so a changed config, model or seed never meets an old result. A torn last line, the
// trace of a crash, is cut off on opening.
#ifndef EVALUATION_JOURNAL_H_
#define EVALUATION_JOURNAL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evaluation/step_accumulator.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// 16 hexadecimal digits, the same on every machine (FNV-1a, 64 bits).
std::string StableHash(absl::string_view text);

struct SampleResult {
  std::string key;
  std::string config;
  std::string task;
  int64_t context = 0;
  int64_t sample = 0;
  double score = 0;        // share of the answers found; perplexity: mean loss in nats a token
  std::string prediction;  // empty for perplexity
  SampleMeasurements measurements;
  double ms_per_token = 0;  // 0: not timed

  Json ToJson() const;
  static absl::StatusOr<SampleResult> FromJson(const Json& json);
};

// For one thread and one process.
class Journal {
 public:
  // `folder` must exist. InvalidArgument: a line before the last is damaged; the message names it.
  // Unavailable: the file cannot be opened or written.
  static absl::StatusOr<std::unique_ptr<Journal>> Open(const std::string& folder);
  static bool Exists(const std::string& folder);
  ~Journal();

  // Null where the key has no result yet.
  const SampleResult* Find(absl::string_view key) const;
  absl::Status Append(const SampleResult& result);
  int64_t size() const { return static_cast<int64_t>(results_.size()); }

 private:
  explicit Journal(int descriptor) : descriptor_(descriptor) {}

  int descriptor_;
  std::string path_;
  std::map<std::string, SampleResult, std::less<>> results_;
};

}  // namespace sparse_attention

#endif  // EVALUATION_JOURNAL_H_
