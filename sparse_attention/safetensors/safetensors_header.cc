#include "sparse_attention/safetensors/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

// The reference's JSON library refuses deeper nesting.
constexpr size_t kMaxDepth = 127;
constexpr size_t kMaxShownName = 200;
constexpr absl::string_view kMetadataKey = "__metadata__";

std::optional<SafetensorsDtype> DtypeFromName(absl::string_view name) {
  for (int i = 0; i <= static_cast<int>(SafetensorsDtype::kU64); ++i) {
    const auto dtype = static_cast<SafetensorsDtype>(i);
    if (DtypeName(dtype) == name) return dtype;
  }
  return std::nullopt;
}

std::string Quoted(absl::string_view text) {
  if (text.size() <= kMaxShownName) return absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\"");
  return absl::StrCat("\"", absl::CEscape(text.substr(0, kMaxShownName)), "\"...");
}

// Receives the parser's events; a handler that returns false ends the parse, with the reason in
// status_. The method names are those that nlohmann::json::sax_parse calls.
class HeaderHandler {
 public:
  // nlohmann's interface asks for these names.
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  bool null() {
    // Like the reference: "__metadata__": null is no metadata.
    if (place_ == Place::kTop && in_metadata_) return true;
    return Scalar("null");
  }
  bool boolean(bool value) { return Scalar(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) { return Scalar(absl::StrCat(value)); }
  bool number_float(number_float_t, const string_t& text) {
    return Scalar(text.size() > 40 ? text.substr(0, 40) + "..." : text);
  }
  bool number_unsigned(number_unsigned_t value) {
    if (place_ == Place::kShape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return FailTensor(
            absl::StrCat("shape[", tensor_.shape.size(), "] must be below 2^63, got ", value));
      }
      tensor_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (offsets_seen_ == 2) return FailTensor("data_offsets must have 2 elements, got more");
      (offsets_seen_ == 0 ? tensor_.begin : tensor_.end) = value;
      ++offsets_seen_;
      return true;
    }
    return Scalar(absl::StrCat(value));
  }
  bool binary(binary_t&) { return Fail("binary value"); }  // JSON text has none

  bool string(string_t& value) {
    if (place_ == Place::kMetadata) {
      header_.metadata.emplace(std::move(metadata_key_), std::move(value));
      return true;
    }
    if (place_ == Place::kTensor && field_ == Field::kDtype) {
      const std::optional<SafetensorsDtype> dtype = DtypeFromName(value);
      if (!dtype.has_value()) return FailTensor(absl::StrCat("unknown dtype ", Quoted(value)));
      tensor_.dtype = *dtype;
      return true;
    }
    return Scalar(Quoted(value));
  }

  bool key(string_t& name) {
    switch (place_) {
      case Place::kTop:
        in_metadata_ = name == kMetadataKey;
        if (!names_.insert(name).second) return Fail(absl::StrCat("duplicate key ", Quoted(name)));
        tensor_ = {};
        tensor_.name = std::move(name);
        return true;
      case Place::kMetadata:
        if (header_.metadata.contains(name)) {
          return Fail(absl::StrCat("__metadata__ has the duplicate key ", Quoted(name)));
        }
        metadata_key_ = std::move(name);
        return true;
      case Place::kTensor:
        return TensorKey(name);
      default:
        return true;
    }
  }

  bool start_object(size_t) {
    if (!Enter()) return false;
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kTop:
        place_ = in_metadata_ ? Place::kMetadata : Place::kTensor;
        seen_ = 0;
        field_ = Field::kUnknown;
        return true;
      default:
        return StartIgnored("an object");
    }
  }
  bool end_object() {
    Leave();
    if (place_ == Place::kIgnored) return EndIgnored();
    if (place_ == Place::kTensor && !EndTensor()) return false;
    place_ = Place::kTop;
    return true;
  }

  bool start_array(size_t) {
    if (!Enter()) return false;
    if (place_ == Place::kTensor && field_ == Field::kShape) {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kTensor && field_ == Field::kOffsets) {
      place_ = Place::kOffsets;
      offsets_seen_ = 0;
      return true;
    }
    return StartIgnored("an array");
  }
  bool end_array() {
    Leave();
    if (place_ == Place::kIgnored) return EndIgnored();
    if (place_ == Place::kOffsets && offsets_seen_ != 2) {
      return FailTensor(absl::StrCat("data_offsets must have 2 elements, got ", offsets_seen_));
    }
    place_ = Place::kTensor;
    return true;
  }

  // The parser's own message would repeat the offending token, however long it is.
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) {
    return Fail(absl::StrCat("header is not valid JSON at byte ", position));
  }

  const absl::Status& status() const { return status_; }
  SafetensorsHeader Take() { return std::move(header_); }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kIgnored };
  enum class Field { kUnknown = 0, kDtype = 1, kShape = 2, kOffsets = 4 };

  bool Fail(std::string message) {
    status_ = absl::InvalidArgumentError(message);
    return false;
  }
  bool FailTensor(absl::string_view message) {
    return Fail(absl::StrCat(TensorLabel(tensor_.name), ": ", message));
  }

  bool Enter() {
    if (++depth_ <= kMaxDepth) return true;
    return Fail(absl::StrCat("header is nested deeper than ", kMaxDepth));
  }
  void Leave() { --depth_; }

  // A value in a field that the format does not define is skipped; elsewhere `what` is of the wrong
  // type.
  bool StartIgnored(absl::string_view what) {
    if (place_ == Place::kTensor && field_ == Field::kUnknown) {
      place_ = Place::kIgnored;
      ignored_depth_ = 0;
    }
    if (place_ != Place::kIgnored) return WrongType(what);
    ++ignored_depth_;
    return true;
  }
  bool EndIgnored() {
    if (--ignored_depth_ == 0) place_ = Place::kTensor;
    return true;
  }
  bool Scalar(absl::string_view what) {
    if (place_ == Place::kIgnored) return true;
    if (place_ == Place::kTensor && field_ == Field::kUnknown) return true;
    return WrongType(what);
  }

  bool WrongType(absl::string_view got) {
    switch (place_) {
      case Place::kTop:
        if (in_metadata_) return Fail(absl::StrCat("__metadata__ must be an object, got ", got));
        return FailTensor(absl::StrCat("must be an object, got ", got));
      case Place::kMetadata:
        return Fail(
            absl::StrCat("__metadata__[", Quoted(metadata_key_), "] must be a string, got ", got));
      case Place::kShape:
        return FailTensor(
            absl::StrCat("shape[", tensor_.shape.size(), "] must be an integer >= 0, got ", got));
      case Place::kOffsets:
        return FailTensor(
            absl::StrCat("data_offsets[", offsets_seen_, "] must be an integer >= 0, got ", got));
      case Place::kTensor:
        if (field_ == Field::kDtype) {
          return FailTensor(absl::StrCat("dtype must be a string, got ", got));
        }
        return FailTensor(absl::StrCat(field_ == Field::kShape ? "shape" : "data_offsets",
                                       " must be a list of integers, got ", got));
      default:
        return Fail(absl::StrCat("header must be an object, got ", got));
    }
  }

  bool TensorKey(absl::string_view name) {
    field_ = name == "dtype"          ? Field::kDtype
             : name == "shape"        ? Field::kShape
             : name == "data_offsets" ? Field::kOffsets
                                      : Field::kUnknown;
    if ((seen_ & static_cast<int>(field_)) != 0) {
      return FailTensor(absl::StrCat("duplicate field ", name));
    }
    seen_ |= static_cast<int>(field_);
    return true;
  }

  bool EndTensor() {
    const auto has = [&](Field field) { return (seen_ & static_cast<int>(field)) != 0; };
    if (!has(Field::kDtype)) return FailTensor("dtype is missing");
    if (!has(Field::kShape)) return FailTensor("shape is missing");
    if (!has(Field::kOffsets)) return FailTensor("data_offsets is missing");
    header_.tensors.push_back(std::move(tensor_));
    return true;
  }

  absl::Status status_;
  SafetensorsHeader header_;
  Place place_ = Place::kStart;
  size_t depth_ = 0;
  size_t ignored_depth_ = 0;
  absl::flat_hash_set<std::string> names_;
  bool in_metadata_ = false;  // the value of the current top-level key is the metadata
  std::string metadata_key_;
  SafetensorsHeader::Tensor tensor_;  // being read
  Field field_ = Field::kUnknown;
  int seen_ = 0;  // bits of Field
  int offsets_seen_ = 0;
};

std::string ShapeText(const std::vector<int64_t>& shape) {
  constexpr size_t kShown = 8;
  const auto end = shape.begin() + static_cast<ptrdiff_t>(std::min(shape.size(), kShown));
  return absl::StrCat("[", absl::StrJoin(shape.begin(), end, ", "),
                      shape.size() > kShown ? ", ..." : "", "]");
}

// Bytes that a tensor of this shape takes.
absl::StatusOr<uint64_t> SizeOf(const SafetensorsHeader::Tensor& tensor) {
  const auto described = [&] {
    return absl::StrCat("shape ", ShapeText(tensor.shape), " of ", DtypeName(tensor.dtype));
  };
  uint64_t bits = 1;
  bool overflow = false;
  for (const int64_t dimension : tensor.shape) {
    overflow |= __builtin_mul_overflow(bits, static_cast<uint64_t>(dimension), &bits);
  }
  overflow |= __builtin_mul_overflow(bits, static_cast<uint64_t>(DtypeBits(tensor.dtype)), &bits);
  if (overflow) return absl::InvalidArgumentError(absl::StrCat(described(), " overflows 64 bits"));
  if (bits % 8 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(described(), " does not fill whole bytes"));
  }
  return bits / 8;
}

}  // namespace

std::string TensorLabel(absl::string_view name) { return absl::StrCat("tensor ", Quoted(name)); }

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view json) {
  if (json.empty() || json.front() != '{') {
    return absl::InvalidArgumentError("header must begin with '{'");
  }
  // The parser takes a NUL for the end of its input and would not look at what follows.
  if (const size_t nul = json.find('\0'); nul != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("header is not valid JSON at byte ", nul + 1));
  }
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(json.data(), json.data() + json.size(), &handler)) {
    return handler.status();
  }
  return handler.Take();
}

absl::Status SortAndCheckLayout(SafetensorsHeader& header, uint64_t data_bytes) {
  std::vector<SafetensorsHeader::Tensor>& tensors = header.tensors;
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t expected = 0;
  for (const SafetensorsHeader::Tensor& tensor : tensors) {
    const auto wrong = [&](absl::string_view why) {
      return absl::InvalidArgumentError(absl::StrCat(TensorLabel(tensor.name), ": data_offsets [",
                                                     tensor.begin, ", ", tensor.end, "] ", why));
    };
    if (tensor.end < tensor.begin) return wrong("must not decrease");
    if (tensor.begin != expected) {
      return wrong(absl::StrCat("must begin at ", expected, ", where the tensor before it ends: ",
                                tensor.begin < expected ? "an overlap" : "a hole"));
    }
    const absl::StatusOr<uint64_t> size = SizeOf(tensor);
    if (!size.ok()) return Annotate(size.status(), TensorLabel(tensor.name));
    if (tensor.end - tensor.begin != *size) {
      return wrong(absl::StrCat("must span the ", *size, " bytes of shape ",
                                ShapeText(tensor.shape), " of ", DtypeName(tensor.dtype)));
    }
    if (tensor.end > data_bytes) {
      return wrong(absl::StrCat("lie beyond the file's ", data_bytes, " bytes of data"));
    }
    expected = tensor.end;
  }
  if (expected != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensors end at byte ", expected, " of the data, the file has ", data_bytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace sparse_attention
