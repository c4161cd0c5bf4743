#include "sparse_attention/efficient_attention/cpu/kv_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sparse_attention::cpu {
namespace {

absl::Status CheckOptions(const KvCacheOptions& options) {
  const auto error = [](const char* field, const char* rule, int64_t got) {
    return absl::InvalidArgumentError(
        absl::StrCat("KvCacheOptions.", field, " ", rule, ", got ", got));
  };
  const LayerShape& shape = options.shape;
  if (shape.kv_heads < 1) return error("shape.kv_heads", "must be positive", shape.kv_heads);
  if (shape.dim < 1) return error("shape.dim", "must be positive", shape.dim);
  if (shape.value_dim < 1) return error("shape.value_dim", "must be positive", shape.value_dim);
  if (options.sequences < 1) return error("sequences", "must be positive", options.sequences);
  // Keys are numbered by 32 bits.
  if (options.capacity < 1 || options.capacity > (int64_t{1} << 31)) {
    return error("capacity", "must be in [1, 2^31]", options.capacity);
  }
  if (options.page_size < 0 ||
      (options.page_size > 0 && !std::has_single_bit(static_cast<uint64_t>(options.page_size)))) {
    return error("page_size", "must be 0 or a power of two", options.page_size);
  }
  if (options.pages < 0 || (options.pages > 0 && options.page_size == 0)) {
    return error("pages", "must be 0 unless page_size is given, and not negative", options.pages);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KvCache> KvCache::Create(const KvCacheOptions& options) {
  SA_RETURN_IF_ERROR(CheckOptions(options));
  KvCache cache(options);
  const LayerShape& shape = options.shape;
  const int64_t k_row = shape.dim * ElementBytes(shape.element);
  const int64_t v_row = shape.value_dim * ElementBytes(shape.element);
  if (cache.paged() && options.pages == 0) {
    cache.options_.pages = options.sequences * cache.PagesOf(options.capacity);
  }
  // Rows of one KV head that lie side by side, and how many such pieces a head has.
  const int64_t rows = cache.paged() ? options.page_size : options.capacity;
  const int64_t pieces = cache.paged() ? cache.options_.pages : options.sequences;
  const auto allocate = [&](int64_t row) {
    return AlignedBuffer(static_cast<size_t>(pieces * shape.kv_heads * rows * row));
  };
  cache.keys_ = allocate(k_row);
  cache.values_ = allocate(v_row);
  if (cache.keys_.data() == nullptr || cache.values_.data() == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a KV cache of ", pieces * shape.kv_heads * rows * (k_row + v_row), " bytes"));
  }
  cache.sequences_.resize(static_cast<size_t>(options.sequences));
  cache.tables_.resize(static_cast<size_t>(options.sequences));
  for (int64_t s = 0; s < options.sequences; ++s) {
    SequenceKv& kv = cache.sequences_[static_cast<size_t>(s)];
    kv.k.row_stride = k_row;
    kv.v.row_stride = v_row;
    kv.k_head_stride = rows * k_row;
    kv.v_head_stride = rows * v_row;
    kv.k.base = cache.keys_.data();
    kv.v.base = cache.values_.data();
    if (!cache.paged()) {
      kv.k.base += s * shape.kv_heads * rows * k_row;
      kv.v.base += s * shape.kv_heads * rows * v_row;
      continue;
    }
    std::vector<int32_t>& table = cache.tables_[static_cast<size_t>(s)];
    table.reserve(static_cast<size_t>(cache.PagesOf(options.capacity)));
    kv.k.pages = kv.v.pages = table.data();
    kv.k.page_shift = kv.v.page_shift = std::countr_zero(static_cast<uint64_t>(options.page_size));
    kv.k.page_stride = shape.kv_heads * rows * k_row;
    kv.v.page_stride = shape.kv_heads * rows * v_row;
  }
  if (cache.paged()) {
    for (int64_t page = cache.options_.pages - 1; page >= 0; --page) {
      cache.free_pages_.push_back(static_cast<int32_t>(page));
    }
  }
  return cache;
}

void KvCache::CopyRows(const NewRows& from, const RowView& rows, int64_t head_stride, int64_t first,
                       int64_t tokens, int64_t row_bytes) const {
  for (int64_t head = 0; head < options_.shape.kv_heads; ++head) {
    for (int64_t t = 0; t < tokens; ++t) {
      // The memory is this cache's own.
      char* const to = const_cast<char*>(rows.Row(first + t)) + head * head_stride;
      std::memcpy(to, from.data + head * from.head_stride + t * from.token_stride,
                  static_cast<size_t>(row_bytes));
    }
  }
}

absl::Status KvCache::Append(int64_t sequence, const NewRows& keys, const NewRows& values,
                             int64_t tokens) {
  SequenceKv& kv = sequences_[static_cast<size_t>(sequence)];
  if (tokens < 0 || tokens > options_.capacity - kv.length) {
    return absl::ResourceExhaustedError(
        absl::StrCat("sequence ", sequence, " holds ", kv.length, " of ", options_.capacity,
                     " tokens; there is no room for ", tokens, " more"));
  }
  if (paged()) {
    std::vector<int32_t>& table = tables_[static_cast<size_t>(sequence)];
    const int64_t missing = PagesOf(kv.length + tokens) - static_cast<int64_t>(table.size());
    if (missing > free_pages()) {
      return absl::ResourceExhaustedError(absl::StrCat("sequence ", sequence, " needs ", missing,
                                                       " pages, ", free_pages(), " are free"));
    }
    for (int64_t i = 0; i < missing; ++i) {
      table.push_back(free_pages_.back());
      free_pages_.pop_back();
    }
  }
  CopyRows(keys, kv.k, kv.k_head_stride, kv.length, tokens, kv.k.row_stride);
  CopyRows(values, kv.v, kv.v_head_stride, kv.length, tokens, kv.v.row_stride);
  kv.length += tokens;
  return absl::OkStatus();
}

absl::Status KvCache::Truncate(int64_t sequence, int64_t length) {
  SequenceKv& kv = sequences_[static_cast<size_t>(sequence)];
  if (length < 0 || length > kv.length) {
    return absl::InvalidArgumentError(absl::StrCat("length must be in [0, ", kv.length,
                                                   "], the tokens of sequence ", sequence, ", got ",
                                                   length));
  }
  kv.length = length;
  kv.begin = std::min(kv.begin, length);
  if (paged()) {
    std::vector<int32_t>& table = tables_[static_cast<size_t>(sequence)];
    while (static_cast<int64_t>(table.size()) > PagesOf(length)) {
      free_pages_.push_back(table.back());
      table.pop_back();
    }
  }
  return absl::OkStatus();
}

absl::Status KvCache::SetPadding(int64_t sequence, int64_t padding) {
  SequenceKv& kv = sequences_[static_cast<size_t>(sequence)];
  if (padding < 0 || padding > kv.length) {
    return absl::InvalidArgumentError(absl::StrCat("padding must be in [0, ", kv.length,
                                                   "], the tokens of sequence ", sequence, ", got ",
                                                   padding));
  }
  kv.begin = padding;
  return absl::OkStatus();
}

}  // namespace sparse_attention::cpu
