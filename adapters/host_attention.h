// HostAttention: the seam between a model and the sparse attention engines. A host model, ours or
// one of your own, hands over the queries of a step and its key-value cache, and gets the attention
// output.
//
//   SA_ASSIGN_OR_RETURN(const auto attention, HostAttention::Create(pipeline));
//   AttentionSession session;                       // one for each sequence
//   for each step and layer:
//     AttentionInputs inputs;
//     inputs.q = q;                                 // [batch, query heads, new tokens, dim]
//     inputs.k = cache.k;  inputs.v = cache.v;      // [batch, KV heads, all tokens, dim]
//     inputs.causal = true;
//     inputs.layer = layer;
//     inputs.first_query_position = tokens before this step;
//     SA_ASSIGN_OR_RETURN(const at::Tensor out, attention->Attend(inputs, &session));
//
// Keys and values are read where they lie: they may be views of a larger cache and are never
// repeated for grouped query heads. CPU and CUDA tensors alike.
#ifndef ADAPTERS_HOST_ATTENTION_H_
#define ADAPTERS_HOST_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "metric_logging/metric_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/research_attention/attention_session.h"
#include "sparse_attention/sparse_attention.h"

namespace sparse_attention {

// How a model calls attention: inputs in, [batch, query heads, queries, value dim] in q's type out.
using AttentionFunction = std::function<absl::StatusOr<at::Tensor>(const AttentionInputs&)>;

// Immutable; every method may be called from several threads at once, with a session each.
class HostAttention {
 public:
  // The default pipeline is dense. Its "type" names the engine; errors as Create of that.
  static absl::StatusOr<std::unique_ptr<const HostAttention>> Create(
      const PipelineConfig& config = {});

  // One step of layer `inputs.layer`: [batch, query heads, queries, value dim] in q's type.
  // `session` belongs to the sequence; where a sequence is cut back and goes on differently, call
  // its Rewind or give it a new one. Layers without maskers attend densely through LibTorch's fused
  // kernels where these can express the inputs. With a sink, every layer is measured as
  // ResearchAttention::Run says; of a dense layer the density, KV rows, index bytes and an error of
  // 0 are recorded.
  absl::StatusOr<at::Tensor> Attend(const AttentionInputs& inputs, AttentionSession* session,
                                    MetricSink* sink = nullptr) const;

  // Lets the pipeline index the keys of layer `inputs.layer`, before any query of what follows: see
  // SparseAttention::Prepare.
  absl::Status Prepare(const AttentionInputs& inputs, AttentionSession* session) const {
    return engine_->Prepare(inputs, session);
  }

  // A number of its own for each object of this class.
  uint64_t id() const { return id_; }

  // Attend with a session and sink of one's own, which must outlive the function.
  AttentionFunction Bind(AttentionSession* session, MetricSink* sink = nullptr) const;

  // No query head of the layer has a masker.
  bool IsDenseLayer(int64_t layer, int64_t query_heads) const {
    return engine_->IsDense(layer, query_heads);
  }
  // No layer below `layers` has a masker.
  bool IsDense(int64_t layers, int64_t query_heads) const;
  // A masker of the pipeline reads every key to choose among them.
  bool IsOracle() const { return engine_->IsOracle(); }
  const PipelineConfig& config() const { return engine_->config(); }

 private:
  explicit HostAttention(std::unique_ptr<const SparseAttention> engine);

  std::unique_ptr<const SparseAttention> engine_;
  const uint64_t id_;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HOST_ATTENTION_H_
