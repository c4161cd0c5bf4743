#include "evaluation/haystack.h"

#include <cstddef>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

absl::StatusOr<Haystack> Haystack::FromText(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  std::vector<std::string> sentences;
  size_t begin = 0;
  while (begin < text.size()) {
    size_t end = begin;
    do {
      end = text.find_first_of(".!?", end);
      end = end == absl::string_view::npos ? end : text.find_first_not_of(".!?\"')]", end);
    } while (end != absl::string_view::npos && !absl::ascii_isspace(text[end]));
    if (end == absl::string_view::npos) end = text.size();
    const absl::string_view body = text.substr(begin, end - begin);
    // After the last sentence the text starts again, on a new line.
    sentences.push_back(absl::StrCat(begin == 0 ? "\n" : "", body));
    begin = end;
  }
  if (sentences.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a haystack must have at least 2 sentences, got ", sentences.size()));
  }
  return Haystack(std::move(sentences));
}

absl::StatusOr<Haystack> Haystack::FromFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  }
  absl::StatusOr<Haystack> haystack = FromText(text.str());
  if (!haystack.ok()) return Annotate(haystack.status(), path);
  return haystack;
}

}  // namespace sparse_attention
