#include "adapters/huggingface/tokenizer_bpe.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "absl/hash/hash.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "adapters/huggingface/tokenizer_byte_level.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

constexpr size_t kCachedWords = size_t{1} << 14;
constexpr size_t kLongestCachedWord = 64;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

BpeModel::Scratch::Scratch() : cache_(kCachedWords) {}

absl::StatusOr<BpeModel> BpeModel::Create(
    const TokenIds& vocab, absl::Span<const std::pair<std::string, std::string>> merges,
    bool ignore_merges) {
  BpeModel model;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = ByteLevelCharacter(static_cast<uint8_t>(byte));
    const auto found = vocab.find(character);
    if (found == vocab.end() && OccursInUtf8(static_cast<uint8_t>(byte))) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "model.vocab: every byte of UTF-8 must have a token, byte 0x%02X (\"%s\") has none", byte,
          character));
    }
    model.byte_ids_[byte] = found == vocab.end() ? -1 : found->second;
  }
  model.merges_.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    const std::string joined = left + right;
    std::array<int32_t, 3> ids;
    const std::array<const std::string*, 3> tokens = {&left, &right, &joined};
    for (size_t j = 0; j < tokens.size(); ++j) {
      const auto found = vocab.find(*tokens[j]);
      if (found == vocab.end()) {
        return absl::InvalidArgumentError(absl::StrCat("model.merges[", i, "]: token \"",
                                                       *tokens[j], "\" is not in model.vocab"));
      }
      ids[j] = found->second;
    }
    // Of a pair named twice the later rank counts, as in the `tokenizers` library.
    model.merges_[PairKey(ids[0], ids[1])] = {static_cast<int32_t>(i), ids[2]};
  }
  if (ignore_merges) {
    for (const auto& [token, id] : vocab) {
      std::optional<std::string> bytes = BytesOfToken(token);
      if (bytes.has_value()) model.words_.emplace(*std::move(bytes), id);
    }
  }
  return model;
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BpeModel::Encode(absl::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const {
  if (word.size() > kLongestCachedWord) {
    EncodeUncached(word, scratch, ids);
    return;
  }
  Scratch::CachedWord& cached =
      scratch.cache_[absl::Hash<absl::string_view>()(word) % kCachedWords];
  if (cached.word != word) {
    cached.word = std::string(word);
    cached.ids.clear();
    EncodeUncached(word, scratch, cached.ids);
  }
  ids.insert(ids.end(), cached.ids.begin(), cached.ids.end());
}

void BpeModel::EncodeUncached(absl::string_view word, Scratch& scratch,
                              std::vector<int32_t>& ids) const {
  if (const auto found = words_.find(word); found != words_.end()) {
    ids.push_back(found->second);
    return;
  }
  std::vector<Scratch::Symbol>& symbols = scratch.symbols_;
  std::vector<Scratch::Candidate>& candidates = scratch.candidates_;
  symbols.clear();
  candidates.clear();
  const auto later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return std::tie(a.rank, a.position) > std::tie(b.rank, b.position);
  };
  const auto add_candidate = [&](int32_t position) {
    const int32_t next = symbols[position].next;
    if (next < 0) return;
    const Merge* const merge = FindMerge(symbols[position].id, symbols[next].id);
    if (merge == nullptr) return;
    candidates.push_back({merge->rank, position, merge->id});
    std::push_heap(candidates.begin(), candidates.end(), later);
  };
  const int32_t size = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < size; ++i) {
    symbols.push_back({byte_ids_[static_cast<uint8_t>(word[i])], i - 1, i + 1 < size ? i + 1 : -1});
  }
  for (int32_t i = 0; i < size; ++i) add_candidate(i);
  while (!candidates.empty()) {
    std::pop_heap(candidates.begin(), candidates.end(), later);
    const Scratch::Candidate best = candidates.back();
    candidates.pop_back();
    // Earlier joins may have used up one side; then this pair is gone, and its successors are
    // candidates already.
    Scratch::Symbol& left = symbols[best.position];
    if (left.id < 0 || left.next < 0) continue;
    Scratch::Symbol& right = symbols[left.next];
    const Merge* const merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->rank != best.rank) continue;
    left.id = best.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (left.previous >= 0) add_candidate(left.previous);
    add_candidate(best.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace sparse_attention
