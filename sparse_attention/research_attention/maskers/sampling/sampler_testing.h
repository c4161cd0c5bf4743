// Statistics for the tests of samplers: many rows with known logits, and exact acceptance limits.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLER_TESTING_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLER_TESTING_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

// The most failures in `trials` that a true rate of `rate` exceeds with probability below
// `false_alarm`.
int64_t BinomialUpperLimit(int64_t trials, double rate, double false_alarm = 1e-6);

// Weights (exponentials of logits) of `keys` keys: "uniform", "lognormal_1", "lognormal_2",
// "two_level", "power_law".
std::vector<double> ScoreWeights(const std::string& distribution, int64_t keys);

// `queries` queries that all see the same logits, ln(weights), so that only the draws differ
// between them. They stand at absolute positions from `first_position`. Values are random around
// (1, ..., 1), `value_dim` wide.
AttentionInputs RepeatedRows(const std::vector<double>& weights, int64_t queries,
                             int64_t first_position, int64_t value_dim);

// The `count` heaviest keys kept for certain in every row.
Mask HeaviestKept(const std::vector<double>& weights, int64_t queries, int64_t count);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_SAMPLER_TESTING_H_
