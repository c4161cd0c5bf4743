// Workers: the threads of the CPU kernels.
//
// Work is cut into items whose number and meaning do not depend on the number of threads; whichever
// thread takes an item, the result is the same, bit for bit.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_WORKERS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_WORKERS_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace sparse_attention::cpu {

class Workers {
 public:
  // `threads` >= 1 take part, the caller of Run among them. Between runs the others sleep: a thread
  // that spins would slow down whatever else the process computes. Throws std::system_error where
  // the system has no more threads.
  explicit Workers(int threads);
  // Threads of somebody else's, for hosts whose own threads would compete with ours: those of
  // LibTorch spin for a while after each of its operators. `run` calls part(context, thread) for
  // every thread in [0, threads), at the same time where it can, and returns when all returned.
  using Pool = void (*)(int threads, void (*part)(void* context, int thread), void* context);
  Workers(int threads, Pool run);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int threads() const { return threads_; }

  // Calls task(item, thread) once for every item in [0, items), in parallel, `thread` in [0,
  // threads()), and returns when all are done. Callers from several threads take turns. Allocates
  // nothing. `task` must neither throw nor call Run of the same workers.
  template <typename Task>
  void Run(int64_t items, const Task& task) {
    RunErased(
        items,
        [](const void* erased, int64_t item, int thread) {
          (*static_cast<const Task*>(erased))(item, thread);
        },
        &task);
  }

 private:
  using Call = void (*)(const void* task, int64_t item, int thread);

  void RunErased(int64_t items, Call call, const void* task);
  void TakeItems(int thread);
  void Serve(int thread);
  void Stop();

  const int threads_;
  const Pool borrowed_ = nullptr;
  std::mutex turn_;
  std::vector<std::thread> pool_;
  Call call_ = nullptr;
  const void* task_ = nullptr;
  int64_t items_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> round_{0};  // grows by 2; the lowest bit says to end
  alignas(64) std::atomic<int32_t> busy_{0};
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CPU_COMMON_WORKERS_H_
