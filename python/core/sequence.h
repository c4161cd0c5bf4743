// Sequence: what one attention step needs beside tensors, reachable from an operator. Operators of
// torch.compile take tensors and numbers only, so a sequence has a handle, an int64 tensor on the
// host that holds its number; the operator is declared to change it (it counts steps), which keeps
// compilers from reordering, merging or dropping steps.
#ifndef PYTHON_CORE_SEQUENCE_H_
#define PYTHON_CORE_SEQUENCE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "adapters/host_attention.h"
#include "metric_logging/metric_sink.h"
#include "python/core/session.h"

namespace sparse_attention {

class Sequence {
 public:
  static std::shared_ptr<Sequence> Create(std::shared_ptr<const HostAttention> attention,
                                          std::shared_ptr<MetricSink> sink);
  ~Sequence();
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  // The living sequence of a handle. InvalidArgument: not a handle, or its sequence is gone.
  static absl::StatusOr<std::shared_ptr<Sequence>> Find(const at::Tensor& handle);

  // HostAttention::Attend with the sequence's session and sink.
  absl::StatusOr<at::Tensor> Attend(const AttentionInputs& inputs);

  // These throw StatusError.
  void Prepare(const AttentionInputs& inputs);
  void Rewind();
  void Reset();

  const at::Tensor& handle() const { return handle_; }
  int64_t steps() const;

 private:
  Sequence(std::shared_ptr<const HostAttention> attention, std::shared_ptr<MetricSink> sink);

  const std::shared_ptr<const HostAttention> attention_;
  const std::shared_ptr<MetricSink> sink_;
  Session session_;
  at::Tensor handle_;  // [number, steps taken]
};

}  // namespace sparse_attention

#endif  // PYTHON_CORE_SEQUENCE_H_
