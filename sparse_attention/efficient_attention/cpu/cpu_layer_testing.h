// What tests of layers share: methods of every kind, plans, and a count of allocations.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_LAYER_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_LAYER_TESTING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"

namespace sparse_attention::cpu {

struct Method {
  std::string name;
  MaskerChain chain;
};

std::vector<Method> Methods();

// Heads of a group that select together sum their scores.
StepPlan PlanFor(int64_t sequences, bool by_group, const LayerShape& shape, int64_t capacity);

// Of the whole program, so far.
int64_t Allocations();

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_LAYER_TESTING_H_
