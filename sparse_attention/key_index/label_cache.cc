#include "sparse_attention/key_index/label_cache.h"

#include <ATen/ops/matmul.h>

#include <algorithm>
#include <cmath>

#include "sparse_attention/key_index/pseudo_quantize.h"

namespace sparse_attention {
namespace {

constexpr int64_t kPieceKeys = 8192;  // converted to float32 at a time

// x [batch, heads, n, dim], channels [heads, r] -> [batch, heads, n, r]
at::Tensor TakeChannels(const at::Tensor& x, const at::Tensor& channels) {
  return x.gather(3, channels.view({1, channels.size(0), 1, channels.size(1)})
                         .expand({x.size(0), x.size(1), x.size(2), channels.size(1)}));
}

// One list for each KV head where the query heads of every group agree.
at::Tensor SharedChannels(const at::Tensor& channels, int64_t kv_heads) {
  if (kv_heads == 0 || channels.size(0) == 0) return channels;
  const at::Tensor grouped = channels.view({kv_heads, -1, channels.size(1)});
  const at::Tensor first = grouped.select(1, 0);
  return grouped.eq(first.unsqueeze(1)).all().item<bool>() ? first.contiguous() : channels;
}

}  // namespace

LabelCache::LabelCache(const at::Tensor& keys, const at::Tensor& channels, int64_t label_bits)
    : channels_(channels),
      key_channels_(SharedChannels(channels, keys.size(1))),
      label_bits_(label_bits) {
  Extend(keys, 0);
}

void LabelCache::Extend(const at::Tensor& keys, int64_t unchanged) {
  int64_t begin = unchanged;
  do {  // at least once, so that there are tensors
    const int64_t length = std::min(kPieceKeys, keys.size(2) - begin);
    at::Tensor piece = keys.narrow(2, begin, length);
    if (sets() != keys.size(1)) piece = piece.repeat_interleave(sets() / keys.size(1), 1);
    const at::Tensor labels = TakeChannels(piece, key_channels_);
    if (quantized()) {
      const QuantizedVectors vectors = QuantizeVectors(labels, label_bits_);
      // What is not a number stays one by its `low`; its code is 0.
      labels_.Set(begin,
                  vectors.codes.nan_to_num(0, 0, 0).to(label_bits_ <= 8 ? at::kByte : at::kShort));
      scale_.Set(begin, vectors.scale);
      low_.Set(begin, vectors.low);
    } else {
      labels_.Set(begin, labels);
    }
    begin += length;
  } while (begin < keys.size(2));
}

at::Tensor LabelCache::Scores(const at::Tensor& q) const {
  at::Tensor rows = TakeChannels(q.to(at::kFloat), channels_);
  if (quantized()) rows = PseudoQuantize(rows, label_bits_);
  rows = GroupRows(rows, sets()).div_(std::sqrt(static_cast<double>(channels_.size(1))));
  at::Tensor scores = at::matmul(rows, labels_.view().to(at::kFloat).transpose(2, 3));
  if (quantized()) {
    scores.div_(scale_.view().transpose(2, 3));
    scores.add_(at::matmul(rows.sum(-1, /*keepdim=*/true), low_.view().transpose(2, 3)));
  }
  return UngroupRows(scores, q.size(1));
}

int64_t LabelCache::Bytes(const AttentionInputs& in, const at::Tensor& channels,
                          int64_t label_bits) {
  const int64_t sets = SharedChannels(channels, in.kv_heads()).size(0);
  const int64_t r = channels.size(1);
  int64_t vector_bytes = r * static_cast<int64_t>(in.k.element_size());
  if (label_bits < 16) vector_bytes = r * (label_bits <= 8 ? 1 : 2) + 2 * int64_t{sizeof(float)};
  return in.batch() * sets * in.keys() * vector_bytes;
}

}  // namespace sparse_attention
