#include "sparse_attention/key_index/pq_core.h"

#include <cmath>

namespace sparse_attention::cpu {
namespace {

template <typename Code>
void Encode(const PqEncoder& encoder, int64_t head, const KeyRows& keys, Isa isa, void* scratch,
            Code* codes, int64_t code_stride) {
  const KMeansKernels kernels = KMeansKernelsFor(isa);
  float* const block = static_cast<float*>(scratch);
  int32_t block_codes[kRowBlock] = {};
  float extra[kRowBlock];
  for (int64_t subvector = 0; subvector < encoder.subvectors; ++subvector) {
    const int64_t group = head * encoder.subvectors + subvector;
    NearestParams search;
    search.packed = encoder.packed + group * encoder.packed_floats();
    search.clusters = encoder.clusters;
    search.codes = block_codes;
    search.block = block;
    for (int64_t begin = 0; begin < keys.rows; begin += kRowBlock) {
      KeyRows piece = keys;
      piece.data = static_cast<const char*>(keys.data) + begin * keys.row_stride;
      piece.rows = std::min(kRowBlock, keys.rows - begin);
      search.x = SubvectorRows(encoder, piece, subvector);
      if (encoder.phi != nullptr) {
        kernels.norms(search.x, block, extra);
        NormChannel(extra, piece.rows, encoder.phi[group], extra);
        search.x.extra = extra;
      }
      kernels.nearest(search);
      Code* const out = codes + subvector * code_stride + begin;
      for (int64_t j = 0; j < piece.rows; ++j) out[j] = static_cast<Code>(block_codes[j]);
    }
  }
}

}  // namespace

VectorRows SubvectorRows(const PqEncoder& encoder, const KeyRows& keys, int64_t subvector) {
  const int64_t first = encoder.FirstChannel(subvector);
  VectorRows x;
  x.data = static_cast<const char*>(keys.data) + first * ElementBytes(keys.element);
  x.element = keys.element;
  x.row_stride = keys.row_stride;
  x.rows = keys.rows;
  x.channels = encoder.FirstChannel(subvector + 1) - first;
  x.width = encoder.width();
  return x;
}

void NormChannel(const float* squares, int64_t rows, float phi, float* channel) {
  for (int64_t j = 0; j < rows; ++j) {
    const float rest = phi - squares[j];
    channel[j] = rest > 0 ? std::sqrt(rest) : 0;
  }
}

float LargestSquare(const float* squares, const uint8_t* counted, int64_t rows) {
  float largest = 0;
  for (int64_t j = 0; j < rows; ++j) {
    if (counted == nullptr || counted[j] != 0) largest = std::max(largest, squares[j]);
  }
  return largest;
}

int64_t PqScratchBytes(const PqEncoder& encoder) {
  return RowBlockFloats(encoder.dim()) * static_cast<int64_t>(sizeof(float));
}

void EncodePq(const PqEncoder& encoder, int64_t head, const KeyRows& keys, Isa isa, void* scratch,
              uint8_t* codes, int64_t code_stride) {
  Encode(encoder, head, keys, isa, scratch, codes, code_stride);
}
void EncodePq(const PqEncoder& encoder, int64_t head, const KeyRows& keys, Isa isa, void* scratch,
              int32_t* codes, int64_t code_stride) {
  Encode(encoder, head, keys, isa, scratch, codes, code_stride);
}

namespace {

PqEncoder ShapeOf(const PqTraining& training, int64_t subvectors) {
  PqEncoder shape;
  shape.key_dim = training.key_dim;
  shape.subvectors = subvectors;
  return shape;
}

int64_t RoundUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t TrainingDim(const PqTraining& training) {
  return ShapeOf(training, training.subvectors).width() + (training.inner_product ? 1 : 0);
}

}  // namespace

int64_t PqTrainingScratchBytes(const PqTraining& training) {
  const int64_t rows = training.keys.rows, dim = TrainingDim(training);
  const int64_t floats = training.inner_product ? RowBlockFloats(dim) + rows : 0;
  return RoundUp(KMeansScratchBytes(rows, dim, training.clusters)) + RoundUp(rows) +
         RoundUp(floats * static_cast<int64_t>(sizeof(float)));
}

void TrainPq(const PqTraining& training, Isa isa, void* scratch) {
  const int64_t rows = training.keys.rows, dim = TrainingDim(training);
  const KMeansKernels kernels = KMeansKernelsFor(isa);
  char* at =
      static_cast<char*>(scratch) + RoundUp(KMeansScratchBytes(rows, dim, training.clusters));
  uint8_t* const finite = reinterpret_cast<uint8_t*>(at);
  at += RoundUp(rows);
  // Of the whole key, not of this sub-vector alone.
  kernels.finite(SubvectorRows(ShapeOf(training, 1), training.keys, 0), finite);

  KMeansProblem problem;
  problem.x =
      SubvectorRows(ShapeOf(training, training.subvectors), training.keys, training.subvector);
  if (training.inner_product) {
    float* const block = reinterpret_cast<float*>(at);
    float* const channel = block + RowBlockFloats(dim);
    kernels.norms(problem.x, block, channel);
    *training.phi = LargestSquare(channel, finite, rows);
    NormChannel(channel, rows, *training.phi, channel);
    problem.x.extra = channel;
  }
  problem.counted = finite;
  problem.clusters = training.clusters;
  problem.iterations = training.iterations;
  problem.uniform = training.uniform;
  problem.stream = training.stream;
  problem.centroids = training.centroids;
  problem.codes = training.codes;
  KMeansOfGroup(problem, isa, scratch);
}

}  // namespace sparse_attention::cpu
