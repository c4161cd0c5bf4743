// Steps of one session in both engines, for tests of methods: what they select side by side.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_METHOD_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_METHOD_TESTING_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

struct MethodCase {
  std::string text;
  Json pipeline;
  std::vector<AttentionInputs> steps;  // of one session: a prompt, then tokens
};

// A generated problem for the method that `method` draws, now and then behind ranges.
MethodCase MakeCase(uint64_t seed, at::ScalarType type,
                    const std::function<Json(RandomTensors&)>& method);

// A budget, a count or a fraction.
Json Heavy(RandomTensors& random);

// float32, float16 and bfloat16 in turn.
at::ScalarType TypeOf(uint64_t seed);

// Runs the steps in both engines, and compares what they select of the visible keys, bool [batch,
// query heads, queries, keys].
using Compare = std::function<void(const AttentionInputs& step, const at::Tensor& selected,
                                   const at::Tensor& wanted)>;
void ForEachStep(const MethodCase& problem, const Compare& compare);

// That two selections, bool of the shape of `scores`, differ only where scores are as good as
// equal.
void ExpectSameButForTies(const at::Tensor& selected, const at::Tensor& expected,
                          const at::Tensor& scores);

// The last masker of the pipeline selects equal sets, or the same but where its scores
// (MethodScores) are as good as equal.
enum class Agreement { kEqual, kButForRounding };
void ExpectEnginesAgree(const MethodCase& problem, Agreement agreement);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_METHOD_TESTING_H_
