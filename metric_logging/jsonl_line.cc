#include "metric_logging/jsonl_line.h"

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "metric_logging/crc32c.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

constexpr absl::string_view kCrcKey = ",\"crc\":\"";
constexpr size_t kCrcDigits = 8;
constexpr size_t kCrcBytes = kCrcKey.size() + kCrcDigits + 2;  // `,"crc":"9a3bd1f0"}`
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Json ValueToJson(const MetricRecord& record) {
  const double value = record.value;
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  const bool whole = std::trunc(value) == value && std::fabs(value) < 0x1p53;
  if (record.metric->type == MetricType::kInteger && whole) return static_cast<int64_t>(value);
  return value;
}

std::optional<double> ValueFromJson(const Json& json) {
  if (json.is_number()) return json.get<double>();
  if (json == "NaN") return std::numeric_limits<double>::quiet_NaN();
  if (json == "Infinity") return kInfinity;
  if (json == "-Infinity") return -kInfinity;
  return std::nullopt;
}

Json MetadataToJson(const MetricRecord& record) {
  Json metadata = Json::object();
  if (record.layer >= 0) metadata["layer_idx"] = record.layer;
  if (record.head >= 0) metadata["head"] = record.head;
  if (record.query_position >= 0) metadata["query_position"] = record.query_position;
  if (!record.masker.empty()) metadata["masker"] = record.masker;
  for (const auto& [key, value] : record.metadata.items()) {
    if (!metadata.contains(key)) metadata[key] = value;
  }
  return metadata;
}

// Moves an index out of `metadata`; anything else under that key is the caller's and stays.
void TakeIndex(Json& metadata, const char* key, int64_t& index) {
  const auto it = metadata.find(key);
  if (it == metadata.end() || !it->is_number_integer() || it->get<int64_t>() < 0) return;
  index = it->get<int64_t>();
  metadata.erase(it);
}

// The member of this name, which must be a string.
absl::StatusOr<std::string> StringMember(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", key, "\" must be a string, got ",
                                                   it == object.end() ? "none" : JsonExcerpt(*it)));
  }
  return it->get<std::string>();
}

absl::Status CheckCrc(absl::string_view line) {
  const size_t body = line.size() < kCrcBytes ? 0 : line.size() - kCrcBytes;
  if (body == 0 || line.substr(body, kCrcKey.size()) != kCrcKey || !absl::EndsWith(line, "\"}")) {
    return absl::DataLossError("line must end with a checksum");
  }
  const absl::string_view written = line.substr(body + kCrcKey.size(), kCrcDigits);
  const std::string computed =
      absl::StrFormat("%08x", ExtendCrc32c(Crc32c(line.substr(0, body)), "}"));
  if (written == computed) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("crc must be ", computed, ", got \"", absl::CEscape(written), "\""));
}

}  // namespace

void AppendJsonlLine(const MetricRecord& record, absl::Time time, int64_t seq, std::string& out) {
  const size_t begin = out.size();
  absl::StrAppend(&out, "{\"timestamp\":\"",
                  absl::FormatTime("%Y-%m-%dT%H:%M:%E6S", time, absl::LocalTimeZone()),
                  "\",\"metric\":", DumpJson(std::string(record.metric->name)),
                  ",\"value\":", DumpJson(ValueToJson(record)),
                  ",\"metadata\":", DumpJson(MetadataToJson(record)),
                  ",\"location\":", DumpJson(record.location), ",\"seq\":", seq);
  const uint32_t crc = ExtendCrc32c(Crc32c(absl::string_view(out).substr(begin)), "}");
  absl::StrAppendFormat(&out, "%s%08x\"}\n", kCrcKey, crc);
}

absl::StatusOr<LoggedMetric> ParseJsonlLine(absl::string_view line) {
  SA_RETURN_IF_ERROR(CheckCrc(line));
  SA_ASSIGN_OR_RETURN(const Json object, ParseJson(line));
  LoggedMetric logged;
  SA_ASSIGN_OR_RETURN(logged.timestamp, StringMember(object, "timestamp"));
  SA_ASSIGN_OR_RETURN(logged.metric, StringMember(object, "metric"));
  SA_ASSIGN_OR_RETURN(logged.location, StringMember(object, "location"));

  const Json value = object.value("value", Json());
  const std::optional<double> number = ValueFromJson(value);
  if (!number.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"value\" must be a number, got ", JsonExcerpt(value)));
  }
  logged.value = *number;

  const Json seq = object.value("seq", Json());
  if (!seq.is_number_integer()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"seq\" must be an integer, got ", JsonExcerpt(seq)));
  }
  logged.seq = seq.get<int64_t>();

  logged.metadata = object.value("metadata", Json());
  if (!logged.metadata.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"metadata\" must be an object, got ", JsonExcerpt(logged.metadata)));
  }
  TakeIndex(logged.metadata, "layer_idx", logged.layer);
  TakeIndex(logged.metadata, "head", logged.head);
  TakeIndex(logged.metadata, "query_position", logged.query_position);
  if (const auto it = logged.metadata.find("masker");
      it != logged.metadata.end() && it->is_string()) {
    logged.masker = it->get<std::string>();
    logged.metadata.erase(it);
  }
  return logged;
}

}  // namespace sparse_attention
