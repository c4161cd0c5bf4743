#include "sparse_attention/key_index/narrow_weights.h"

#include <algorithm>
#include <bit>

namespace sparse_attention::cpu {
namespace {

bool Holds(Element element, std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [element](float x) {
    char stored[sizeof(float)];
    SetElement(stored, element, 0, x);
    // By bits: of NaN and -0, too.
    return std::bit_cast<uint32_t>(ElementAt(stored, element, 0)) == std::bit_cast<uint32_t>(x);
  });
}

}  // namespace

NarrowWeights::NarrowWeights(std::span<const float> values) : values_(values) {
  for (const Element element : {Element::kBFloat16, Element::kFloat16}) {
    if (!Holds(element, values)) continue;
    element_ = element;
    short_.resize(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      SetElement(short_.data(), element, static_cast<int64_t>(i), values[i]);
    }
    return;
  }
}

}  // namespace sparse_attention::cpu
