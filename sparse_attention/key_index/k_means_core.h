// k-means over one group of vectors, and the search for the nearest centroid, without LibTorch:
// what k_means.h and pq_codebook.h compute on the host, and what appends a key within microseconds.
//
// Every distance is a function of its vector and centroid alone, bit for bit, on every instruction
// set: |c|^2 - 2 x . c with products added one after the other in the order of the channels,
// without fused operations. A result so does not depend on batch, threads or other vectors. Values
// that are not finite are read as 0.
#ifndef SPARSE_ATTENTION_KEY_INDEX_K_MEANS_CORE_H_
#define SPARSE_ATTENTION_KEY_INDEX_K_MEANS_CORE_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// The vectors are rows in memory as they are, so that nothing is copied.
struct VectorRows {
  const void* data = nullptr;  // `channels` elements of row j begin j * row_stride bytes behind it
  Element element = Element::kFloat32;
  int64_t row_stride = 0;
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t width = 0;             // >= channels: zeros follow up to here
  const float* extra = nullptr;  // [rows]: one more channel behind `width`, or null

  int64_t dim() const { return width + (extra == nullptr ? 0 : 1); }
};

// Centroids as they are searched, PackedCentroidFloats floats: for each 64 of them |c|^2, infinity
// behind the last, and -2 c by channels, [dim][64].
constexpr int64_t kPackedCentroids = 64;
constexpr int64_t PackedCentroidFloats(int64_t clusters, int64_t dim) {
  return (clusters + kPackedCentroids - 1) / kPackedCentroids * kPackedCentroids * (dim + 1);
}
void PackCentroids(const float* centroids /* [clusters][dim] */, int64_t clusters, int64_t dim,
                   float* packed);

// Rows that are converted at a time.
constexpr int64_t kRowBlock = 64;
constexpr int64_t RowBlockFloats(int64_t dim) { return kRowBlock * dim; }

struct NearestParams {
  VectorRows x;
  const float* packed = nullptr;
  int64_t clusters = 0;
  int32_t* codes = nullptr;  // [rows]: the lowest index of equally near centroids
  float* values = nullptr;   // [rows] or null: the least |c|^2 - 2 x . c
  float* block = nullptr;    // scratch, RowBlockFloats(x.dim())

  // [rows] or null: |x|, where `values` is null. Makes the search faster and its results no other.
  const float* lengths = nullptr;

  // codes and values hold those of earlier centroids, and a row changes only where one of these,
  // which count from first_code on, is nearer.
  bool keep_nearer = false;
  int32_t first_code = 0;

  // Null, or what the means need: the counted rows are added to their cluster's sums, and counted.
  double* sums = nullptr;            // [all clusters][dim]
  int64_t* counts = nullptr;         // [all clusters]
  const uint8_t* counted = nullptr;  // [rows], or null: all
};

struct KMeansKernels {
  // Returns the number of codes that changed.
  int64_t (*nearest)(const NearestParams& params);
  // |x|^2 of rows [rows], its terms in the order of the channels. block: RowBlockFloats(x.dim()).
  void (*norms)(const VectorRows& x, float* block, float* norms);
  // 1 where all of a row is finite, else 0.
  void (*finite)(const VectorRows& x, uint8_t* finite);
};

SA_DECLARE_ISAS(KMeansKernels MakeKMeansKernels())
KMeansKernels KMeansKernelsFor(Isa isa);

struct KMeansProblem {
  VectorRows x;                      // rows >= 1
  const uint8_t* counted = nullptr;  // [rows]: which rows move centroids; null: all
  int64_t clusters = 0;              // >= 1
  int64_t iterations = 0;
  // The next uniform draw in [0, 1).
  double (*uniform)(void* stream) = nullptr;
  void* stream = nullptr;
  float* centroids = nullptr;  // out [clusters][dim]
  int32_t* codes = nullptr;    // out [rows]
};

// k-means++ start (Arthur and Vassilvitskii, SODA 2007), then Lloyd's iterations until no code
// changes; an empty cluster keeps its centroid; codes are those of the final centroids. `scratch`,
// at 64-byte steps, has KMeansScratchBytes.
int64_t KMeansScratchBytes(int64_t rows, int64_t dim, int64_t clusters);
void KMeansOfGroup(const KMeansProblem& problem, Isa isa, void* scratch);

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_K_MEANS_CORE_H_
