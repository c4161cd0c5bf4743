// Masked attention of a few queries, row by row on the host: only selected keys and values are
// read.
#ifndef SPARSE_ATTENTION_ATTENTION_ROW_ATTENTION_H_
#define SPARSE_ATTENTION_ATTENTION_ROW_ATTENTION_H_

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/attention/attention_state.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

// What MaskedAttention means, for valid inputs on the host and a mask of their shape. A row is
// computed alone, in an order of its own: it depends neither on its batch nor on threads, bit for
// bit. Logits are taken from `inputs.memo` where there are any.
AttentionState RowAttention(const AttentionInputs& inputs, const Mask& mask);

// True where RowAttention is the faster way: on the host, with up to 16 queries a sequence and a
// mask that is not full.
bool PrefersRows(const AttentionInputs& inputs, const Mask& mask);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_ROW_ATTENTION_H_
