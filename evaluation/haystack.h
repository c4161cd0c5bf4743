// Haystack: a text cut into sentences, the filler between needles.
//
// A sentence ends after '.', '!' or '?' and any closing quotes or brackets, where a blank or
// newline follows. That blank or newline belongs to the next sentence, so that sentences joined as
// they are give running text, and a piece that starts with a blank fits between any two.
#ifndef EVALUATION_HAYSTACK_H_
#define EVALUATION_HAYSTACK_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

class Haystack {
 public:
  // INVALID_ARGUMENT if `text` has fewer than two sentences.
  static absl::StatusOr<Haystack> FromText(absl::string_view text);

  // NOT_FOUND if `path` cannot be read; otherwise as FromText, with the path before the message.
  static absl::StatusOr<Haystack> FromFile(const std::string& path);

  int64_t size() const { return static_cast<int64_t>(sentences_.size()); }

  // Sentence `index` modulo size(), with its leading blank or newline. 0 <= index.
  absl::string_view sentence(int64_t index) const { return sentences_[index % size()]; }

 private:
  explicit Haystack(std::vector<std::string> sentences) : sentences_(std::move(sentences)) {}

  std::vector<std::string> sentences_;
};

}  // namespace sparse_attention

#endif  // EVALUATION_HAYSTACK_H_
