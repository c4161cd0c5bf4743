// Scores of Quest: an upper bound of a page's products with a query, from the smallest and largest
// value of every channel over the page's keys:
//   sum over channels of max(q min, q max) = sum of q+ max + q- min, q+ = max(q, 0), q- = min(q,
//   0).
//
// Sums are float32, in an order that depends on the instruction set alone. With u = 2^-24, m = 2 *
// dim + 8 and M = sum of |q+ max| + |q- min|, a row's score differs from the exact one by at most
//   m u / (1 - m u) M + 2^-126 m (1 + largest |q| + largest |bound|),
// the last for products and numbers below the normal range, which may count as 0. A maximum over
// rows differs by the largest of these; a sum and a mean by as much with m + rows in place of m and
// the sum and mean of M.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_PAGE_BOUNDS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_PAGE_BOUNDS_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/row_view.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/row_reduce.h"

namespace sparse_attention::cpu {

// Bounds are exact in the keys' own type; quantised ones (label_bits < 16) are kept as float32.
constexpr Element BoundsElement(Element keys, int label_bits) {
  return label_bits < 16 ? Element::kFloat32 : keys;
}

// Memory: 2 * dim elements a page.
struct PageBoundsProblem {
  Element query_element;  // what the queries were before they were split
  Element bounds_element;
  int32_t dim;
  int32_t rows;         // in [1, kMaxScoreRows]
  const void* queries;  // from split_queries
  const void* bounds;   // of page p: max [dim], then min [dim], at bounds + p * page_stride bytes
  int64_t page_stride;
  RowReduce reduce;
};

// Bytes that split_queries writes.
constexpr int64_t SplitQueryBytes(int32_t dim, int32_t rows) {
  return int64_t{rows} * 2 * dim * int64_t{sizeof(float)};
}

struct PageBoundsKernels {
  // q+ and q- of each row, as `score` of the same instruction set reads them; to be made once for
  // all pages. `queries` [rows, dim] of problem.query_element, rows `stride` bytes apart, `split`
  // aligned to 4 bytes. Reads neither problem.queries nor problem.bounds.
  void (*split_queries)(const PageBoundsProblem& problem, const void* queries, int64_t stride,
                        void* split);
  // Of pages [begin, end).
  void (*score)(const PageBoundsProblem&, int64_t begin, int64_t end, float* out,
                int64_t out_stride);
  // The bounds of keys [begin, end) in pages of `page_size`, `begin` being the first key of a page,
  // to the places of their pages. A key with a channel that is not finite takes no part; a page of
  // such keys alone has bounds 0. With label_bits < 16 each bound of a page is quantised as the
  // research engine does. New keys: call it from the first key of the last page on.
  void (*update)(const RowView& keys, Element element, int32_t dim, int64_t page_size,
                 int32_t label_bits, int64_t begin, int64_t end, void* bounds, int64_t page_stride);
};

SA_DECLARE_ISAS(PageBoundsKernels MakePageBoundsKernels())

PageBoundsKernels PageBoundsKernelsFor(Isa isa);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SCORE_PAGE_BOUNDS_H_
