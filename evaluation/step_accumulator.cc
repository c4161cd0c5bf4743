#include "evaluation/step_accumulator.h"

#include <algorithm>

namespace sparse_attention {

void StepAccumulator::DoRecord(absl::Span<const MetricRecord> records) {
  const double rows = static_cast<double>(
      std::max<int64_t>(1, std::count_if(records.begin(), records.end(), [](const auto& record) {
                          return record.metric->name == kResearchAttentionOutputError.name;
                        })));
  for (const MetricRecord& record : records) {
    Layer& layer = layers_[record.layer];
    const absl::string_view name = record.metric->name;
    if (name == kResearchAttentionDensity.name) layer.density.Add(record.value, rows);
    if (name == kKvRowsFraction.name) layer.kv_rows.Add(record.value, rows);
    if (name == kIndexBytesFraction.name) layer.index_bytes.Add(record.value, rows);
    if (name == kGuaranteeUnknownFraction.name) layer.guarantee_unknown.Add(record.value, 1);
    if (name == kResearchAttentionOutputError.name) output_error_.Add(record.value);
  }
}

SampleMeasurements StepAccumulator::Result() const {
  SampleMeasurements result;
  result.output_error = output_error_;
  if (layers_.empty()) return result;
  for (const auto& [index, layer] : layers_) {
    result.density += layer.density.Value();
    result.kv_bytes_fraction += layer.kv_rows.Value();
    result.index_bytes_fraction += layer.index_bytes.Value();
    result.guarantee_unknown += layer.guarantee_unknown.Value();
  }
  const double layers = static_cast<double>(layers_.size());
  result.density /= layers;
  result.kv_bytes_fraction /= layers;
  result.index_bytes_fraction /= layers;
  result.guarantee_unknown /= layers;
  return result;
}

}  // namespace sparse_attention
