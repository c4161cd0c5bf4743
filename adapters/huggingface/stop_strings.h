// StopStrings: cuts a stream of text at the first of several strings. Torch-free.
#ifndef ADAPTERS_HUGGINGFACE_STOP_STRINGS_H_
#define ADAPTERS_HUGGINGFACE_STOP_STRINGS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sparse_attention {

class StopStrings {
 public:
  // Empty strings never stop.
  explicit StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {}

  // The text that is certain to come before any stop string. What could be the beginning of one is
  // held back.
  std::string Push(absl::string_view piece);
  // What was held back; for the end of the stream.
  std::string Flush();
  // A stop string was met; nothing comes out any more.
  bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_STOP_STRINGS_H_
