#include "python/core/sequence.h"

#include <ATen/ops/zeros.h>

#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "python/core/status_error.h"

namespace sparse_attention {
namespace {

// The living sequences by number. Never destroyed: operators may run while the process ends.
struct Registry {
  std::mutex mutex;  // guards what follows
  int64_t next = 1;
  std::map<int64_t, std::weak_ptr<Sequence>> sequences;
};

Registry& TheRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

int64_t* Cells(const at::Tensor& handle) { return handle.mutable_data_ptr<int64_t>(); }

}  // namespace

Sequence::Sequence(std::shared_ptr<const HostAttention> attention, std::shared_ptr<MetricSink> sink)
    : attention_(std::move(attention)),
      sink_(std::move(sink)),
      handle_(at::zeros({2}, at::TensorOptions().dtype(at::kLong))) {}

std::shared_ptr<Sequence> Sequence::Create(std::shared_ptr<const HostAttention> attention,
                                           std::shared_ptr<MetricSink> sink) {
  const std::shared_ptr<Sequence> sequence(new Sequence(std::move(attention), std::move(sink)));
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  Cells(sequence->handle_)[0] = registry.next;
  registry.sequences[registry.next++] = sequence;
  return sequence;
}

Sequence::~Sequence() {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  registry.sequences.erase(Cells(handle_)[0]);
}

absl::StatusOr<std::shared_ptr<Sequence>> Sequence::Find(const at::Tensor& handle) {
  if (!handle.defined() || !handle.is_cpu() || handle.scalar_type() != at::kLong ||
      handle.numel() != 2 || !handle.is_contiguous()) {
    return absl::InvalidArgumentError(
        "sequence must be the handle of a Sequence, int64 [2] on "
        "the host");
  }
  const int64_t number = handle.const_data_ptr<int64_t>()[0];
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  const auto found = registry.sequences.find(number);
  std::shared_ptr<Sequence> sequence =
      found == registry.sequences.end() ? nullptr : found->second.lock();
  if (sequence == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequence ", number, " does not exist (any more)"));
  }
  return sequence;
}

absl::StatusOr<at::Tensor> Sequence::Attend(const AttentionInputs& inputs) {
  const std::lock_guard lock(session_.mutex);
  ++Cells(handle_)[1];
  return attention_->Attend(inputs, &session_.session, sink_.get());
}

void Sequence::Prepare(const AttentionInputs& inputs) {
  const std::lock_guard lock(session_.mutex);
  ThrowIfError(attention_->Prepare(inputs, &session_.session));
}

void Sequence::Rewind() {
  const std::lock_guard lock(session_.mutex);
  session_.session.Rewind();
}

void Sequence::Reset() {
  const std::lock_guard lock(session_.mutex);
  session_.session.Reset();
}

int64_t Sequence::steps() const { return Cells(handle_)[1]; }

}  // namespace sparse_attention
