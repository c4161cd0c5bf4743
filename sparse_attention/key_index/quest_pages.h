// QuestPages: the smallest and largest value of every channel over each page of keys, and an upper
// bound of a page's products with a query. Tang et al., Quest: query-aware sparsity for efficient
// long-context LLM inference, ICML 2024.
#ifndef SPARSE_ATTENTION_KEY_INDEX_QUEST_PAGES_H_
#define SPARSE_ATTENTION_KEY_INDEX_QUEST_PAGES_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "sparse_attention/key_index/growing_tensor.h"

namespace sparse_attention {

// Page p holds keys [p * page_size, (p + 1) * page_size); the last one may be shorter. A key that
// is not finite takes no part; a page of such keys alone has bounds 0. After any Extend the bounds
// equal those of a fresh build. Memory: 2 * dim / page_size float32 a key and KV head.
class QuestPages {
 public:
  // `keys` [batch, KV heads, n, dim]. With label_bits < 16 the bounds are quantised, a page and
  // bound at a time. page_size >= 1, label_bits in [1, 16].
  QuestPages(const at::Tensor& keys, int64_t page_size, int64_t label_bits);

  // Covers `keys`, whose first `unchanged` are as they were.
  void Extend(const at::Tensor& keys, int64_t unchanged);
  // Keys whose change asks for a fresh build.
  int64_t prefix() const { return 0; }

  // sum over channels of max(q * min, q * max), an upper bound of q . k for every key of the page:
  // q [batch, query heads, queries, dim] to float32 [batch, query heads, queries, pages].
  at::Tensor Scores(const at::Tensor& q) const;

  int64_t pages() const { return min_.size(); }
  at::Tensor min() const { return min_.view(); }  // float32 [batch, KV heads, pages, dim]
  at::Tensor max() const { return max_.view(); }

 private:
  // Bounds of the keys of pages from `page` on, behind those there are.
  void SetOnHost(int64_t page, const at::Tensor& keys);

  int64_t page_size_, label_bits_;
  GrowingTensor min_{2}, max_{2};
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_QUEST_PAGES_H_
