#include "sparse_attention/key_index/indexer_keys.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <algorithm>

#include "sparse_attention/key_index/row_matmul.h"

namespace sparse_attention {
namespace {

constexpr int64_t kPieceKeys = 4096;  // projected at a time

// [batch, heads, n, dim] to float32 [batch, n, heads * dim]
at::Tensor JoinHeads(const at::Tensor& x) {
  return x.to(at::kFloat).transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

}  // namespace

IndexerKeys::IndexerKeys(const at::Tensor& keys, const IndexerLayer& layer) : layer_(&layer) {
  Extend(keys, 0);
}

void IndexerKeys::Extend(const at::Tensor& keys, int64_t unchanged) {
  int64_t begin = unchanged;
  do {  // at least once, so that there is a tensor
    const int64_t length = std::min(kPieceKeys, keys.size(2) - begin);
    keys_.Set(begin, RowMatmul(JoinHeads(keys.narrow(2, begin, length)), layer_->key));
    begin += length;
  } while (begin < keys.size(2));
}

at::Tensor IndexerKeys::Scores(const at::Tensor& q) const {
  const at::Tensor joined = JoinHeads(q);  // [batch, queries, channels]
  const at::Tensor gates = at::matmul(joined, layer_->gate);
  const at::Tensor keys = keys_.view().transpose(1, 2);
  at::Tensor scores;
  for (int64_t head = 0; head < layer_->query.size(0); ++head) {
    const at::Tensor products = at::matmul(at::matmul(joined, layer_->query[head]), keys).relu_();
    products.mul_(gates.narrow(2, head, 1));
    scores = head == 0 ? products : scores.add_(products);
  }
  return scores;
}

}  // namespace sparse_attention
