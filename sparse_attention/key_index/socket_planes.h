// The planes of Socket, the same for all layers and heads. LibTorch-free.
#ifndef SPARSE_ATTENTION_KEY_INDEX_SOCKET_PLANES_H_
#define SPARSE_ATTENTION_KEY_INDEX_SOCKET_PLANES_H_

#include <cstdint>

#include "sparse_attention/key_index/float_array.h"

namespace sparse_attention {

// [tables, bits, dim], each argument >= 1: standard normal numbers, those that the Python hub draws
// from LibTorch's CPU generator with its seed but for rounding. They are a Mersenne Twister's words
// (Matsumoto and Nishimura, 1998) through the transform of Box and Muller (1958), here in double:
// LibTorch's own last bits depend on the machine's instruction set.
FloatArray SocketPlanes(int64_t tables, int64_t bits, int64_t dim);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_SOCKET_PLANES_H_
