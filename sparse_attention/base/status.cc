#include "sparse_attention/base/status.h"

#include "absl/strings/str_cat.h"

namespace sparse_attention {

absl::Status Annotate(const absl::Status& status, absl::string_view prefix) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(prefix, ": ", status.message()));
}

}  // namespace sparse_attention
