#include "adapters/huggingface/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace sparse_attention {

std::string StopStrings::Push(absl::string_view piece) {
  if (found_) return "";
  held_.append(piece.data(), piece.size());
  size_t cut = std::string::npos;
  for (const std::string& stop : strings_) {
    if (!stop.empty()) cut = std::min(cut, held_.find(stop));
  }
  if (cut != std::string::npos) {
    found_ = true;
    return std::exchange(held_, "").substr(0, cut);
  }
  size_t keep = 0;
  for (const std::string& stop : strings_) {
    for (size_t n = std::min(held_.size(), stop.empty() ? 0 : stop.size() - 1); n > keep; --n) {
      if (absl::EndsWith(held_, absl::string_view(stop).substr(0, n))) keep = n;
    }
  }
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopStrings::Flush() { return std::exchange(held_, ""); }

}  // namespace sparse_attention
