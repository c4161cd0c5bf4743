// The planes of locality-sensitive hashing. LibTorch-free.
#ifndef SPARSE_ATTENTION_KEY_INDEX_GAUSSIAN_PLANES_H_
#define SPARSE_ATTENTION_KEY_INDEX_GAUSSIAN_PLANES_H_

#include <cstdint>

#include "sparse_attention/key_index/float_array.h"

namespace sparse_attention {

// Standard normal planes, [tables, bits, dim], a pure function of the arguments.
FloatArray GaussianPlanes(uint64_t seed, int64_t layer, int64_t tables, int64_t bits, int64_t dim);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_GAUSSIAN_PLANES_H_
