// PqCodebook: product quantisation of keys. Every key is cut into sub-vectors, each of which is
// named by its nearest centroid; a query's products with the centroids then give an estimate of its
// product with every key by table look-ups. Zhang et al., PQCache: product quantization-based
// KVCache for long context LLM inference, SIGMOD 2025; Jegou et al., TPAMI 2011.
#ifndef SPARSE_ATTENTION_KEY_INDEX_PQ_CODEBOOK_H_
#define SPARSE_ATTENTION_KEY_INDEX_PQ_CODEBOOK_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "sparse_attention/key_index/growing_tensor.h"
#include "sparse_attention/key_index/k_means.h"
#include "sparse_attention/key_index/pq_core.h"

namespace sparse_attention {

struct PqOptions {
  // Sub-vectors a key; their widths differ by one at most where the dim is not a multiple. At most
  // one a channel is made.
  int64_t subvectors = 2;
  int64_t bits = 6;  // 2^bits centroids, in [1, 16]
  int64_t iterations = 10;
  // Inner products instead of distances decide: a channel sqrt(phi - |x|^2) is added to every
  // sub-vector, phi the group's largest |x|^2, which makes all of them equally long.
  bool inner_product = false;
  bool like_hub = false;  // see KMeansOptions
  uint64_t seed = 42;
  int64_t layer = 0;
};

struct ReconstructionErrors {
  double mse;       // mean of (key - its reconstruction)^2 over keys and channels
  double l2;        // norm of all differences
  double relative;  // l2 over the norm of the keys; 0 where that is 0
};

// Memory: subvectors bytes a key and KV head (bits up to 8; else four times as much), and 2^bits *
// dim float32 a KV head. A key that is not finite moves no centroid.
class PqCodebook {
 public:
  // Trains on `keys` [batch, KV heads, n, dim], n >= 1, and encodes them.
  PqCodebook(const at::Tensor& keys, const PqOptions& options);

  // Covers `keys`, whose first `unchanged` are as they were and at least prefix() many: new keys
  // are encoded with the centroids there are. The codebook is refreshed, trained again on all keys,
  // once there are more than twice as many as it was trained on (never by the Python hub's rule).
  void Extend(const at::Tensor& keys, int64_t unchanged);
  // The keys that the codebook was trained on.
  int64_t prefix() const { return trained_on_; }

  // Estimates of q . k, float32 [batch, query heads, queries, n], for q [batch, query heads,
  // queries, dim].
  at::Tensor Scores(const at::Tensor& q) const;

  // `keys` must be those that are covered.
  ReconstructionErrors Errors(const at::Tensor& keys) const;

  at::Tensor centroids() const { return centroids_; }  // [batch, KV heads, subvectors, 2^bits, w]
  at::Tensor codes() const { return codes_.view(); }   // [batch, KV heads, subvectors, n]
  at::Tensor phi() const { return phi_; }              // [batch, KV heads, subvectors, 1, 1]

 private:
  void Train(const at::Tensor& keys);
  void TrainOnHost(const at::Tensor& keys);
  KMeansOptions TrainingOptions(int64_t heads) const;
  // What encodes keys of a sequence on the host; points into this codebook.
  cpu::PqEncoder Encoder(int64_t sequence) const;
  at::Tensor Encode(const at::Tensor& keys) const;   // [batch, heads, subvectors, n]
  void Pack();                                       // centroids_ for encoders
  at::Tensor Subvectors(const at::Tensor& x) const;  // [batch, heads, subvectors, n, width]
  void SetCodes(int64_t begin, const at::Tensor& codes);
  at::ScalarType CodeType() const { return options_.bits <= 8 ? at::kByte : at::kInt; }

  PqOptions options_;
  int64_t key_dim_, subvectors_, width_;  // without the added channel
  int64_t trained_on_ = 0;
  at::Tensor centroids_, phi_;
  std::vector<float> packed_;  // [batch, heads, subvectors, packed_floats()], on the host alone
  GrowingTensor codes_{3};
};

// What the inner-product metric adds: phi = max |x|^2 over the vectors of each group, x [..., n, w]
// to [..., 1, 1], and x with the channel sqrt(phi - |x|^2) (0 for a vector beyond phi).
at::Tensor SquaredRadius(const at::Tensor& x);
at::Tensor AddNormChannel(const at::Tensor& x, const at::Tensor& phi);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_PQ_CODEBOOK_H_
