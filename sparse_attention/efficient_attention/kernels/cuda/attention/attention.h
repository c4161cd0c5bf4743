// Attention of a few new queries over the cached keys of each sequence, on a CUDA device: every key
// (dense), or ranges and a list of selected ones (sparse).
//
// One block of threads takes a part of the keys of one sequence and KV head and reads each key and
// value row once for all query heads of the group. What parts give is merged by the last of them
// to finish, in a fixed order: the same launch gives the same bits. Nothing is allocated, the host
// waits for nothing and every length is read on the device, so that a launch can be captured in a
// CUDA graph and replayed while sequences grow.
//
// Logits are x = softcap(scale q.k); the softmax, its sums and the accumulation are fp32; weights
// enter the product with values as two numbers of the element type, 16 bits or more.
//
// Edges, for each query head by itself, are those of the CPU kernels (kernels/cpu/attention):
//   no key                 out is 0, lse -infinity
//   one key                its value row; lse is its logit
//   logit +infinity        the mean of the value rows with that logit; lse +infinity
//   logit -infinity        the key has no effect
//   NaN in q, k or v of a key that a head attends to: NaN in what depends on it, in that head only
//   NaN or infinity in keys that are not attended to: no effect
// And since lengths, lists and tables lie on the device, where nobody has checked them: a length
// counts as 0 below 0 and as `capacity` above it, a listed key outside what its query may see and a
// key whose page does not exist have no effect.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_ATTENTION_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_ATTENTION_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"

namespace sparse_attention::cuda {

constexpr int kMaxGroup = 16;
constexpr int kMaxSplits = 64;

// Key and value rows of all sequences and KV heads; strides in bytes, multiples of 16. A contiguous
// cache keeps row j of a sequence at base + sequence * batch_stride + head * head_stride + j *
// row_stride. In a paged one it is row j % 2^page_shift of page pages[sequence, j >> page_shift],
// pages lying page_stride bytes apart.
struct CacheView {
  const void* k = nullptr;  // bases, aligned to 16 bytes
  const void* v = nullptr;
  int64_t batch_stride = 0;  // of a contiguous cache
  int64_t page_stride = 0;   // of a paged one
  int64_t head_stride = 0;
  int64_t row_stride = 0;
};

struct PageTable {
  const int32_t* pages = nullptr;  // [batch, stride]; null: the cache is contiguous
  int64_t stride = 0;
  int32_t page_shift = 0;
  int32_t num_pages = 0;
};

// Row strides of tensors [batch, queries, heads, dim] whose last dimension is dense, in elements.
struct HeadStrides {
  int64_t batch = 0, query = 0, head = 0;
};

struct DecodeParams {
  cpu::Element element = cpu::Element::kBFloat16;  // of q, k, v and out: kFloat16 or kBFloat16
  int32_t dim = 0;                                 // 64, 128 or 256
  int32_t batch = 0, kv_heads = 0;
  int32_t group = 0;    // query heads a KV head, 1 to kMaxGroup
  int32_t queries = 1;  // new ones a sequence

  int32_t capacity = 0;              // keys that a sequence has at most
  const int32_t* lengths = nullptr;  // [batch], the new queries' own keys included; null: capacity

  const void* q = nullptr;  // [batch, queries, kv_heads * group, dim], rows aligned to 4 bytes
  HeadStrides q_strides;
  CacheView cache;
  PageTable table;

  float scale = 1;
  float softcap = 0;             // softcap * tanh(x / softcap); 0: none
  int32_t window = 0;            // a query sees its own key and the window - 1 before; 0: all
  const float* sinks = nullptr;  // [kv_heads * group]: exp(sink) joins the denominator; null: none

  void* out = nullptr;  // [batch, queries, kv_heads * group, dim], rows aligned to 4 bytes
  HeadStrides out_strides;
  float* lse = nullptr;  // [batch, queries, kv_heads * group]; null: none

  // DecodeWorkspaceBytes of it, aligned to 16 bytes. Filled with bytes 0xFF before the first
  // launch; a launch leaves it so for the next, of any shape that fits. Not for two launches at a
  // time.
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
  // Parts that the keys of one sequence and KV head are cut into, 1 to kMaxSplits; fewer where a
  // sequence is short. With a fixed number and capacity the result of a sequence is independent of
  // its batch, bit for bit. 0: what fills the device.
  int32_t splits = 0;
};

// Query i of a sequence, counted from 0, sees keys [begin, end) with end = length - (queries - 1 -
// i) and begin = max(0, end - window). Of these it attends to
//   the first keys of the sequence, below `sink`,
//   the latest, from end - local on,
//   and those of its list. A key listed twice counts twice, also one that lies in the ranges.
struct KeySelection {
  int32_t sink = 0, local = 0;
  const uint32_t* keys = nullptr;   // [batch, queries, kv_heads, stride]; null: ranges alone
  const int32_t* counts = nullptr;  // [batch, queries, kv_heads]: the keys of each list
  int64_t stride = 0;               // what a list has room for; greater counts are cut to it
  // [batch, queries, kv_heads, stride], bit h: head h of the group attends to the key; null: all.
  const uint16_t* members = nullptr;
  // The inverse of the probability that the key was chosen with, > 0 and finite: it counts that
  // many times. [batch, queries, kv_heads, stride], or with head_weights [batch, queries, kv_heads,
  // group, stride], of no meaning where the head is no member. Null: all 1.
  const float* inverse_probabilities = nullptr;
  bool head_weights = false;
};

struct SparseDecodeParams {
  DecodeParams attention;
  KeySelection selection;
};

// What launches with these shapes need; only shapes are read.
int64_t DecodeWorkspaceBytes(const DecodeParams& params);

// cudaErrorInvalidValue: a shape, stride, null pointer or workspace that is not allowed.
// cudaErrorInvalidDevice: a block has too little shared memory there (100 KB do for dim 64 and 128,
// 132 KB for 256).
cudaError_t LaunchDenseDecode(const DecodeParams& params, cudaStream_t stream);
cudaError_t LaunchSparseDecode(const SparseDecodeParams& params, cudaStream_t stream);

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_ATTENTION_H_
