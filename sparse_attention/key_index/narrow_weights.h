// Weights in the narrowest element that holds all of them exactly: what reads them from memory
// takes half the time where a file's numbers were bfloat16 or float16. LibTorch-free.
#ifndef SPARSE_ATTENTION_KEY_INDEX_NARROW_WEIGHTS_H_
#define SPARSE_ATTENTION_KEY_INDEX_NARROW_WEIGHTS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"

namespace sparse_attention::cpu {

class NarrowWeights {
 public:
  // `values` must outlive it: they are not copied where only float32 holds them.
  explicit NarrowWeights(std::span<const float> values);

  Element element() const { return element_; }
  const void* data() const {
    return element_ == Element::kFloat32 ? static_cast<const void*>(values_.data()) : short_.data();
  }

 private:
  const std::span<const float> values_;
  Element element_ = Element::kFloat32;
  std::vector<uint16_t> short_;  // the bits of BFloat16 or Float16
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_KEY_INDEX_NARROW_WEIGHTS_H_
