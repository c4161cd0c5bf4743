// GrowingTensor: a tensor that is appended to along one dimension without copying it at every step.
#ifndef SPARSE_ATTENTION_KEY_INDEX_GROWING_TENSOR_H_
#define SPARSE_ATTENTION_KEY_INDEX_GROWING_TENSOR_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace sparse_attention {

class GrowingTensor {
 public:
  explicit GrowingTensor(int64_t dim) : dim_(dim) {}

  int64_t size() const { return size_; }

  // Keeps the first `begin` <= size() entries and puts those of `x` behind them.
  void Set(int64_t begin, const at::Tensor& x) {
    const int64_t length = x.size(dim_);
    if (!storage_.defined() || begin + length > storage_.size(dim_)) {
      std::vector<int64_t> shape = x.sizes().vec();
      // An eighth to spare: a copy every so often, little memory unused.
      shape[dim_] = begin + length + (begin + length) / 8 + 64;
      const at::Tensor larger = x.new_empty(shape);
      if (begin > 0) larger.narrow(dim_, 0, begin).copy_(storage_.narrow(dim_, 0, begin));
      storage_ = larger;
    }
    if (length > 0) storage_.narrow(dim_, begin, length).copy_(x);
    size_ = begin + length;
  }

  // A view, valid until the next Set.
  at::Tensor view() const { return storage_.narrow(dim_, 0, size_); }

 private:
  int64_t dim_;
  int64_t size_ = 0;
  at::Tensor storage_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_GROWING_TENSOR_H_
