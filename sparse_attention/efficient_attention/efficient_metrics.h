// What a step of the efficient engine tells a metric sink: the metrics of the research engine, from
// what the kernels counted.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_EFFICIENT_METRICS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_EFFICIENT_METRICS_H_

#include <ATen/core/Tensor.h>

#include <span>

#include "metric_logging/metric_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention {

struct StepCosts {
  std::span<const cpu::RowReport> rows;  // [batch, query heads, queries]
  double index_bytes_fraction = 0;
};

// One group of records. The relative output error costs a dense attention and is computed only for
// a sink that wants it.
absl::Status LogEfficientStep(const AttentionInputs& inputs, const at::Tensor& out,
                              const StepCosts& costs, MetricSink* sink);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_EFFICIENT_METRICS_H_
