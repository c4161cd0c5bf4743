// Matrix products whose rows do not know of one another.
#ifndef SPARSE_ATTENTION_KEY_INDEX_ROW_MATMUL_H_
#define SPARSE_ATTENTION_KEY_INDEX_ROW_MATMUL_H_

#include <ATen/core/Tensor.h>

namespace sparse_attention {

// x . w in float32: x [..., n, in] of any floating type, w float32 [in, out]. On the host every row
// of the result is a function of its own row of x alone, bit for bit, on any machine: products are
// added one after the other in the order of `in`, without fused operations, whatever the number of
// rows and threads and the instruction set. A library's product sums in an order that depends on
// the shape, so that the sign of a small sum could change when a key is appended alone. On other
// devices it is LibTorch's product.
at::Tensor RowMatmul(const at::Tensor& x, const at::Tensor& w);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_ROW_MATMUL_H_
