#include "sparse_attention/sparse_attention.h"

#include <utility>

#include "sparse_attention/efficient_attention/efficient_attention.h"
#include "sparse_attention/research_attention/research_attention.h"

namespace sparse_attention {
namespace {

absl::StatusOr<at::Tensor> Output(const ResearchAttention& engine, const AttentionInputs& inputs,
                                  AttentionSession* session, MetricSink* sink) {
  SA_ASSIGN_OR_RETURN(const AttentionResult result, engine.Run(inputs, session, sink));
  return result.state.out.to(inputs.q.scalar_type());
}

absl::StatusOr<at::Tensor> Output(const EfficientAttention& engine, const AttentionInputs& inputs,
                                  AttentionSession* session, MetricSink* sink) {
  return engine.Run(inputs, session, sink);
}

template <typename Engine>
class EngineAttention final : public SparseAttention {
 public:
  explicit EngineAttention(std::unique_ptr<const Engine> engine) : engine_(std::move(engine)) {}

  absl::StatusOr<at::Tensor> Attend(const AttentionInputs& inputs, AttentionSession* session,
                                    MetricSink* sink) const override {
    return Output(*engine_, inputs, session, sink);
  }
  absl::Status Prepare(const AttentionInputs& inputs, AttentionSession* session) const override {
    return engine_->Prepare(inputs, session);
  }
  bool IsDense(int64_t layer, int64_t query_heads) const override {
    return engine_->IsDense(layer, query_heads);
  }
  bool IsOracle() const override { return engine_->IsOracle(); }
  const PipelineConfig& config() const override { return engine_->config(); }

 private:
  const std::unique_ptr<const Engine> engine_;
};

template <typename Engine>
absl::StatusOr<std::unique_ptr<const SparseAttention>> CreateEngine(const PipelineConfig& config) {
  SA_ASSIGN_OR_RETURN(auto engine, Engine::Create(config));
  return std::make_unique<EngineAttention<Engine>>(std::move(engine));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const SparseAttention>> SparseAttention::Create(
    const PipelineConfig& config) {
  if (config.type == EngineType::kEfficient) return CreateEngine<EfficientAttention>(config);
  return CreateEngine<ResearchAttention>(config);
}

absl::StatusOr<std::unique_ptr<const SparseAttention>> SparseAttention::Create(
    const HashAttentionConfig& config) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig pipeline, PipelineOf(config));
  return Create(pipeline);
}

absl::StatusOr<std::unique_ptr<const SparseAttention>> SparseAttention::Create(
    const DoubleSparsityConfig& config) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig pipeline, PipelineOf(config));
  return Create(pipeline);
}

}  // namespace sparse_attention
