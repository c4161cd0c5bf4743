#include "sparse_attention/efficient_attention/cpu_pipeline.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/efficient_attention/cpu/cost_rule.h"
#include "sparse_attention/efficient_attention/cpu_twins.h"

namespace sparse_attention {

absl::StatusOr<CpuPipeline> CpuPipeline::Create(const PipelineConfig& config) {
  if (config.type != EngineType::kEfficient) {
    return absl::InvalidArgumentError(
        "pipeline.type must be \"efficient\" for the efficient engine, got \"research\"");
  }
  CpuPipeline pipeline(config);
  for (size_t rule = 0; rule < config.rules.size(); ++rule) {
    cpu::MaskerChain chain;
    std::string sampler;
    for (size_t i = 0; i < config.rules[rule].maskers.size(); ++i) {
      const Json& entry = config.rules[rule].maskers[i];
      const std::string path = MaskerPath(config, rule, i);
      auto twin = CpuTwin(entry);
      if (!twin.ok()) return Annotate(twin.status(), path);
      const std::string type = entry["type"].get<std::string>();
      if (!sampler.empty()) {
        return absl::UnimplementedError(absl::StrCat(
            path, ": in the efficient engine nothing may follow a sampling masker, got ", type,
            " behind ", sampler));
      }
      if (IsCpuSampler(type)) sampler = type;
      if (IsCpuOracle(type)) pipeline.is_oracle_ = true;
      chain.push_back(*std::move(twin));
    }
    pipeline.chains_.push_back(std::move(chain));
  }
  return pipeline;
}

cpu::LayerPipeline CpuPipeline::PipelineOf(int64_t layer, int64_t query_heads) const {
  cpu::LayerPipeline pipeline;
  std::vector<int> chain_of_rule(config_.rules.size(), -1);
  for (int64_t head = 0; head < query_heads; ++head) {
    const PipelineRule* rule = config_.RuleFor(layer, head);
    if (rule == nullptr || rule->dense()) {
      pipeline.chain_of_head.push_back(cpu::LayerPipeline::kDense);
      continue;
    }
    const size_t index = static_cast<size_t>(rule - config_.rules.data());
    if (chain_of_rule[index] < 0) {
      chain_of_rule[index] = static_cast<int>(pipeline.chains.size());
      pipeline.chains.push_back(chains_[index]);
    }
    pipeline.chain_of_head.push_back(chain_of_rule[index]);
  }
  return pipeline;
}

absl::StatusOr<cpu::CpuLayer> CpuPipeline::Plan(const EfficientLayerOptions& options,
                                                cpu::Isa isa) const {
  const cpu::LayerShape& shape = options.shape;
  const auto limit = [](absl::string_view what, int64_t most, int64_t got) {
    return absl::UnimplementedError(
        absl::StrCat("the efficient engine supports ", what, " from 1 to ", most, ", got ", got));
  };
  if (shape.dim < 1 || shape.dim > cpu::kMaxDim) return limit("a dim", cpu::kMaxDim, shape.dim);
  if (shape.value_dim < 1 || shape.value_dim > cpu::kMaxDim) {
    return limit("a value dim", cpu::kMaxDim, shape.value_dim);
  }
  constexpr int64_t kMostKeys = (int64_t{1} << 31) - 1;
  if (options.capacity < 0 || options.capacity > kMostKeys) {
    return limit("a number of keys", kMostKeys, options.capacity);
  }
  cpu::StepPlan plan;
  plan.shape = shape;
  plan.sequences = options.sequences;
  plan.capacity = options.capacity;
  plan.seed = config_.seed;
  plan.by_group = config_.selection == Selection::kKvGroup;
  plan.reduce = config_.group_reduce == GroupReduce::kMax    ? cpu::StepPlan::Reduce::kMax
                : config_.group_reduce == GroupReduce::kMean ? cpu::StepPlan::Reduce::kMean
                                                             : cpu::StepPlan::Reduce::kSum;
  plan.isa = isa;
  plan.attention = cpu::AttentionKernelsFor(plan.isa);
  plan.bitmap = cpu::BitmapKernelsFor(plan.isa);
  SA_ASSIGN_OR_RETURN(plan.cost,
                      cpu::CostRuleFor(shape, options.capacity, options.threads, plan.isa));
  return cpu::CpuLayer::Create(plan, PipelineOf(shape.layer, shape.query_heads));
}

}  // namespace sparse_attention
