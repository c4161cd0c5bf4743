#include "evaluation/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

std::string PathIn(const std::string& folder) { return absl::StrCat(folder, "/journal.jsonl"); }

absl::Status FileError(const std::string& path, absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(path, ": ", what, ": ", std::strerror(errno)));
}

}  // namespace

std::string StableHash(absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return absl::StrFormat("%016x", hash);
}

Json SampleResult::ToJson() const {
  return {{"key", key},
          {"config", config},
          {"task", task},
          {"context", context},
          {"sample", sample},
          {"score", score},
          {"prediction", prediction},
          {"density", measurements.density},
          {"kv_bytes_fraction", measurements.kv_bytes_fraction},
          {"index_bytes_fraction", measurements.index_bytes_fraction},
          {"guarantee_unknown", measurements.guarantee_unknown},
          {"output_error", measurements.output_error.ToJson()},
          {"ms_per_token", ms_per_token}};
}

absl::StatusOr<SampleResult> SampleResult::FromJson(const Json& json) {
  SampleResult r;
  try {
    json.at("key").get_to(r.key);
    json.at("config").get_to(r.config);
    json.at("task").get_to(r.task);
    json.at("context").get_to(r.context);
    json.at("sample").get_to(r.sample);
    json.at("score").get_to(r.score);
    json.at("prediction").get_to(r.prediction);
    json.at("density").get_to(r.measurements.density);
    json.at("kv_bytes_fraction").get_to(r.measurements.kv_bytes_fraction);
    json.at("index_bytes_fraction").get_to(r.measurements.index_bytes_fraction);
    json.at("guarantee_unknown").get_to(r.measurements.guarantee_unknown);
    json.at("ms_per_token").get_to(r.ms_per_token);
    SA_ASSIGN_OR_RETURN(r.measurements.output_error,
                        ErrorHistogram::FromJson(json.at("output_error")));
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(e.what());
  }
  return r;
}

bool Journal::Exists(const std::string& folder) {
  return access(PathIn(folder).c_str(), F_OK) == 0;
}

absl::StatusOr<std::unique_ptr<Journal>> Journal::Open(const std::string& folder) {
  const std::string path = PathIn(folder);
  std::string text;
  if (std::ifstream file(path, std::ios::binary); file) {
    text.assign(std::istreambuf_iterator<char>(file), {});
  }
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) return FileError(path, "cannot be opened");
  std::unique_ptr<Journal> journal(new Journal(descriptor));
  journal->path_ = path;
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn: it was never promised to be there
    absl::StatusOr<Json> json = ParseJson(absl::string_view(text).substr(begin, end - begin));
    if (!json.ok()) return Annotate(json.status(), absl::StrCat(path, ": line ", line));
    absl::StatusOr<SampleResult> result = SampleResult::FromJson(*json);
    if (!result.ok()) return Annotate(result.status(), absl::StrCat(path, ": line ", line));
    journal->results_[result->key] = *std::move(result);
    begin = end + 1;
  }
  if (begin < text.size() && ftruncate(descriptor, static_cast<off_t>(begin)) != 0) {
    return FileError(path, "its torn last line cannot be cut off");
  }
  return journal;
}

Journal::~Journal() { close(descriptor_); }

const SampleResult* Journal::Find(absl::string_view key) const {
  const auto found = results_.find(key);
  return found == results_.end() ? nullptr : &found->second;
}

absl::Status Journal::Append(const SampleResult& result) {
  const std::string line = absl::StrCat(DumpJson(result.ToJson()), "\n");
  if (write(descriptor_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return FileError(path_, "a result cannot be written");
  }
  if (fdatasync(descriptor_) != 0) return FileError(path_, "a result cannot be synced");
  results_[result.key] = result;
  return absl::OkStatus();
}

}  // namespace sparse_attention
