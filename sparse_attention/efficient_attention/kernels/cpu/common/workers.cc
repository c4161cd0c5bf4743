#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"

namespace sparse_attention::cpu {
namespace {

// How often to look before sleeping: a few microseconds, for threads that end nearly together.
constexpr int kLooks = 512;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Workers::Workers(int threads, Pool run) : threads_(threads), borrowed_(run) {}

Workers::Workers(int threads) : threads_(threads < 1 ? 1 : threads) {
  try {
    for (int thread = 1; thread < threads; ++thread) {
      pool_.emplace_back([this, thread] { Serve(thread); });
    }
  } catch (...) {
    // There are no more threads or memory: those that run must end before their vector does.
    Stop();
    throw;
  }
}

Workers::~Workers() { Stop(); }

void Workers::Stop() {
  round_.fetch_or(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& thread : pool_) thread.join();
}

void Workers::TakeItems(int thread) {
  for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items_;) {
    call_(task_, item, thread);
  }
}

void Workers::Serve(int thread) {
  uint32_t seen = 0;
  while (true) {
    round_.wait(seen, std::memory_order_acquire);
    seen = round_.load(std::memory_order_acquire);
    if (seen & 1) return;
    TakeItems(thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

void Workers::RunErased(int64_t items, Call call, const void* task) {
  if (items <= 0) return;
  const std::lock_guard lock(turn_);
  call_ = call;
  task_ = task;
  items_ = items;
  next_.store(0, std::memory_order_relaxed);
  if (threads_ == 1 || items == 1) return TakeItems(0);
  if (borrowed_ != nullptr) {
    borrowed_(
        threads_, [](void* self, int thread) { static_cast<Workers*>(self)->TakeItems(thread); },
        this);
    return;
  }
  busy_.store(static_cast<int32_t>(pool_.size()), std::memory_order_relaxed);
  round_.fetch_add(2, std::memory_order_release);
  round_.notify_all();
  TakeItems(0);
  int32_t busy = busy_.load(std::memory_order_acquire);
  for (int look = 0; busy != 0 && look < kLooks; ++look) {
    Pause();
    busy = busy_.load(std::memory_order_acquire);
  }
  while (busy != 0) {
    busy_.wait(busy, std::memory_order_acquire);
    busy = busy_.load(std::memory_order_acquire);
  }
}

}  // namespace sparse_attention::cpu
