// Uniform sampling without replacement from a Philox stream.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ROW_SAMPLER_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ROW_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "sparse_attention/base/philox.h"

namespace sparse_attention {

// `count` distinct ranks in [0, population), ascending; every subset of that size is equally
// likely. 0 <= count <= population. The set is defined as the first `count` distinct values of
// PhiloxStream::Below(population), or, where count > population / 2, as what the first population -
// count distinct values leave; so an engine that draws in parallel can form the same set.
std::vector<int64_t> SampleWithoutReplacement(PhiloxStream& stream, int64_t population,
                                              int64_t count);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_ROW_SAMPLER_H_
