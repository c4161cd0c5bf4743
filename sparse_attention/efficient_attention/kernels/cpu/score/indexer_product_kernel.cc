#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/dot_tile.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/indexer_product.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr int kPrefetchBytes = 6144;

template <int kHeads, int kAhead>
SA_INLINE F4 AddHeads(const IndexerProblem& p, int head, const float* const* keys, F4 score) {
  F4 products[kHeads];
  DotTile<FloatDot<float>, kHeads, kAhead>(keys, p.queries + head * int64_t{p.width}, p.width,
                                           p.width, products);
  for (int h = 0; h < kHeads; ++h) {
    const F4 x = products[h];
    score += (x < 0.f ? F4{} : x) * p.gates[head + h];  // a NaN stays
  }
  return score;
}

void Score(const IndexerProblem& p, int64_t begin, int64_t end, float* out) {
  for (int64_t j = begin; j < end; j += kTileKeys) {
    const int count = static_cast<int>(end - j < kTileKeys ? end - j : kTileKeys);
    const float* keys[kTileKeys];
    for (int k = 0; k < kTileKeys; ++k) {  // behind the end the last one again
      keys[k] = p.keys + (j + (k < count ? k : count - 1)) * p.key_stride;
    }
    F4 score = {};
    int head = 0;
    for (; head + kTileRows <= p.heads; head += kTileRows) {
      score = head == 0 ? AddHeads<kTileRows, kPrefetchBytes>(p, head, keys, score)
                        : AddHeads<kTileRows, 0>(p, head, keys, score);
    }
    for (; head < p.heads; ++head) score = AddHeads<1, 0>(p, head, keys, score);
    std::memcpy(out + (j - begin), &score, sizeof(float) * static_cast<size_t>(count));
  }
}

}  // namespace

IndexerKernels MakeIndexerKernels() { return {Score}; }

}  // namespace sparse_attention::cpu::SA_ISA
