// Random attention problems for tests that replay: inputs with every option of AttentionInputs, and
// a mask.
#ifndef SPARSE_ATTENTION_ATTENTION_RANDOM_ATTENTION_H_
#define SPARSE_ATTENTION_ATTENTION_RANDOM_ATTENTION_H_

#include <cstdint>
#include <string>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

struct RandomAttention {
  AttentionInputs inputs;
  Mask mask;
  std::string text;  // the seed and what was drawn, for SCOPED_TRACE
};

// Groups of 1, 4 or 8 query heads, 1 to 300 keys, value dim equal to dim or not; softcap, sinks,
// bias of any type (some entries forbid), causal, sliding window and position each in a part of the
// cases; masks of all representations, with and without sampled weights, some with empty rows.
RandomAttention MakeRandomAttention(uint64_t seed, at::ScalarType type);

// Bool [batch, query heads, queries, keys]: the keys that each query sees, from the definition of
// AttentionInputs by a plain loop.
at::Tensor VisibleByDefinition(const AttentionInputs& inputs);

// Masked attention as one writes it with LibTorch in the type of the inputs: the baseline of the
// numeric law. Finite inputs.
at::Tensor PlainAttention(const AttentionInputs& inputs, const Mask& mask);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_ATTENTION_RANDOM_ATTENTION_H_
