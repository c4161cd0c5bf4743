// The planes of MagicPig, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_PLANES_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_PLANES_H_

#include <cstdint>

#include "sparse_attention/key_index/float_array.h"
#include "sparse_attention/research_attention/maskers/sampling/magic_pig_config.h"

namespace sparse_attention {

// Of a layer, [lsh_l, lsh_k, dim + 1]; not those of "estimator": "hub", which LibTorch draws.
FloatArray DrawMagicPigPlanes(const MagicPigConfig& config, uint64_t pipeline_seed, int64_t layer,
                              int64_t dim);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_PLANES_H_
