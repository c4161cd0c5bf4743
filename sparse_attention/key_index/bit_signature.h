// Bit signatures: small MLPs map queries and keys to bits whose agreement stands for the product.
// Desai et al., HashAttention: semantic sparsity for faster inference, 2024.
#ifndef SPARSE_ATTENTION_KEY_INDEX_BIT_SIGNATURE_H_
#define SPARSE_ATTENTION_KEY_INDEX_BIT_SIGNATURE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "sparse_attention/key_index/activation.h"
#include "sparse_attention/key_index/growing_tensor.h"
#include "sparse_attention/key_index/named_tensor.h"

namespace sparse_attention {

// One linear map a head and layer: x . weight + bias.
struct HeadLinear {
  at::Tensor weight;  // float32 [heads, in, out]
  at::Tensor bias;    // float32 [heads, out]
};

// An activation stands between two linear maps, none behind the last.
struct HeadMlp {
  std::vector<HeadLinear> linears;  // at least one
  Activation activation = Activation::kSilu;

  int64_t heads() const { return linears.front().weight.size(0); }
  int64_t dim() const { return linears.front().weight.size(1); }
  int64_t bits() const { return linears.back().weight.size(2); }
};

// The outputs of the MLP: float32 [batch, heads, n, bits], x as below.
at::Tensor MlpOutputs(const HeadMlp& mlp, const at::Tensor& x);

// Bit i of a vector is 1 where output i of the MLP is above 0: int32 [batch, heads, n, words], 32
// bits a word, lowest first. x [batch, h, n, dim] with the MLP's heads a multiple of h: head i of
// the MLP reads head i / (heads / h). (The Python hub gives an output of exactly 0 no sign; here it
// is a 0.)
at::Tensor BitSignatures(const HeadMlp& mlp, const at::Tensor& x);

// Agreeing less disagreeing bits: queries int32 [batch, query heads, m, words], keys int32 [batch,
// sets, n, words], query heads a multiple of sets, to float32 [batch, query heads, m, n].
at::Tensor BitAgreement(const at::Tensor& queries, const at::Tensor& keys, int64_t bits);

// The signatures of all keys; after any Extend they equal those of a fresh build. Memory: bits / 8
// bytes, rounded up to words, a key and head of the key MLP.
class BitSignatureIndex {
 public:
  // `keys` [batch, KV heads, n, dim]. `key_mlp` must outlive the index.
  BitSignatureIndex(const at::Tensor& keys, const HeadMlp& key_mlp);

  // Covers `keys`, whose first `unchanged` are as they were.
  void Extend(const at::Tensor& keys, int64_t unchanged);
  // Keys whose change asks for a fresh build.
  int64_t prefix() const { return 0; }

  at::Tensor signatures() const { return signatures_.view(); }  // [batch, heads, n, words]
  NamedTensors Tensors() const { return {{"signatures", signatures()}}; }

 private:
  const HeadMlp* key_mlp_;
  GrowingTensor signatures_{2};
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_BIT_SIGNATURE_H_
