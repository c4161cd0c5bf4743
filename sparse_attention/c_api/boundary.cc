#include "sparse_attention/c_api/boundary.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "absl/strings/str_join.h"

namespace sparse_attention::c_api {
namespace {

// No allocation: a failure to allocate is reported, too.
constexpr size_t kMostText = 2048;
thread_local char last_error[kMostText] = "";

sah_status CodeOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return SAH_OK;
    case absl::StatusCode::kInvalidArgument:
      return SAH_INVALID_ARGUMENT;
    case absl::StatusCode::kNotFound:
      return SAH_NOT_FOUND;
    case absl::StatusCode::kUnimplemented:
      return SAH_UNSUPPORTED;
    case absl::StatusCode::kResourceExhausted:
      return SAH_OUT_OF_MEMORY;
    case absl::StatusCode::kFailedPrecondition:
      return SAH_FAILED_PRECONDITION;
    default:
      return SAH_INTERNAL;
  }
}

}  // namespace

sah_status Report(const absl::Status& status) noexcept {
  if (status.ok()) return SAH_OK;
  const absl::string_view text = status.message();
  const size_t length = std::min(text.size(), kMostText - 1);
  std::memcpy(last_error, text.data(), length);
  last_error[length] = '\0';
  return CodeOf(status.code());
}

absl::Status CheckElements(const void* pointer, cpu::Element element, const Path& path) {
  if (pointer == nullptr) return RuleError(path.Text(), "must not be NULL", "NULL");
  const uintptr_t beyond =
      reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(cpu::ElementBytes(element));
  if (beyond == 0) return absl::OkStatus();
  return RuleError(path.Text(),
                   absl::StrCat("must be aligned to ", cpu::ElementBytes(element), " bytes"),
                   absl::StrCat("an address that is ", beyond, " beyond"));
}

absl::Status CheckInteger(int64_t value, int64_t low, int64_t high, const Path& path) {
  if (low <= value && value <= high) return absl::OkStatus();
  return RuleError(path.Text(), absl::StrCat("must be in [", low, ", ", high, "]"),
                   absl::StrCat(value));
}

absl::Status CheckStride(int64_t stride, cpu::Element element, int64_t least, const Path& path) {
  const int64_t bytes = cpu::ElementBytes(element);
  if (stride >= least && stride % bytes == 0) return absl::OkStatus();
  return RuleError(path.Text(),
                   absl::StrCat("must be a multiple of ", bytes, " and at least ", least),
                   absl::StrCat(stride));
}

absl::Status CheckSpan(std::initializer_list<std::pair<int64_t, int64_t>> steps, const Path& path) {
  constexpr int64_t kMost = int64_t{1} << 56;  // more than any address space
  int64_t span = 0;
  for (const auto& [count, stride] : steps) {
    int64_t part;
    if (__builtin_mul_overflow(count, stride, &part) || part > kMost || (span += part) > kMost) {
      return RuleError(path.Text(), "must span less than 2^56 bytes",
                       absl::StrCat(count, " steps of ", stride));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFactor(float value, const Path& path) {
  if (std::isfinite(value) && value >= 0) return absl::OkStatus();
  return RuleError(path.Text(), "must be finite and >= 0", absl::StrCat(value));
}

float ScaleOr(float scale, int64_t dim) {
  return scale != 0 ? scale : static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
}

absl::StatusOr<cpu::Element> ElementOf(int32_t dtype, const Path& path) {
  switch (dtype) {
    case SAH_FLOAT32:
      return cpu::Element::kFloat32;
    case SAH_FLOAT16:
      return cpu::Element::kFloat16;
    case SAH_BFLOAT16:
      return cpu::Element::kBFloat16;
    default:
      return RuleError(path.Text(), "must be SAH_FLOAT32, SAH_FLOAT16 or SAH_BFLOAT16",
                       absl::StrCat(dtype));
  }
}

absl::StatusOr<cpu::Isa> IsaOf(const char* name) {
  const std::span<const cpu::Isa> isas = cpu::SupportedIsas();
  const char* const path = name != nullptr ? "isa" : "the environment variable SA_ISA";
  if (name == nullptr) name = std::getenv("SA_ISA");
  if (name == nullptr || *name == '\0') return isas.back();
  for (cpu::Isa isa : isas) {
    if (absl::string_view(name) == cpu::IsaName(isa)) return isa;
  }
  return RuleError(path,
                   absl::StrCat("must be one of ",
                                absl::StrJoin(isas, ", ",
                                              [](std::string* out, cpu::Isa isa) {
                                                out->append(cpu::IsaName(isa));
                                              }),
                                " on this machine"),
                   absl::StrCat("\"", absl::string_view(name).substr(0, 80), "\""));
}

int32_t Paging::shift() const {
  return static_cast<int32_t>(std::countr_zero(static_cast<uint64_t>(page_size)));
}

absl::Status CheckPaging(const Paging& paging, const char* path) {
  constexpr int64_t kMostKeys = int64_t{1} << 30;
  const int64_t size = paging.page_size;
  if (size < 0 || size > kMostKeys || (size & (size - 1)) != 0) {
    return RuleError(absl::StrCat(path, ".page_size"), "must be 0 or a power of two up to 2^30",
                     absl::StrCat(size));
  }
  if (!paging.paged()) return absl::OkStatus();
  return CheckInteger(paging.pages, 1, std::numeric_limits<int32_t>::max(), Path(path, ".pages"));
}

absl::Status CheckTable(const int32_t* table, int64_t keys, const Paging& paging,
                        const Path& path) {
  const int64_t entries = paging.PagesOf(keys);
  const uint32_t pages = static_cast<uint32_t>(paging.pages);
  // The common case is a loop without branches: this runs in every step.
  uint32_t wrong = 0;
  for (int64_t i = 0; i < entries; ++i) wrong |= static_cast<uint32_t>(table[i]) >= pages;
  if (wrong == 0) return absl::OkStatus();
  const int64_t first =
      std::find_if(table, table + entries,
                   [&](int32_t entry) { return static_cast<uint32_t>(entry) >= pages; }) -
      table;
  return RuleError(absl::StrCat(path.Text(), "[", first, "]"),
                   absl::StrCat("must be in [0, ", pages, ")"), absl::StrCat(table[first]));
}

}  // namespace sparse_attention::c_api

using sparse_attention::c_api::Guarded;

extern "C" {

int32_t sah_api_version(void) { return SAH_API_VERSION; }

const char* sah_version(void) { return SAH_VERSION; }

const char* sah_status_name(sah_status status) {
  // As a number: what a C program passes need not be one of the names.
  switch (static_cast<int>(status)) {
    case SAH_OK:
      return "SAH_OK";
    case SAH_INVALID_ARGUMENT:
      return "SAH_INVALID_ARGUMENT";
    case SAH_NOT_FOUND:
      return "SAH_NOT_FOUND";
    case SAH_UNSUPPORTED:
      return "SAH_UNSUPPORTED";
    case SAH_OUT_OF_MEMORY:
      return "SAH_OUT_OF_MEMORY";
    case SAH_FAILED_PRECONDITION:
      return "SAH_FAILED_PRECONDITION";
    case SAH_INTERNAL:
      return "SAH_INTERNAL";
    default:
      return "unknown sah_status";
  }
}

const char* sah_last_error(void) { return sparse_attention::c_api::last_error; }

sah_status sah_default_isa(const char** name) {
  return Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(sparse_attention::c_api::CheckPointer(name, "name"));
    SA_ASSIGN_OR_RETURN(const auto isa, sparse_attention::c_api::IsaOf(nullptr));
    *name = sparse_attention::cpu::IsaName(isa);
    return absl::OkStatus();
  });
}

}  // extern "C"
