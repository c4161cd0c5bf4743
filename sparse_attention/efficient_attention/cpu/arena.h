// Arena: a thread's scratch memory. It is allocated when a plan is made; a step only moves a mark.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ARENA_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "sparse_attention/base/status.h"

namespace sparse_attention::cpu {

class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  // What `Take<T>(count)` needs.
  template <typename T>
  static constexpr size_t Bytes(int64_t count) {
    return (sizeof(T) * static_cast<size_t>(count) + kAlignment - 1) / kAlignment * kAlignment;
  }

  explicit Arena(size_t capacity) : Arena(capacity, Unchecked()) { SA_CHECK(data_ != nullptr); }

  // ResourceExhausted where there is no memory.
  static absl::StatusOr<Arena> Create(size_t capacity) {
    Arena arena(capacity, Unchecked());
    if (arena.data_ == nullptr) {
      return absl::ResourceExhaustedError("no memory for a thread's scratch memory");
    }
    return arena;
  }

  // `count` values, not initialised. What was promised to the constructor never runs out.
  template <typename T>
  T* Take(int64_t count) {
    T* const taken = reinterpret_cast<T*>(data_.get() + used_);
    used_ += Bytes<T>(count);
    SA_CHECK(used_ <= capacity_);
    return taken;
  }

  size_t mark() const { return used_; }
  void Release(size_t mark) { used_ = mark; }
  size_t capacity() const { return capacity_; }

 private:
  struct Unchecked {};
  Arena(size_t capacity, Unchecked)
      : capacity_((capacity + kAlignment - 1) / kAlignment * kAlignment + kAlignment),
        data_(static_cast<std::byte*>(std::aligned_alloc(kAlignment, capacity_))) {}

  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  size_t capacity_;
  std::unique_ptr<std::byte, Free> data_;
  size_t used_ = 0;
};

// Gives back at its end what was taken in its scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.Release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  const size_t mark_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_ARENA_H_
