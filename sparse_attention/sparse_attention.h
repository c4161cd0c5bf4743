// SparseAttention: a pipeline in the engine that its "type" names, or a method in the efficient
// one.
//
//   SA_ASSIGN_OR_RETURN(const auto attention, SparseAttention::Create(config));
//   AttentionSession session;
//   SA_ASSIGN_OR_RETURN(const at::Tensor out, attention->Attend(inputs, &session));
#ifndef SPARSE_ATTENTION_SPARSE_ATTENTION_H_
#define SPARSE_ATTENTION_SPARSE_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "metric_logging/metric_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/method_config.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/research_attention/attention_session.h"

namespace sparse_attention {

// Immutable and thread-safe, with a session for each sequence.
class SparseAttention {
 public:
  // Errors as Create of the engine.
  static absl::StatusOr<std::unique_ptr<const SparseAttention>> Create(
      const PipelineConfig& config);
  // Of the pipeline that the method stands for. Errors of PipelineOf, too.
  static absl::StatusOr<std::unique_ptr<const SparseAttention>> Create(
      const HashAttentionConfig& config);
  static absl::StatusOr<std::unique_ptr<const SparseAttention>> Create(
      const DoubleSparsityConfig& config);
  virtual ~SparseAttention() = default;

  // One step of layer `inputs.layer`: [batch, query heads, queries, value dim] in q's type. With a
  // sink, what ResearchAttention::Run records; errors as Run of the engine.
  virtual absl::StatusOr<at::Tensor> Attend(const AttentionInputs& inputs,
                                            AttentionSession* session,
                                            MetricSink* sink = nullptr) const = 0;

  // Lets the pipeline index the keys of layer `inputs.layer`, whose queries may be none, as the
  // prefix of what follows.
  virtual absl::Status Prepare(const AttentionInputs& inputs, AttentionSession* session) const = 0;

  // No query head of the layer has a masker.
  virtual bool IsDense(int64_t layer, int64_t query_heads) const = 0;
  // A masker of the pipeline reads every key to choose among them.
  virtual bool IsOracle() const = 0;
  virtual const PipelineConfig& config() const = 0;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_SPARSE_ATTENTION_H_
