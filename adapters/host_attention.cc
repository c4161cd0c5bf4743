#include "adapters/host_attention.h"

#include <atomic>
#include <utility>
#include <vector>

#include "adapters/dense_path.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

// What ResearchAttention records of a layer whose mask is full, known without computing it.
void LogDense(const AttentionInputs& in, const at::Tensor& out, MetricSink* sink) {
  std::vector<MetricRecord> records;
  const auto record = [&](const Metric& metric, double value) -> MetricRecord& {
    MetricRecord& entry = records.emplace_back();
    entry.metric = &metric;
    entry.value = value;
    entry.layer = in.layer;
    return entry;
  };
  record(kResearchAttentionDensity, 1);
  record(kKvRowsFraction, 1);
  record(kIndexBytesFraction, 0);
  record(kNanRows, out.isnan().any(-1).sum().item<double>());
  if (sink->Wants(kResearchAttentionOutputError)) {
    for (int64_t head = 0; head < in.query_heads(); ++head) {
      for (int64_t query = 0; query < in.queries(); ++query) {
        MetricRecord& entry = record(kResearchAttentionOutputError, 0);
        entry.head = head;
        entry.query_position = in.query_position(query);
      }
    }
  }
  std::erase_if(records, [sink](const MetricRecord& entry) { return !sink->Wants(*entry.metric); });
  sink->RecordGroup(records);
}

}  // namespace

HostAttention::HostAttention(std::unique_ptr<const SparseAttention> engine)
    : engine_(std::move(engine)), id_([] {
        static std::atomic<uint64_t> next{1};
        return next++;
      }()) {}

absl::StatusOr<std::unique_ptr<const HostAttention>> HostAttention::Create(
    const PipelineConfig& config) {
  SA_ASSIGN_OR_RETURN(auto engine, SparseAttention::Create(config));
  return std::unique_ptr<const HostAttention>(new HostAttention(std::move(engine)));
}

absl::StatusOr<at::Tensor> HostAttention::Attend(const AttentionInputs& inputs,
                                                 AttentionSession* session,
                                                 MetricSink* sink) const {
  SA_RETURN_IF_ERROR(ValidateInputs(inputs));
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    if (engine_->IsDense(inputs.layer, inputs.query_heads())) {
      SA_ASSIGN_OR_RETURN(at::Tensor out, FastDenseAttention(inputs));
      if (sink != nullptr) LogDense(inputs, out, sink);
      return out;
    }
    return engine_->Attend(inputs, session, sink);
  });
}

AttentionFunction HostAttention::Bind(AttentionSession* session, MetricSink* sink) const {
  return [this, session, sink](const AttentionInputs& inputs) {
    return Attend(inputs, session, sink);
  };
}

bool HostAttention::IsDense(int64_t layers, int64_t query_heads) const {
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (!engine_->IsDense(layer, query_heads)) return false;
  }
  return true;
}

}  // namespace sparse_attention
