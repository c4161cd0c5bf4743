#include "sparse_attention/key_index/bit_signature.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/tensor.h>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/key_index/append_testing.h"

namespace sparse_attention {
namespace {

HeadMlp RandomMlp(int64_t heads, int64_t bits, Activation activation, uint64_t seed = 1) {
  RandomTensors random(seed);
  HeadMlp mlp;
  mlp.activation = activation;
  mlp.linears = {{random.Normal({heads, 8, 6}), random.Normal({heads, 6})},
                 {random.Normal({heads, 6, bits}), random.Normal({heads, bits})}};
  return mlp;
}

at::Tensor Activated(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return x.clamp_min(0);
    case Activation::kSilu:
      return x.mul(x.sigmoid());
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kTanh:
      return x.tanh();
  }
  return x;
}

TEST(BitSignatures, AreTheSignsOfTheMlp) {
  const at::Tensor x = RandomTensors(2).Normal({2, 2, 7, 8});
  for (Activation activation :
       {Activation::kRelu, Activation::kSilu, Activation::kGelu, Activation::kTanh}) {
    for (int64_t heads : {2, 4}) {
      for (int64_t bits : {5, 32, 70}) {
        const HeadMlp mlp = RandomMlp(heads, bits, activation);
        const at::Tensor words = BitSignatures(mlp, x);
        const at::Tensor outputs = MlpOutputs(mlp, x);
        ASSERT_EQ(outputs.sizes(), at::IntArrayRef({2, heads, 7, bits}));
        ASSERT_EQ(words.sizes(), at::IntArrayRef({2, heads, 7, (bits + 31) / 32}));
        for (int64_t head = 0; head < heads; ++head) {
          const at::Tensor in = x.select(1, head / (heads / 2));
          const at::Tensor hidden =
              Activated(at::matmul(in, mlp.linears[0].weight[head]).add(mlp.linears[0].bias[head]),
                        activation);
          const at::Tensor out =
              at::matmul(hidden, mlp.linears[1].weight[head]).add(mlp.linears[1].bias[head]);
          EXPECT_TRUE(outputs.select(1, head).allclose(out, 1e-4, 1e-4));
          int wrong = 0;
          for (int64_t b = 0; b < 2; ++b) {
            for (int64_t j = 0; j < 7; ++j) {
              for (int64_t i = 0; i < bits; ++i) {
                const float value = out[b][j][i].item<float>();
                const bool bit = words[b][head][j][i / 32].item<int32_t>() >> (i % 32) & 1;
                // Rounding may turn a sign only next to zero.
                wrong += std::abs(value) > 1e-4 && bit != (value > 0);
              }
            }
          }
          EXPECT_EQ(wrong, 0) << "head " << head << ", bits " << bits;
        }
      }
    }
  }
}

TEST(BitSignatures, AnOutputOfZeroIsAZero) {
  HeadMlp mlp;
  mlp.linears = {
      {at::tensor({1.f, 0.f, -1.f}).view({1, 1, 3}), at::tensor({0.f, 0.f, 0.f}).view({1, 3})}};
  const at::Tensor words = BitSignatures(mlp, at::tensor({2.f, -2.f, 0.f}).view({1, 1, 3, 1}));
  EXPECT_TRUE(words.flatten().equal(at::tensor({1, 4, 0}).to(at::kInt)));
}

at::Tensor RandomWords(RandomTensors& random, at::IntArrayRef shape) {
  return random.Uniform(shape, -2147483648., 2147483520.).to(at::kInt);
}

TEST(BitAgreement, CountsBits) {
  RandomTensors random(3);
  const at::Tensor q = RandomWords(random, {2, 4, 3, 2}), k = RandomWords(random, {2, 2, 50, 2});
  const at::Tensor scores = BitAgreement(q, k, 64);
  for (int64_t head = 0; head < 4; ++head) {
    for (int64_t j = 0; j < 50; ++j) {
      float expected = 0;
      for (int64_t i = 0; i < 64; ++i) {
        const int32_t a = q[1][head][2][i / 32].item<int32_t>() >> (i % 32);
        const int32_t b = k[1][head / 2][j][i / 32].item<int32_t>() >> (i % 32);
        expected += ((a ^ b) & 1) == 0 ? 1 : -1;
      }
      ASSERT_EQ(scores[1][head][2][j].item<float>(), expected);
    }
  }
}

TEST(BitAgreement, BitsBeyondTheLastDoNotCount) {
  const at::Tensor x = RandomTensors(4).Normal({1, 2, 9, 8});
  const HeadMlp mlp = RandomMlp(2, 5, Activation::kRelu);
  const at::Tensor words = BitSignatures(mlp, x);
  const at::Tensor scores = BitAgreement(words, words, 5);
  EXPECT_TRUE(scores.diagonal(0, 2, 3).eq(5).all().item<bool>());
  EXPECT_TRUE(scores.abs().le(5).all().item<bool>());
}

TEST(BitSignatureIndex, AppendsEqualAFreshBuild) {
  for (int64_t heads : {2, 4}) {
    const HeadMlp mlp = RandomMlp(heads, 40, Activation::kSilu);
    ExpectAppendsEqualAFreshBuild(
        [&](const at::Tensor& keys) { return BitSignatureIndex(keys, mlp); },
        [](BitSignatureIndex& index, const at::Tensor& keys, int64_t n) { index.Extend(keys, n); },
        [](const BitSignatureIndex& index) { return std::vector{index.signatures()}; });
  }
}

}  // namespace
}  // namespace sparse_attention
