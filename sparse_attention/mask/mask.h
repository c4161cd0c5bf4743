// Mask: which keys each query attends to, and with what inclusion probability.
//
// A mask has the shape [batch, heads, queries, keys]. Its weights are inclusion probabilities: 1
// keeps a key for certain, 0 < p < 1 keeps it as a sampled key that stands for 1/p keys, 0 leaves
// it out. Applying a mask divides by the weights. A mask is an immutable value: copies share
// storage, and nobody edits one in place.
//
// Exactly one of four representations holds at a time, and all of them are equal through ToDense():
//   Empty  nothing selected; stores nothing
//   Full   everything selected with weight 1; stores nothing
//   Dense  float32 [batch, heads, queries, keys]
//   Csr    rows in (batch, head, query) order: indptr [rows + 1], sorted unique key indices,
//   weights
// Empty and Full name a representation: a Dense mask of zeros selects as little as an Empty one.
// Normalized() detects such cases; nothing on the hot path does.
#ifndef SPARSE_ATTENTION_MASK_MASK_H_
#define SPARSE_ATTENTION_MASK_MASK_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <variant>

#include "sparse_attention/base/status.h"

namespace sparse_attention {

struct MaskShape {
  int64_t batch = 0;
  int64_t heads = 0;  // query heads
  int64_t queries = 0;
  int64_t keys = 0;

  int64_t rows() const { return batch * heads * queries; }
  int64_t elements() const { return rows() * keys; }
  bool operator==(const MaskShape&) const = default;
};
std::string ToString(const MaskShape& shape);  // "[1, 8, 1, 4096]"

class Mask {
 public:
  struct Empty {};
  struct Full {};
  struct Dense {
    at::Tensor weights;  // float32 [batch, heads, queries, keys]
  };
  struct Csr {
    at::Tensor indptr;   // int64 [rows + 1]
    at::Tensor indices;  // int64 [nnz], key positions, ascending and unique in each row
    at::Tensor weights;  // float32 [nnz] in (0, 1]
  };

  static Mask MakeEmpty(const MaskShape& shape, at::Device device = at::kCPU);
  static Mask MakeFull(const MaskShape& shape, at::Device device = at::kCPU);

  // Copies `weights` [batch, heads, queries, keys], bool or floating, to float32. InvalidArgument:
  // another rank or type, or a value that is not in [0, 1]; names the first.
  static absl::StatusOr<Mask> FromDense(const at::Tensor& weights);

  // Takes over a float32 tensor that the caller just made and will not touch again, unchecked
  // beyond its shape.
  static Mask AdoptDense(at::Tensor weights);

  // `indptr` [rows + 1] and `indices` [nnz] are int32 or int64; `weights` [nnz] is floating, or
  // undefined for all ones. Copies all three. InvalidArgument names the first row that breaks a
  // rule: indptr must start at 0, not fall, and end at nnz; indices must be in [0, keys), ascending
  // and unique in a row; weights must be in (0, 1].
  static absl::StatusOr<Mask> FromCsr(const MaskShape& shape, const at::Tensor& indptr,
                                      const at::Tensor& indices, const at::Tensor& weights = {});

  // The same number of entries a row, in any order: `indices` and `weights` [batch, heads, queries,
  // n]; an index of -1 pads, whatever its weight. Duplicates in a row are an error, since a weight
  // cannot say whether they mean one key or two draws. Otherwise the rules of FromCsr.
  static absl::StatusOr<Mask> FromRowIndices(const MaskShape& shape, const at::Tensor& indices,
                                             const at::Tensor& weights = {});

  const MaskShape& shape() const { return shape_; }
  at::Device device() const { return device_; }
  bool is_empty() const { return std::holds_alternative<Empty>(representation_); }
  bool is_full() const { return std::holds_alternative<Full>(representation_); }
  bool is_dense() const { return std::holds_alternative<Dense>(representation_); }
  bool is_csr() const { return std::holds_alternative<Csr>(representation_); }

  // A fresh float32 tensor [batch, heads, queries, keys] that the caller may change.
  at::Tensor ToDense() const;
  // Equal to ToDense() > 0, also fresh; cheaper than comparing.
  at::Tensor ToActive() const;
  // Shares storage with a Csr mask: for reading only.
  Csr ToCsr() const;

  // The same mask as Empty or Full where that is what it holds. Reads the data (and waits for the
  // device).
  Mask Normalized() const;

  // Share of active entries among all, the Python hub's definition: Empty 0, Full 1.
  double Density() const;

  // The stored weights of a Dense mask, for reading only.
  const at::Tensor& dense_weights() const { return std::get<Dense>(representation_).weights; }

  std::string ToString() const;  // "Mask([1, 8, 1, 4096], csr, nnz 256)"

 private:
  using Representation = std::variant<Empty, Full, Dense, Csr>;
  Mask(const MaskShape& shape, at::Device device, Representation representation);

  MaskShape shape_;
  at::Device device_;
  Representation representation_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_MASK_MASK_H_
