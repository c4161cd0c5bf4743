// ResearchAttention: the engine that defines what a pipeline means. It builds an explicit Mask with
// the pipeline's maskers and attends through it, exactly and easy to inspect, on CPU and CUDA
// tensors alike.
//
//   SA_ASSIGN_OR_RETURN(const PipelineConfig config,
//   PipelineFromFile("configs/vattention_oracle_2.json")); SA_ASSIGN_OR_RETURN(const auto
//   attention, ResearchAttention::Create(config)); AttentionSession session;
//   SA_ASSIGN_OR_RETURN(const AttentionResult result, attention->Run(inputs, &session));
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_RESEARCH_ATTENTION_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_RESEARCH_ATTENTION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "metric_logging/metric_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/attention/attention_state.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/mask/mask.h"
#include "sparse_attention/research_attention/attention_session.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

struct AttentionResult {
  AttentionState state;
  Mask mask;
};

class ResearchAttention {
 public:
  // InvalidArgument or NotFound: a masker's entry is wrong (the message begins with its path), or a
  // rule holds a second sampling masker.
  static absl::StatusOr<std::unique_ptr<const ResearchAttention>> Create(
      const PipelineConfig& config);

  // One attention step of layer `inputs.layer`. Thread-safe for different sessions. With a sink,
  // one record a layer of density, KV rows and index bytes, what maskers add, and the relative
  // output error of every (head, query); the error costs a dense attention and is computed only for
  // a sink that wants it. A layer without maskers is dense and its mask is Full.
  absl::StatusOr<AttentionResult> Run(const AttentionInputs& inputs, AttentionSession* session,
                                      MetricSink* sink = nullptr) const;

  // Lets the maskers of layer `inputs.layer` build their indexes over the keys of `inputs`, whose
  // queries may be none: [batch, query heads, 0, dim]. What they build depends on these keys alone
  // and not on the step that comes first.
  absl::Status Prepare(const AttentionInputs& inputs, AttentionSession* session) const;

  // The mask alone.
  absl::StatusOr<Mask> BuildMask(const AttentionInputs& inputs, AttentionSession* session) const;

  // No query head of the layer has a masker.
  bool IsDense(int64_t layer, int64_t query_heads) const;

  // True where a masker of the pipeline reads every key to choose among them.
  bool IsOracle() const;

  const PipelineConfig& config() const { return config_; }

 private:
  using Maskers = std::vector<std::unique_ptr<Masker>>;

  explicit ResearchAttention(const PipelineConfig& config) : config_(config) {}

  // The rule of each query head, -1 for dense.
  std::vector<int> RulesOfHeads(int64_t layer, int64_t query_heads) const;
  absl::StatusOr<Mask> RunRule(int rule, const AttentionInputs& inputs,
                               AttentionSession* session) const;
  absl::Status LogStep(const AttentionInputs& inputs, const AttentionResult& result,
                       AttentionSession* session, MetricSink* sink) const;

  PipelineConfig config_;
  std::vector<Maskers> maskers_of_rules_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_RESEARCH_ATTENTION_H_
