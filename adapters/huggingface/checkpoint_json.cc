#include "adapters/huggingface/checkpoint_json.h"

#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

using Json = nlohmann::json;

// A first pass over the text that stops at what nlohmann's own tree would accept silently: keys
// that repeat, and deep nesting.
class StrictPass final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(Json::number_integer_t) override { return true; }
  bool number_unsigned(Json::number_unsigned_t) override { return true; }
  bool number_float(Json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(Json::binary_t&) override { return true; }
  bool start_object(size_t) override { return Open(); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(); }
  bool end_array() override { return Close(); }
  bool key(std::string& name) override {
    if (open_.back().insert(name).second) return true;
    return Fail(absl::StrCat("duplicate key ", JsonExcerpt(name)));
  }
  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    return Fail(absl::StrCat("not valid JSON at byte ", position));
  }
  const absl::Status& status() const { return status_; }

 private:
  static constexpr size_t kMaxDepth = 64;

  bool Fail(const std::string& message) {
    status_ = absl::InvalidArgumentError(message);
    return false;
  }
  bool Open() {
    open_.emplace_back();
    return open_.size() <= kMaxDepth || Fail(absl::StrCat("nested deeper than ", kMaxDepth));
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> open_;  // keys of each object (none for an array) that is open
  absl::Status status_;
};

std::string IntRule(int64_t min, int64_t max, int64_t seen) {
  if (seen > max) return absl::StrCat("must be <= ", max);
  return min == 1 ? "must be > 0" : absl::StrCat("must be >= ", min);
}

}  // namespace

absl::StatusOr<std::string> ReadBoundedFile(const std::string& path, size_t max_bytes) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  std::ifstream in(path, std::ios::binary);
  if (!std::filesystem::is_regular_file(status) || !in) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a readable file"));
  }
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error || size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": must have at most ", max_bytes, " bytes, got ", size));
  }
  std::string text(size, '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  if (in.gcount() != static_cast<std::streamsize>(size)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot read"));
  }
  return text;
}

absl::StatusOr<Json> ParseJsonObject(absl::string_view text) {
  // nlohmann takes a NUL for the end of the text.
  if (const size_t nul = text.find('\0'); nul != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("not valid JSON at byte ", nul + 1));
  }
  StrictPass strict;
  const char* begin = text.data();
  if (text.empty() || !Json::sax_parse(begin, begin + text.size(), &strict)) {
    return text.empty() ? absl::InvalidArgumentError("not valid JSON: empty") : strict.status();
  }
  Json json = Json::parse(begin, begin + text.size(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be a JSON object, got ", JsonExcerpt(json)));
  }
  return json;
}

std::string JsonExcerpt(const Json& value) {
  constexpr size_t kShown = 80;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return text;
}

const Json* JsonFields::Find(absl::string_view name) const {
  const auto found = object_.find(std::string(name));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonFields::Mentions(absl::string_view name) const {
  return object_.contains(std::string(name));
}

absl::Status JsonFields::Wrong(absl::string_view name, absl::string_view rule,
                               const Json& seen) const {
  return absl::InvalidArgumentError(
      absl::StrCat(prefix_, name, " ", rule, ", got ", JsonExcerpt(seen)));
}

absl::Status JsonFields::Missing(absl::string_view name) const {
  return absl::InvalidArgumentError(absl::StrCat(prefix_, name, " is missing"));
}

absl::StatusOr<int64_t> JsonFields::CheckInt(absl::string_view name, const Json& value, int64_t min,
                                             int64_t max) const {
  if (!value.is_number_integer()) return Wrong(name, "must be an integer", value);
  // An unsigned value beyond int64_t would turn negative.
  const int64_t number =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)
          ? INT64_MAX
          : value.get<int64_t>();
  if (number < min || number > max) return Wrong(name, IntRule(min, max, number), value);
  return number;
}

absl::StatusOr<std::optional<int64_t>> JsonFields::Int(absl::string_view name, int64_t min,
                                                       int64_t max) const {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  return CheckInt(name, *value, min, max);
}

absl::StatusOr<std::optional<double>> JsonFields::Number(absl::string_view name, double min,
                                                         double max) const {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) return Wrong(name, "must be a number", *value);
  const auto number = value->get<double>();
  if (number < min) return Wrong(name, absl::StrCat("must be >= ", min), *value);
  if (number > max) return Wrong(name, absl::StrCat("must be <= ", max), *value);
  return number;
}

absl::StatusOr<std::optional<bool>> JsonFields::Bool(absl::string_view name) const {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) return Wrong(name, "must be true or false", *value);
  return value->get<bool>();
}

absl::StatusOr<std::optional<std::string>> JsonFields::String(absl::string_view name) const {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) return Wrong(name, "must be a string", *value);
  return value->get<std::string>();
}

absl::StatusOr<std::optional<std::vector<int64_t>>> JsonFields::IntOrList(absl::string_view name,
                                                                          int64_t min,
                                                                          int64_t max) const {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  std::vector<int64_t> numbers;
  if (!value->is_array()) {
    if (!value->is_number_integer()) {
      return Wrong(name, "must be an integer or a list of integers", *value);
    }
    SA_ASSIGN_OR_RETURN(const int64_t number, CheckInt(name, *value, min, max));
    numbers.push_back(number);
    return numbers;
  }
  for (size_t i = 0; i < value->size(); ++i) {
    SA_ASSIGN_OR_RETURN(const int64_t number,
                        CheckInt(absl::StrCat(name, "[", i, "]"), (*value)[i], min, max));
    numbers.push_back(number);
  }
  return numbers;
}

}  // namespace sparse_attention
