// The activations of learned index networks, and their names in files and configs.
#ifndef SPARSE_ATTENTION_KEY_INDEX_ACTIVATION_H_
#define SPARSE_ATTENTION_KEY_INDEX_ACTIVATION_H_

#include <utility>

#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/key_index/row_product.h"

namespace sparse_attention {

using Activation = cpu::RowActivation;

template <>
struct EnumNames<Activation> {
  static constexpr std::pair<Activation, const char*> kTable[] = {{Activation::kRelu, "relu"},
                                                                  {Activation::kSilu, "silu"},
                                                                  {Activation::kGelu, "gelu"},
                                                                  {Activation::kTanh, "tanh"}};
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_ACTIVATION_H_
