// EfficientAttention: the engine that runs a pipeline in kernels that read only the selected keys.
//
// The same JSON config defines a method in both engines; the research engine says what it means,
// this one computes it fast and is tested equal to it. Where a pipeline, a shape or an input cannot
// be run, it is refused with what is required, what is supported and what is missing; nothing falls
// back silently.
//
//   SA_ASSIGN_OR_RETURN(const auto attention, EfficientAttention::Create(config));
//   AttentionSession session;
//   for each step and layer:
//     SA_ASSIGN_OR_RETURN(const at::Tensor out, attention->Run(inputs, &session));
//
// Queries are causal among themselves. Selection, random draws and weights are those of the
// research engine: integer-scored methods select the same sets, float-scored ones agree on every
// key whose score differs from the k-th by more than rounding.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_EFFICIENT_ATTENTION_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_EFFICIENT_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "metric_logging/metric_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"
#include "sparse_attention/efficient_attention/cpu_pipeline.h"
#include "sparse_attention/research_attention/attention_session.h"

namespace sparse_attention {

class EfficientAttention {
 public:
  // InvalidArgument or NotFound: an entry of the pipeline is wrong. Unimplemented: a masker has no
  // efficient form. Messages begin with the path.
  static absl::StatusOr<std::unique_ptr<const EfficientAttention>> Create(
      const PipelineConfig& config);

  // Plans a layer for caches of one's own, contiguous or paged; Run does it by itself.
  // Unimplemented: what is required and supported.
  absl::StatusOr<cpu::CpuLayer> Plan(const EfficientLayerOptions& options) const {
    return pipeline_.Plan(options);
  }

  // One step of layer `inputs.layer`: [batch, query heads, queries, value dim] in q's type; `lse`,
  // if given, receives float32 [batch, query heads, queries]. The session remembers the keys: those
  // that were appended since the last step are taken into the indexes, a cut is followed (see
  // cpu/key_guard.h). Errors of ValidateInputs; Unimplemented: the inputs are beyond this engine.
  // Thread-safe for different sessions, which take turns at the threads.
  absl::StatusOr<at::Tensor> Run(const AttentionInputs& inputs, AttentionSession* session,
                                 MetricSink* sink = nullptr, at::Tensor* lse = nullptr,
                                 const cpu::StepObserver* observe = nullptr) const;

  // Lets the indexes of layer `inputs.layer` take in the keys of `inputs`, whose queries may be
  // none, as the prefix of what follows.
  absl::Status Prepare(const AttentionInputs& inputs, AttentionSession* session) const;

  // No query head of the layer has a masker.
  bool IsDense(int64_t layer, int64_t query_heads) const;
  // True where a masker of the pipeline reads every key to choose among them.
  bool IsOracle() const { return pipeline_.is_oracle(); }

  const PipelineConfig& config() const { return pipeline_.config(); }

 private:
  class LayerState;

  explicit EfficientAttention(CpuPipeline pipeline) : pipeline_(std::move(pipeline)) {}
  absl::StatusOr<LayerState*> Update(const AttentionInputs& inputs,
                                     AttentionSession* session) const;

  CpuPipeline pipeline_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_EFFICIENT_ATTENTION_H_
