// KvCache: keys and values of several sequences in one layer, in memory allocated once: either
// every sequence in one piece, or in pages that sequences take as they grow (PagedAttention, Kwon
// et al., 2023), with the block tables that serving engines use.
//
//   contiguous  [sequences, KV heads, capacity, dim]
//   paged       [pages, KV heads, page_size, dim]; key j of a sequence is row j % page_size of page
//               table[j / page_size]
//
// Nothing is allocated by Append. Memory that was never written costs nothing but addresses.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_KV_CACHE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_KV_CACHE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/cpu/step.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"

namespace sparse_attention::cpu {

struct KvCacheOptions {
  LayerShape shape;
  int64_t sequences = 1;
  int64_t capacity = 0;   // keys of a sequence at most
  int64_t page_size = 0;  // 0: contiguous; else a power of two, 16 by custom
  // Paged: pages of all sequences together. 0: enough for every sequence at its capacity.
  int64_t pages = 0;
};

// New rows of all KV heads, where they lie; strides in bytes.
struct NewRows {
  const char* data = nullptr;  // [KV heads, tokens, dim]
  int64_t head_stride = 0;
  int64_t token_stride = 0;
};

class KvCache {
 public:
  // InvalidArgument names the option; ResourceExhausted where memory does not suffice.
  static absl::StatusOr<KvCache> Create(const KvCacheOptions& options);

  // Copies `tokens` new tokens behind those of a sequence. ResourceExhausted, and nothing changed,
  // where its capacity or the pages do not suffice.
  absl::Status Append(int64_t sequence, const NewRows& keys, const NewRows& values, int64_t tokens);

  // Keeps the first `length` tokens; pages behind them are free again. InvalidArgument unless 0 <=
  // length <= the sequence's length.
  absl::Status Truncate(int64_t sequence, int64_t length);

  // Marks the first `padding` tokens of a sequence as left padding. InvalidArgument unless 0 <=
  // padding <= its length.
  absl::Status SetPadding(int64_t sequence, int64_t padding);

  // Valid until the next call of Append or Truncate for the sequence.
  const SequenceKv& sequence(int64_t sequence) const {
    return sequences_[static_cast<size_t>(sequence)];
  }
  std::span<const SequenceKv> sequences() const { return sequences_; }
  int64_t length(int64_t sequence) const { return this->sequence(sequence).length; }
  std::span<const int32_t> block_table(int64_t sequence) const {
    return tables_[static_cast<size_t>(sequence)];
  }
  int64_t free_pages() const { return static_cast<int64_t>(free_pages_.size()); }
  const KvCacheOptions& options() const { return options_; }

 private:
  explicit KvCache(const KvCacheOptions& options) : options_(options) {}
  bool paged() const { return options_.page_size != 0; }
  int64_t PagesOf(int64_t tokens) const {
    return (tokens + options_.page_size - 1) / options_.page_size;
  }
  void CopyRows(const NewRows& from, const RowView& rows, int64_t head_stride, int64_t first,
                int64_t tokens, int64_t row_bytes) const;

  KvCacheOptions options_;
  AlignedBuffer keys_, values_;
  std::vector<SequenceKv> sequences_;
  std::vector<std::vector<int32_t>> tables_;  // of a sequence; reserved in full
  std::vector<int32_t> free_pages_;           // the next one last
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_KV_CACHE_H_
