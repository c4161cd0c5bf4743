#include "adapters/huggingface/tokenizer_added_tokens.h"

#include <algorithm>
#include <functional>

#include "adapters/huggingface/tokenizer_unicode.h"

namespace sparse_attention {
namespace {

// Where the white space at the end of `text` starts.
size_t TrailingSpaceStart(absl::string_view text) {
  while (!text.empty() && IsWhiteSpace(LastCodePoint(text))) {
    while ((text.back() & 0xC0) == 0x80) text.remove_suffix(1);
    text.remove_suffix(1);
  }
  return text.size();
}

size_t LeadingSpaceLength(absl::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Unit unit = DecodeUtf8(text.substr(length));
    if (!IsWhiteSpace(unit.code_point)) break;
    length += unit.length;
  }
  return length;
}

bool IsSingleWord(absl::string_view text, size_t begin, size_t end) {
  return (begin == 0 || !IsWordCharacter(LastCodePoint(text.substr(0, begin)))) &&
         (end == text.size() || !IsWordCharacter(DecodeUtf8(text.substr(end)).code_point));
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(absl::Span<const AddedToken> tokens)
    : tokens_(tokens.begin(), tokens.end()) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& content = tokens_[i].content;
    if (!by_content_.emplace(content, i).second) continue;
    lengths_[static_cast<unsigned char>(content[0])].push_back(content.size());
  }
  for (std::vector<size_t>& lengths : lengths_) {
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

const AddedToken* AddedTokenMatcher::LongestMatch(absl::string_view text) const {
  for (const size_t length : lengths_[static_cast<unsigned char>(text[0])]) {
    if (length > text.size()) continue;
    const auto found = by_content_.find(text.substr(0, length));
    if (found != by_content_.end()) return &tokens_[found->second];
  }
  return nullptr;
}

void AddedTokenMatcher::Split(absl::string_view text, std::vector<Segment>& segments) const {
  size_t covered = 0;
  for (size_t i = 0; i < text.size();) {
    const AddedToken* const token = LongestMatch(text.substr(i));
    if (token == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i;
    size_t end = i + token->content.size();
    i = end;
    if (token->single_word && !IsSingleWord(text, begin, end)) continue;
    if (token->lstrip) begin = std::max(covered, TrailingSpaceStart(text.substr(0, begin)));
    if (token->rstrip) end += LeadingSpaceLength(text.substr(end));
    if (covered < begin) segments.push_back({text.substr(covered, begin - covered), -1});
    segments.push_back({text.substr(std::min(begin, end), end - std::min(begin, end)), token->id});
    covered = std::max(covered, end);
  }
  if (covered < text.size()) segments.push_back({text.substr(covered), -1});
}

}  // namespace sparse_attention
