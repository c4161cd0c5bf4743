#include "sparse_attention/efficient_attention/efficient_metrics.h"

#include <algorithm>
#include <vector>

#include "sparse_attention/attention/masked_attention.h"

namespace sparse_attention {
namespace {

class StepLog {
 public:
  StepLog(const AttentionInputs& in, MetricSink* sink) : in_(in), sink_(sink) {}

  void Record(const Metric& metric, double value) { Add(metric, value, -1); }

  // Of a row of [batch, query heads, queries].
  void RecordRow(const Metric& metric, double value, int64_t row) { Add(metric, value, row); }

  void Flush() { sink_->RecordGroup(records_); }

 private:
  void Add(const Metric& metric, double value, int64_t row) {
    if (!sink_->Wants(metric)) return;
    MetricRecord& entry = records_.emplace_back();
    entry.metric = &metric;
    entry.value = value;
    entry.layer = in_.layer;
    if (row < 0) return;
    entry.head = row / in_.queries() % in_.query_heads();
    entry.query_position = in_.query_position(row % in_.queries());
  }

  const AttentionInputs& in_;
  MetricSink* const sink_;
  std::vector<MetricRecord> records_;
};

}  // namespace

absl::Status LogEfficientStep(const AttentionInputs& in, const at::Tensor& out,
                              const StepCosts& costs, MetricSink* sink) {
  double selected = 0, visible = 0, rows_read = 0, rows_visible = 0, empty = 0;
  const int64_t group = in.group_size(), queries = in.queries();
  for (size_t row = 0; row < costs.rows.size(); ++row) {
    const cpu::RowReport& report = costs.rows[row];
    selected += static_cast<double>(report.selected);
    visible += static_cast<double>(report.visible);
    empty += report.visible == 0 ? 1 : 0;
    const int64_t head = static_cast<int64_t>(row) / queries % in.query_heads();
    if (head % group != 0) continue;
    // Once for the heads of a group. Where they follow different rules, at least what the one that
    // reads most does.
    int64_t most = 0;
    for (int64_t h = 0; h < group; ++h) {
      most = std::max(most, costs.rows[row + static_cast<size_t>(h * queries)].rows_read);
    }
    rows_read += static_cast<double>(most);
    rows_visible += static_cast<double>(report.visible);
  }
  StepLog log(in, sink);
  log.Record(kResearchAttentionDensity, visible == 0 ? 0 : selected / visible);
  log.Record(kKvRowsFraction, rows_visible == 0 ? 0 : rows_read / rows_visible);
  log.Record(kEmptyRows, empty);
  log.Record(kNanRows, out.isnan().any(-1).sum().item<double>());
  log.Record(kIndexBytesFraction, costs.index_bytes_fraction);
  const auto record_samples = [&](const Metric& metric, const auto& value) {
    for (size_t row = 0; row < costs.rows.size(); ++row) {
      const cpu::RowReport& report = costs.rows[row];
      if (report.promised) log.RecordRow(metric, value(report), static_cast<int64_t>(row));
    }
  };
  record_samples(kSampleBudget, [](const cpu::RowReport& report) {
    return static_cast<double>(report.sample_budget);
  });
  record_samples(kGuaranteeMetFraction,
                 [](const cpu::RowReport& report) { return report.guarantee_met ? 1.0 : 0.0; });
  record_samples(kGuaranteeUnknownFraction,
                 [](const cpu::RowReport& report) { return report.guarantee_met ? 0.0 : 1.0; });
  if (sink->Wants(kResearchAttentionOutputError)) {
    SA_ASSIGN_OR_RETURN(const AttentionState dense, DenseAttention(in));
    SA_ASSIGN_OR_RETURN(const at::Tensor error, RelativeOutputError(out.to(at::kFloat), dense.out));
    const at::Tensor host = error.contiguous();
    const float* const errors = host.const_data_ptr<float>();
    for (int64_t row = 0; row < host.numel(); ++row) {
      log.RecordRow(kResearchAttentionOutputError, static_cast<double>(errors[row]), row);
    }
  }
  log.Flush();
  return absl::OkStatus();
}

}  // namespace sparse_attention
