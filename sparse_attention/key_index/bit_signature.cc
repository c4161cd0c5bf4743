#include "sparse_attention/key_index/bit_signature.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>

#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/key_index/mlp.h"
#include "sparse_attention/key_index/sign_bits.h"
#include "sparse_attention/key_index/tensor_rows.h"

namespace sparse_attention {
namespace {

constexpr int64_t kPieceKeys = 4096;      // go through the MLP at a time
constexpr int64_t kHostPieceRows = 1024;  // of a thread
constexpr int64_t kWordBits = cpu::kSignatureBits;

void Activate(Activation activation, at::Tensor& x) {
  switch (activation) {
    case Activation::kRelu:
      x.relu_();
      break;
    case Activation::kSilu:
      at::silu_(x);
      break;
    case Activation::kGelu:
      x = at::gelu(x);
      break;
    case Activation::kTanh:
      x.tanh_();
      break;
  }
}

// The outputs of one head of the MLP for x [batch, n, dim] on a device.
at::Tensor Forward(const HeadMlp& mlp, int64_t head, const at::Tensor& x) {
  at::Tensor y = x.to(at::kFloat);
  for (size_t i = 0; i < mlp.linears.size(); ++i) {
    const HeadLinear& linear = mlp.linears[i];
    y = at::matmul(y, linear.weight[head]).add_(linear.bias[head]);
    if (i + 1 < mlp.linears.size()) Activate(mlp.activation, y);
  }
  return y;
}

// The head of x that a head of the MLP reads.
at::Tensor HeadOf(const HeadMlp& mlp, int64_t head, const at::Tensor& x) {
  return x.select(1, head / (mlp.heads() / x.size(1)));
}

// Calls run(mlp, head, rows, sequence, first row, scratch) for pieces of x in parallel.
template <typename Run>
void ForRowsOnHost(const HeadMlp& mlp, const at::Tensor& x, const Run& run) {
  std::vector<at::Tensor> kept;  // what the plain pointers point to
  std::vector<cpu::MlpLinear> linears;
  for (const HeadLinear& linear : mlp.linears) {
    kept.push_back(linear.weight.contiguous());
    kept.push_back(linear.bias.contiguous());
    const at::Tensor &weight = kept[kept.size() - 2], &bias = kept.back();
    linears.push_back({weight.const_data_ptr<float>(), bias.const_data_ptr<float>(), weight.size(1),
                       weight.size(2)});
  }
  const cpu::Mlp plain = {linears, mlp.activation};
  const at::Tensor rows = AsElements(x);
  const int64_t heads = mlp.heads(), n = x.size(2);
  const int64_t pieces = (n + kHostPieceRows - 1) / kHostPieceRows;
  at::parallel_for(0, x.size(0) * heads * pieces, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(cpu::MlpScratchFloats(plain));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % pieces * kHostPieceRows;
      const int64_t head = task / pieces % heads, sequence = task / pieces / heads;
      const cpu::KeyRows all = KeyRowsOf(rows, sequence, head / (heads / x.size(1)));
      run(plain, head, all.Part(first, std::min(kHostPieceRows, n - first)), sequence, first,
          scratch.data());
    }
  });
}

// Counts of set bits by adding ever larger fields of a word, for devices.
at::Tensor CountBits(at::Tensor x) {
  const auto part = [](const at::Tensor& v, int64_t shift, int64_t mask) {
    return v.bitwise_right_shift(shift).bitwise_and(mask);
  };
  x = x.to(at::kLong).bitwise_and(0xFFFFFFFF);
  x = x.sub(part(x, 1, 0x55555555));
  x = x.bitwise_and(0x33333333).add(part(x, 2, 0x33333333));
  x = x.add(x.bitwise_right_shift(4)).bitwise_and(0x0F0F0F0F);
  return x.mul(0x01010101).bitwise_right_shift(24).bitwise_and(0xFF);
}

at::Tensor AgreementOnDevice(const at::Tensor& queries, const at::Tensor& keys, int64_t bits) {
  const int64_t per_set = queries.size(1) / keys.size(1);
  at::Tensor differing =
      at::zeros({queries.size(0), queries.size(1), queries.size(2), keys.size(2)},
                queries.options().dtype(at::kLong));
  for (int64_t word = 0; word < keys.size(3); ++word) {
    const at::Tensor k = keys.select(3, word).unsqueeze(2).repeat_interleave(per_set, 1);
    differing.add_(CountBits(queries.select(3, word).unsqueeze(3).bitwise_xor(k)));
  }
  return differing.to(at::kFloat).mul_(-2).add_(bits);
}

// Scores of one query against n keys.
__attribute__((target_clones("popcnt", "default"))) void AgreementOfRow(const int32_t* query,
                                                                        const int32_t* keys,
                                                                        int64_t key_stride,
                                                                        int64_t words, int64_t n,
                                                                        int64_t bits, float* out) {
  for (int64_t j = 0; j < n; ++j, keys += key_stride) {
    int differing = 0;
    for (int64_t w = 0; w < words; ++w) {
      differing += std::popcount(static_cast<uint32_t>(query[w] ^ keys[w]));
    }
    out[j] = static_cast<float>(bits - 2 * differing);
  }
}

}  // namespace

at::Tensor MlpOutputs(const HeadMlp& mlp, const at::Tensor& x) {
  at::Tensor outputs =
      at::empty({x.size(0), mlp.heads(), x.size(2), mlp.bits()}, x.options().dtype(at::kFloat));
  if (x.device().is_cpu()) {
    float* const out = outputs.data_ptr<float>();
    ForRowsOnHost(mlp, x,
                  [&](const cpu::Mlp& plain, int64_t head, const cpu::KeyRows& rows,
                      int64_t sequence, int64_t first, float* scratch) {
                    cpu::MlpOutputs(
                        plain, head, rows, cpu::BestIsa(), scratch,
                        out + ((sequence * mlp.heads() + head) * x.size(2) + first) * mlp.bits(),
                        mlp.bits());
                  });
    return outputs;
  }
  for (int64_t head = 0; head < mlp.heads(); ++head) {
    outputs.select(1, head).copy_(Forward(mlp, head, HeadOf(mlp, head, x)));
  }
  return outputs;
}

at::Tensor BitSignatures(const HeadMlp& mlp, const at::Tensor& x) {
  const int64_t words = (mlp.bits() + kWordBits - 1) / kWordBits;
  at::Tensor signatures =
      at::empty({x.size(0), mlp.heads(), x.size(2), words}, x.options().dtype(at::kInt));
  if (x.device().is_cpu()) {
    int32_t* const out = signatures.data_ptr<int32_t>();
    ForRowsOnHost(mlp, x,
                  [&](const cpu::Mlp& plain, int64_t head, const cpu::KeyRows& rows,
                      int64_t sequence, int64_t first, float* scratch) {
                    cpu::EncodeSignatures(
                        plain, head, rows, cpu::BestIsa(), scratch,
                        out + ((sequence * mlp.heads() + head) * x.size(2) + first) * words, words);
                  });
    return signatures;
  }
  for (int64_t begin = 0; begin < x.size(2); begin += kPieceKeys) {
    const int64_t length = std::min(kPieceKeys, x.size(2) - begin);
    const at::Tensor piece = x.narrow(2, begin, length);
    for (int64_t head = 0; head < mlp.heads(); ++head) {
      const at::Tensor outputs = Forward(mlp, head, HeadOf(mlp, head, piece));
      signatures.select(1, head)
          .narrow(1, begin, length)
          .copy_(PackBits(outputs.gt(0), kWordBits).to(at::kInt));
    }
  }
  return signatures;
}

at::Tensor BitAgreement(const at::Tensor& queries, const at::Tensor& keys, int64_t bits) {
  if (!queries.device().is_cpu()) return AgreementOnDevice(queries, keys, bits);
  const at::Tensor q = queries.contiguous();
  const int64_t b = q.size(0), heads = q.size(1), m = q.size(2), n = keys.size(2);
  const int64_t words = q.size(3), per_set = keys.size(1) == 0 ? 1 : heads / keys.size(1);
  at::Tensor scores = at::empty({b, heads, m, n}, q.options().dtype(at::kFloat));
  float* const out = scores.data_ptr<float>();
  const int32_t* const q_data = q.const_data_ptr<int32_t>();
  const int32_t* const k_data = keys.const_data_ptr<int32_t>();
  TORCH_CHECK(keys.stride(3) == 1 || words == 1, "signatures must be packed");
  at::parallel_for(0, b * heads * m, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t head = row / m % heads, sequence = row / m / heads;
      AgreementOfRow(q_data + row * words,
                     k_data + sequence * keys.stride(0) + head / per_set * keys.stride(1),
                     keys.stride(2), words, n, bits, out + row * n);
    }
  });
  return scores;
}

BitSignatureIndex::BitSignatureIndex(const at::Tensor& keys, const HeadMlp& key_mlp)
    : key_mlp_(&key_mlp) {
  Extend(keys, 0);
}

void BitSignatureIndex::Extend(const at::Tensor& keys, int64_t unchanged) {
  signatures_.Set(unchanged,
                  BitSignatures(*key_mlp_, keys.narrow(2, unchanged, keys.size(2) - unchanged)));
}

}  // namespace sparse_attention
