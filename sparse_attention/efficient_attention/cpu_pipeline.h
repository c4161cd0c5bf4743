// CpuPipeline: a pipeline of the efficient engine on the CPU, ready to plan layers. LibTorch-free:
// the engine for tensors and the C API both stand on it.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PIPELINE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PIPELINE_H_

#include <cstdint>
#include <vector>

#include "sparse_attention/base/status.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"

namespace sparse_attention {

// What a layer is planned for.
struct EfficientLayerOptions {
  cpu::LayerShape shape;
  int64_t sequences = 1;
  int64_t capacity = 0;  // keys of a sequence
  int threads = 1;       // that steps will run in; the cost rule is measured with as many
};

class CpuPipeline {
 public:
  // Loads what the maskers need. Errors of CpuTwin, InvalidArgument for another engine's pipeline,
  // Unimplemented for a masker behind a sampler; messages begin with the path.
  static absl::StatusOr<CpuPipeline> Create(const PipelineConfig& config);

  // Unimplemented: what is required and supported; else errors of the maskers' indexes.
  absl::StatusOr<cpu::CpuLayer> Plan(const EfficientLayerOptions& options,
                                     cpu::Isa isa = cpu::BestIsa()) const;

  // The chain that each query head of a layer follows.
  cpu::LayerPipeline PipelineOf(int64_t layer, int64_t query_heads) const;
  // True where a masker of the pipeline reads every key to choose among them.
  bool is_oracle() const { return is_oracle_; }
  const PipelineConfig& config() const { return config_; }

 private:
  explicit CpuPipeline(const PipelineConfig& config) : config_(config) {}

  PipelineConfig config_;
  std::vector<cpu::MaskerChain> chains_;  // by rule; empty: dense
  bool is_oracle_ = false;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_PIPELINE_H_
