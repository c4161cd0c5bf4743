// Uniform sampling of keys without replacement, from the project's Philox streams.
//
// The set is that of SampleWithoutReplacement of the research engine: the first `count` distinct
// values of PhiloxStream::Below(population), or, where count > population / 2, what the first
// population - count distinct values leave.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SAMPLE_WITHOUT_REPLACEMENT_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SAMPLE_WITHOUT_REPLACEMENT_H_

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention::cpu {

// Where a Philox4x32-10 stream begins. The fourth word of the counter counts blocks of four words
// and is 0 at first.
struct PhiloxStart {
  uint32_t key[2];      // the low and the high half of the seed
  uint32_t counter[3];  // purpose << 24 | layer, head or group, position of the query
};

// The start of sparse_attention::PhiloxStream(seed, purpose, layer, head, position).
constexpr PhiloxStart PhiloxStartOf(uint64_t seed, uint32_t purpose, uint32_t layer, uint32_t head,
                                    uint32_t position) {
  return {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
          {purpose << 24 | layer, head, position}};
}

// Words of scratch that sampling among `population` entries needs.
__attribute__((always_inline)) constexpr int64_t SampleScratchWords(int64_t population) {
  return population / 64 + 2;
}

struct SampleKernels {
  // The first `count` words of the stream.
  void (*words)(const PhiloxStart& start, int64_t count, uint32_t* out);

  // Sets the first (population + 63) / 64 words of ranks[SampleScratchWords(population)] to the
  // bitmap of the sample of `count` ranks below population, those behind to 0.
  // 0 <= count <= population < 2^32.
  void (*sample_ranks)(const PhiloxStart& start, int64_t population, int64_t count,
                       uint64_t* ranks);

  // The sample of `count` of the set bits of eligible[num_words], whose number is `population`: the
  // bit with i set bits below it has rank i. The sample's bits are set in selected[num_words],
  // which keeps its other bits. scratch[SampleScratchWords(population)].
  void (*sample_keys)(const PhiloxStart& start, int64_t population, int64_t count,
                      const uint64_t* eligible, int64_t num_words, uint64_t* scratch,
                      uint64_t* selected);
};

SampleKernels SampleKernelsFor(Isa isa);

SA_DECLARE_ISAS(SampleKernels MakeSampleKernels())

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_SAMPLE_WITHOUT_REPLACEMENT_H_
