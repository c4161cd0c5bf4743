#include "sparse_attention/key_index/sign_bits.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

namespace sparse_attention {

at::Tensor PackBits(const at::Tensor& bits, int64_t width, BitOrder order) {
  const int64_t rest = bits.size(-1) % width;
  const at::Tensor padded = rest == 0 ? bits : at::constant_pad_nd(bits, {0, width - rest});
  const at::Tensor groups = padded.unflatten(-1, {padded.size(-1) / width, width});
  // Up to 16 bits at a time are exact as a product in float32, which is fast everywhere.
  constexpr int64_t kPart = 16;
  at::Tensor words =
      at::zeros(groups.sizes().slice(0, groups.dim() - 1), bits.options().dtype(at::kLong));
  for (int64_t begin = 0; begin < width; begin += kPart) {
    const int64_t length = std::min(kPart, width - begin);
    std::vector<float> powers;
    for (int64_t i = 0; i < length; ++i) {
      const int64_t exponent = order == BitOrder::kLowestFirst ? i : length - 1 - i;
      powers.push_back(static_cast<float>(int64_t{1} << exponent));
    }
    const at::Tensor weights =
        at::tensor(at::ArrayRef<float>(powers), at::kFloat).to(bits.device()).unsqueeze(1);
    const at::Tensor part = at::matmul(groups.narrow(-1, begin, length).to(at::kFloat), weights)
                                .squeeze(-1)
                                .to(at::kLong);
    const int64_t shift = order == BitOrder::kLowestFirst ? begin : width - begin - length;
    words.bitwise_or_(part.bitwise_left_shift(shift));
  }
  return words;
}

}  // namespace sparse_attention
