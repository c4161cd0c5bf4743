// AlignedBuffer: memory for caches, indexes and scratch, that vectors and huge pages like.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ALIGNED_BUFFER_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace sparse_attention::cpu {

// Owns memory that begins at a cache line, from 2 MB on at a huge page, which the kernel is asked
// for: random rows in small pages cost a walk of the page table each. Not initialised.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // data() is null where there is no memory, and for 0 bytes.
  explicit AlignedBuffer(size_t bytes) {
    if (bytes == 0) return;
    const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    if (rounded < bytes) return;
    data_.reset(static_cast<char*>(std::aligned_alloc(alignment, rounded)));
    if (data_ == nullptr) return;
    size_ = bytes;
#if defined(MADV_HUGEPAGE)
    // Without huge pages it is slower, not wrong.
    if (alignment == kHugePage) madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
  }

  char* data() { return data_.get(); }
  const char* data() const { return data_.get(); }
  size_t size() const { return size_; }

  template <typename T>
  T* as() {
    static_assert(std::is_trivial_v<T>);
    return reinterpret_cast<T*>(data_.get());
  }
  template <typename T>
  const T* as() const {
    static_assert(std::is_trivial_v<T>);
    return reinterpret_cast<const T*>(data_.get());
  }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };
  std::unique_ptr<char[], Free> data_;
  size_t size_ = 0;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_ALIGNED_BUFFER_H_
