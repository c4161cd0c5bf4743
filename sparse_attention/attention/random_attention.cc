#include "sparse_attention/attention/random_attention.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/mask/random_mask.h"

namespace sparse_attention {
namespace {

Mask RandomMask(RandomTensors& random, const MaskShape& shape, std::string& text) {
  const int64_t kind = random.Integer(0, 7);
  if (kind == 0) return Mask::MakeFull(shape);
  const double density = random.OneOf<double>({0.02, 0.2, 0.7, 1});
  const double certain = random.OneOf<double>({0, 0.5, 1});
  absl::StrAppend(&text, ", density ", density, ", certain ", certain);
  const Mask dense = Mask::AdoptDense(RandomMaskWeights(random, shape, density, certain));
  if (kind < 4) return dense;
  const Mask::Csr csr = dense.ToCsr();
  return *Mask::FromCsr(shape, csr.indptr, csr.indices, csr.weights);
}

}  // namespace

RandomAttention MakeRandomAttention(uint64_t seed, at::ScalarType type) {
  RandomTensors random(seed);
  const int64_t batch = random.Integer(1, 2), kv_heads = random.Integer(1, 3);
  const int64_t heads = kv_heads * random.OneOf<int64_t>({1, 4, 8});
  const int64_t queries = random.OneOf<int64_t>({1, 2, 7, 16});
  const int64_t keys = random.Chance(0.1) ? random.Integer(1, 4) : random.Integer(16, 300);
  const int64_t dim = random.OneOf<int64_t>({8, 16, 64, 80});
  const int64_t value_dim = random.Chance(0.5) ? dim : random.OneOf<int64_t>({8, 24, 128});

  AttentionInputs in;
  in.q = random.Normal({batch, heads, queries, dim}, type);
  in.k = random.Normal({batch, kv_heads, keys, dim}, type);
  in.v = random.Normal({batch, kv_heads, keys, value_dim}, type);
  std::string text =
      absl::StrCat("seed ", seed, ": q ", DescribeTensor(in.q), ", v ", DescribeTensor(in.v));
  if (random.Chance(0.3)) {
    in.scale = random.Real(-0.5, 0.5);
    absl::StrAppend(&text, ", scale ", *in.scale);
  }
  if (random.Chance(0.3)) {
    in.softcap = random.Real(0.5, 5);
    absl::StrAppend(&text, ", softcap ", *in.softcap);
  }
  if (random.Chance(0.3)) {
    in.sink_logits = random.Normal({heads}, type, 2);
    absl::StrAppend(&text, ", sinks");
  }
  if (random.Chance(0.4) || queries > keys) {
    in.first_query_position = random.Integer(0, keys + 20);
    absl::StrAppend(&text, ", first query at ", *in.first_query_position);
  }
  if (random.Chance(0.4)) {
    in.causal = true;
    absl::StrAppend(&text, ", causal");
  }
  if (random.Chance(0.3)) {
    in.sliding_window = random.Integer(1, keys);
    absl::StrAppend(&text, ", window ", *in.sliding_window);
  }
  if (random.Chance(0.3)) {
    const auto bias_type =
        random.OneOf<at::ScalarType>({at::kFloat, at::kHalf, at::kBFloat16, at::kDouble});
    const double lowest = bias_type == at::kHalf     ? -65504
                          : bias_type == at::kDouble ? std::numeric_limits<double>::lowest()
                                                     : -0x1.fep127;  // of bfloat16
    at::Tensor bias = random.Normal({random.Chance(0.5) ? 1 : batch, random.Chance(0.5) ? 1 : heads,
                                     queries, keys + random.Integer(0, 3)},
                                    bias_type);
    random.Plant(bias, -std::numeric_limits<double>::infinity(), bias.numel() / 8);
    random.Plant(bias, lowest, bias.numel() / 8);
    absl::StrAppend(&text, ", bias ", DescribeTensor(bias));
    in.bias = bias;
  }
  Mask mask = RandomMask(random, in.mask_shape(), text);
  absl::StrAppend(&text, ", ", mask.ToString());
  return {std::move(in), std::move(mask), std::move(text)};
}

at::Tensor VisibleByDefinition(const AttentionInputs& in) {
  at::Tensor visible =
      at::empty({in.batch(), in.query_heads(), in.queries(), in.keys()}, at::kBool);
  bool* out = visible.data_ptr<bool>();
  at::Tensor bias;
  double lowest = 0;
  if (in.bias.has_value()) {
    bias = in.bias->to(at::kDouble)
               .narrow(3, 0, in.keys())
               .expand({in.batch(), in.query_heads(), in.queries(), in.keys()})
               .contiguous();
    switch (in.bias->scalar_type()) {
      case at::kHalf:
        lowest = -65504;
        break;
      case at::kBFloat16:
        lowest = -0x1.fep127;
        break;
      case at::kFloat:
        lowest = -0x1.fffffep127;
        break;
      default:
        lowest = -0x1.fffffffffffffp1023;
    }
  }
  for (int64_t row = 0; row < in.mask_shape().rows(); ++row) {
    const int64_t first = in.first_query_position.value_or(in.keys() - in.queries());
    const int64_t position = first + row % in.queries();
    for (int64_t j = 0; j < in.keys(); ++j) {
      const bool future = in.causal && j > position;
      const bool too_old = in.sliding_window.has_value() && position - j >= *in.sliding_window;
      const bool forbidden =
          bias.defined() && bias.const_data_ptr<double>()[row * in.keys() + j] <= lowest / 2;
      out[row * in.keys() + j] = !future && !too_old && !forbidden;
    }
  }
  return visible;
}

at::Tensor PlainAttention(const AttentionInputs& in, const Mask& mask) {
  const auto type = in.q.scalar_type();
  const at::Tensor k = in.k.repeat_interleave(in.group_size(), 1);
  const at::Tensor v = in.v.repeat_interleave(in.group_size(), 1);
  const at::Tensor selected = mask.ToActive().logical_and(VisibleByDefinition(in));
  at::Tensor x = at::matmul(in.q, k.transpose(2, 3)).mul(in.effective_scale());
  if (in.softcap.has_value()) x = x.div(*in.softcap).tanh().mul(*in.softcap);
  if (in.bias.has_value()) {
    const at::Tensor bias = in.bias->narrow(3, 0, in.keys()).expand_as(x);
    x = x.add(bias.masked_fill(selected.logical_not(), 0).to(type));
  }
  x = x.sub(mask.ToDense().masked_fill(selected.logical_not(), 1).log().to(type))
          .masked_fill(selected.logical_not(), -std::numeric_limits<double>::infinity());
  if (in.sink_logits.has_value()) {
    const at::Tensor sink = in.sink_logits->to(type).view({1, in.query_heads(), 1, 1});
    x = at::cat({x, sink.expand({in.batch(), in.query_heads(), in.queries(), 1})}, -1);
  }
  const at::Tensor p = x.softmax(-1).narrow(3, 0, in.keys());
  return at::matmul(p.masked_fill(selected.any(-1, true).logical_not(), 0), v);
}

}  // namespace sparse_attention
