// Byte-pair encoding of one word: the bytes of the word, joined pair by pair in the order of the
// merge list.
//
// Of all neighbouring pairs that the list names, the one named first is joined, the leftmost if it
// occurs more than once; then again, until no pair is named. Time is O(n log n) in the word's
// length, and frequent words are cached.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_BPE_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_BPE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sparse_attention {

using TokenIds = absl::flat_hash_map<std::string, int32_t>;

// Immutable; Encode may run in several threads, each with its own scratch.
class BpeModel {
 public:
  // Memory that calls reuse, and the word cache: at most 16,384 words of at most 64 bytes, newest
  // first. Serves one model, and not two threads at once.
  class Scratch {
   public:
    Scratch();

   private:
    friend class BpeModel;
    struct Symbol {
      int32_t id;  // -1: joined to the one before.
      int32_t previous;
      int32_t next;
    };
    struct Candidate {
      int32_t rank;
      int32_t position;  // Of the left symbol.
      int32_t id;        // Of the joined pair.
    };
    struct CachedWord {
      std::string word;
      std::vector<int32_t> ids;
    };
    std::vector<CachedWord> cache_;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> candidates_;
  };

  // `vocab` and `merges` are written in the byte-level alphabet. With `ignore_merges` a word that
  // is a token is that token whatever the merges say. INVALID_ARGUMENT if a merge names a token
  // that `vocab` lacks or `vocab` lacks a byte that text can have.
  static absl::StatusOr<BpeModel> Create(
      const TokenIds& vocab, absl::Span<const std::pair<std::string, std::string>> merges,
      bool ignore_merges);

  // Appends the ids of `word`, which is plain UTF-8, not empty, and shorter than 2 GiB.
  void Encode(absl::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t id;
  };

  BpeModel() = default;
  const Merge* FindMerge(int32_t left, int32_t right) const;
  void EncodeUncached(absl::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> byte_ids_;            // -1 for bytes that UTF-8 never has.
  absl::flat_hash_map<uint64_t, Merge> merges_;  // By left id << 32 | right id.
  TokenIds words_;                               // By plain bytes; filled only to ignore merges.
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_BPE_H_
