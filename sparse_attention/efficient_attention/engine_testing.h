// The two engines side by side, for tests: what the efficient engine selects as a Mask, and whether
// that is what the research engine selects.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_ENGINE_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_ENGINE_TESTING_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "metric_logging/metric_sink.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"
#include "sparse_attention/efficient_attention/efficient_attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"
#include "sparse_attention/mask/mask.h"
#include "sparse_attention/research_attention/research_attention.h"

namespace sparse_attention {

struct EfficientResult {
  at::Tensor out, lse;
  Mask mask;  // over the keys that each query sees
};

// A step of `attention`, and what its maskers chose.
absl::StatusOr<EfficientResult> RunEfficient(const EfficientAttention& attention,
                                             const AttentionInputs& inputs,
                                             AttentionSession* session, MetricSink* sink = nullptr);

struct LayerTestOptions {
  cpu::Isa isa = cpu::BestIsa();
  int threads = 1;
  std::vector<int64_t> padding;  // leading keys of each sequence that are never seen; empty: none
};

// The steps of one layer below EfficientAttention, for what only plans of one's own can ask for.
class LayerUnderTest {
 public:
  // For steps up to the size of `largest`. Errors of CpuPipeline.
  static absl::StatusOr<std::unique_ptr<LayerUnderTest>> Create(const Json& pipeline,
                                                                const AttentionInputs& largest,
                                                                const LayerTestOptions& options);

  // The indexes take in the keys of `in`, whose queries may be none.
  void Append(const AttentionInputs& in);
  EfficientResult Run(const AttentionInputs& in);

 private:
  LayerUnderTest(const PipelineConfig& config, const LayerTestOptions& options,
                 cpu::CpuLayer layer);

  PipelineConfig config_;
  LayerTestOptions options_;
  cpu::CpuLayer layer_;
  cpu::Workers workers_;
  std::vector<cpu::Arena> arenas_;
  std::vector<cpu::SequenceKv> views_;
};

// What the research engine calls left padding: a bias.
AttentionInputs WithPadding(const AttentionInputs& inputs, const std::vector<int64_t>& padding);

// `pipeline` for both engines: its "type" is set.
absl::StatusOr<std::unique_ptr<const EfficientAttention>> EfficientFromJson(Json pipeline);
absl::StatusOr<std::unique_ptr<const ResearchAttention>> ResearchFromJson(Json pipeline);

// The mask of the research engine without the keys that no query sees.
at::Tensor VisibleWeights(const AttentionInputs& inputs, const Mask& mask);

// A generated problem: shapes, types and options as wide as the efficient engine supports.
struct EngineCase {
  AttentionInputs inputs;
  std::string text;  // the seed and what was drawn
};
EngineCase MakeEngineCase(uint64_t seed, at::ScalarType type, int64_t most_keys = 3000);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_ENGINE_TESTING_H_
