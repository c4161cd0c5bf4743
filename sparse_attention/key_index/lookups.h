// Sums of table look-ups by code: how product quantisation and soft hash collisions score keys.
#ifndef SPARSE_ATTENTION_KEY_INDEX_LOOKUPS_H_
#define SPARSE_ATTENTION_KEY_INDEX_LOOKUPS_H_

#include <ATen/core/Tensor.h>

namespace sparse_attention {

// sums[b, g, r, j] += sum over t of tables[b, g, r, t, codes[b, g, t, j]], in the order of t.
// `sums` float32 [batch, sets, rows, n], contiguous; `tables` float32 [batch, sets, rows, t,
// entries]; `codes` uint8, int16, int32 or int64 [batch, sets, t, n], in [0, entries).
void AddLookups(const at::Tensor& tables, const at::Tensor& codes, at::Tensor& sums);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_LOOKUPS_H_
