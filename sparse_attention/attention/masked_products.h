// Inner products of the pairs of a query and a key that a mask names, and of no others.
#ifndef SPARSE_ATTENTION_ATTENTION_MASKED_PRODUCTS_H_
#define SPARSE_ATTENTION_ATTENTION_MASKED_PRODUCTS_H_

#include <ATen/core/Tensor.h>

namespace sparse_attention {

// q . k for every true entry of `mask`, in row-major order: float32 [true entries]. q float32
// [batch, query heads, queries, dim], k [batch, KV heads, n, dim] of any floating type, query heads
// a multiple of KV heads, mask bool [batch, query heads, queries, n]. A product is a function of
// its two vectors alone, bit for bit, on one kind of device.
at::Tensor MaskedProducts(const at::Tensor& q, const at::Tensor& k, const at::Tensor& mask);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_MASKED_PRODUCTS_H_
