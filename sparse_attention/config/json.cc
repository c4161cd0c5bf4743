#include "sparse_attention/config/json.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

bool IsContinuationByte(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// "line 3, column 7" of the byte at `offset`; columns count code points from 1.
std::string Position(absl::string_view text, size_t offset) {
  size_t line = 1;
  size_t column = 1;
  for (char c : text.substr(0, offset)) {
    if (c == '\n') {
      ++line;
      column = 1;
    } else if (!IsContinuationByte(c)) {
      ++column;
    }
  }
  return absl::StrCat("line ", line, ", column ", column);
}

// The library's message without its error code and position. It may quote ill-formed input, which
// is made printable.
std::string Reason(absl::string_view what) {
  if (const size_t end = what.find("] "); end != absl::string_view::npos) {
    what.remove_prefix(end + 2);
  }
  if (absl::StartsWith(what, "parse error at line ")) what.remove_prefix(what.find(": ") + 2);
  std::string reason;
  for (char c : what) {
    if (static_cast<unsigned char>(c) < 0x80) {
      reason += c;
    } else {
      absl::StrAppendFormat(&reason, "\\x%02X", static_cast<unsigned char>(c));
    }
  }
  return reason;
}

// Builds the value from the parser's events. Members are appended to the underlying vector
// directly: the ordered map's own insertion compares with every earlier key, which is quadratic.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(absl::string_view text) : text_(text) {}

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t& digits) override {
    // The lexer turns integers outside 64 bits into floats.
    if (digits.find_first_of(".eE") == std::string::npos) {
      return Fail(absl::StrCat("integer ", digits.substr(0, 80), " does not fit in 64 bits"));
    }
    return Add(value);
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& key) override {
    Frame& frame = open_.back();
    if (!frame.keys.insert(key).second) {
      frame.key.clear();
      return Fail(absl::StrCat("duplicate key ", DumpJson(key)));
    }
    frame.key = std::move(key);
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const size_t offset = std::min(position == 0 ? 0 : position - 1, text_.size());
    status_ = absl::InvalidArgumentError(
        absl::StrCat(Position(text_, offset), ": ", Reason(error.what())));
    return false;
  }

  const absl::Status& status() const { return status_; }
  Json& root() { return root_; }

 private:
  struct Frame {
    Json* container;
    std::string key;  // of the member that is being read
    absl::flat_hash_set<std::string> keys;
  };

  Json* Place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Frame& frame = open_.back();
    if (auto* array = frame.container->get_ptr<Json::array_t*>()) {
      array->push_back(std::move(value));
      return &array->back();
    }
    auto* object = frame.container->get_ptr<Json::object_t*>();
    object->Json::object_t::Container::emplace_back(frame.key, std::move(value));
    return &object->back().second;
  }

  bool Add(Json value) {
    Place(std::move(value));
    return true;
  }

  bool Open(Json container) {
    if (open_.size() == kMaxJsonDepth) {
      return Fail(absl::StrCat("nested deeper than ", kMaxJsonDepth, " levels"));
    }
    open_.push_back({Place(std::move(container)), "", {}});
    return true;
  }

  bool Close() {
    open_.pop_back();
    return true;
  }

  bool Fail(absl::string_view reason) {
    std::string path;
    for (const Frame& frame : open_) {
      if (frame.container->is_array()) {
        // An element that is itself open has been placed already.
        const size_t placed = &frame == &open_.back() ? 0 : 1;
        absl::StrAppend(&path, "[", frame.container->size() - placed, "]");
      } else if (!frame.key.empty()) {
        absl::StrAppend(&path, path.empty() ? "" : ".", frame.key);
      }
    }
    status_ = absl::InvalidArgumentError(path.empty() ? std::string(reason)
                                                      : absl::StrCat(path, ": ", reason));
    return false;
  }

  absl::string_view text_;
  Json root_;
  std::vector<Frame> open_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view text) {
  Builder builder(text);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) return builder.status();
  return std::move(builder.root());
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             &std::fclose);
  if (file == nullptr) {
    const std::string message = absl::StrCat(path, ": cannot open: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  std::string text;
  char buffer[1 << 16];
  while (const size_t n = std::fread(buffer, 1, sizeof(buffer), file.get())) text.append(buffer, n);
  if (std::ferror(file.get())) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot read: ", std::strerror(errno)));
  }
  absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Annotate(json.status(), path);
  return json;
}

std::string DumpJson(const Json& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::string JsonExcerpt(const Json& json) {
  constexpr size_t kLimit = 80;
  std::string text = DumpJson(json);
  if (text.size() <= kLimit) return text;
  size_t end = kLimit - 3;
  while (IsContinuationByte(text[end])) --end;
  text.resize(end);
  return text + "...";
}

bool JsonEquals(const Json& a, const Json& b) {
  if (a.is_number() || b.is_number()) {
    return a.is_number() && b.is_number() && a.is_number_float() == b.is_number_float() && a == b;
  }
  if (a.type() != b.type()) return false;
  if (a.is_array()) return std::equal(a.begin(), a.end(), b.begin(), b.end(), JsonEquals);
  if (!a.is_object()) return a == b;
  if (a.size() != b.size()) return false;
  for (const auto& [key, value] : a.items()) {
    const auto other = b.find(key);
    if (other == b.end() || !JsonEquals(value, *other)) return false;
  }
  return true;
}

}  // namespace sparse_attention
