// Whole problems for both engines, drawn from a seed: a pipeline of any maskers, shapes, types,
// strides, options, and values from normal to hostile, in the steps of one session.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_GENERATED_CASES_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_GENERATED_CASES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/efficient_attention/engine_testing.h"

namespace sparse_attention {

enum class Values {
  kNormal,
  kWhole,     // small whole numbers and a scale of 1/2: logits are exact, many are equal
  kConstant,  // keys of a head that are all the same
  kUnseen,    // NaN and infinity in keys and values that no query sees
  kBroken,    // NaN anywhere, infinite keys
};

struct GeneratedCase {
  Json pipeline;
  std::vector<AttentionInputs> steps;  // of one session: a prompt, then tokens
  LayerTestOptions options;            // padding only with Values::kUnseen
  Values values = Values::kNormal;
  bool through_engine = false;  // EfficientAttention, which the best instruction set runs
  bool prepared = false;        // the first step's earlier keys are handed over before it
  std::string text;             // the seed and what was drawn

  // The keys before the queries of the first step, without queries.
  AttentionInputs Prefix() const;
  // The distinct types of maskers.
  std::vector<std::string> MaskerTypes() const;
};

// Writes the weight files that the pipeline names to `folder`; those of the case before are
// overwritten.
GeneratedCase GenerateCase(uint64_t seed, const std::string& folder);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_GENERATED_CASES_H_
