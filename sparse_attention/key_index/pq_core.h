// Product quantisation of keys without LibTorch: training of a codebook and codes of keys, on rows
// of a cache as they are. pq_codebook.h says what the codes mean.
#ifndef SPARSE_ATTENTION_KEY_INDEX_PQ_CORE_H_
#define SPARSE_ATTENTION_KEY_INDEX_PQ_CORE_H_

#include <algorithm>
#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/k_means_core.h"
#include "sparse_attention/key_index/key_rows.h"

namespace sparse_attention::cpu {

// The codebook of one sequence and layer.
struct PqEncoder {
  int64_t heads = 0;  // KV heads
  int64_t key_dim = 0;
  int64_t subvectors = 0;  // in [1, key_dim]: the first key_dim % subvectors have one channel more
  int64_t clusters = 0;
  const float* packed = nullptr;  // [heads][subvectors][packed_floats()]
  const float* phi = nullptr;     // [heads][subvectors]: of the inner-product metric, else null

  int64_t width() const { return (key_dim + subvectors - 1) / subvectors; }
  int64_t dim() const { return width() + (phi == nullptr ? 0 : 1); }  // of centroids
  int64_t packed_floats() const { return PackedCentroidFloats(clusters, dim()); }
  int64_t FirstChannel(int64_t subvector) const {
    return subvector * (key_dim / subvectors) + std::min(subvector, key_dim % subvectors);
  }
};

// One sub-vector of the keys, as k-means reads it, without the channel of the inner-product metric.
VectorRows SubvectorRows(const PqEncoder& encoder, const KeyRows& keys, int64_t subvector);

// The channel of the inner-product metric, sqrt(phi - |x|^2) (0 beyond phi), [rows] from |x|^2; and
// phi, the largest |x|^2 of the rows that count (`counted` null: all).
void NormChannel(const float* squares, int64_t rows, float phi, float* channel);
float LargestSquare(const float* squares, const uint8_t* counted, int64_t rows);

// One sub-vector of the keys of one head, to be trained on.
struct PqTraining {
  KeyRows keys;
  int64_t key_dim = 0;
  int64_t subvectors = 0, subvector = 0;
  int64_t clusters = 0, iterations = 0;
  bool inner_product = false;
  // The next uniform draw in [0, 1).
  double (*uniform)(void* stream) = nullptr;
  void* stream = nullptr;
  float* centroids = nullptr;  // out [clusters][dim]
  float* phi = nullptr;        // out, of the inner-product metric
  int32_t* codes = nullptr;    // out [rows]
};
// A key that is not finite moves no centroid. `scratch`, at 64-byte steps, has
// PqTrainingScratchBytes(training).
int64_t PqTrainingScratchBytes(const PqTraining& training);
void TrainPq(const PqTraining& training, Isa isa, void* scratch);

// Codes of the keys of one head: sub-vector s of row j at codes[s * code_stride + j]. `scratch`, at
// 64-byte steps, has PqScratchBytes(encoder) whatever the number of rows.
int64_t PqScratchBytes(const PqEncoder& encoder);
void EncodePq(const PqEncoder& encoder, int64_t head, const KeyRows& keys, Isa isa, void* scratch,
              uint8_t* codes, int64_t code_stride);
void EncodePq(const PqEncoder& encoder, int64_t head, const KeyRows& keys, Isa isa, void* scratch,
              int32_t* codes, int64_t code_stride);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_PQ_CORE_H_
