#include "sparse_attention/efficient_attention/cpu_twins.h"

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/efficient_attention/cpu/fixed_ranges.h"
#include "sparse_attention/efficient_attention/cpu/oracle_scores.h"
#include "sparse_attention/efficient_attention/cpu/samplers.h"
#include "sparse_attention/research_attention/maskers/fixed/causal.h"
#include "sparse_attention/research_attention/maskers/fixed/local.h"
#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/sink.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"
#include "sparse_attention/research_attention/maskers/sampling/random_sampling.h"

namespace sparse_attention {
namespace {

using Twin = absl::StatusOr<std::shared_ptr<const cpu::CpuMasker>>;

absl::Status NoEfficientForm(absl::string_view masker, absl::string_view why) {
  return absl::UnimplementedError(absl::StrCat(
      masker, " has no form in the efficient engine: ", why, "; \"type\": \"research\" runs it"));
}

absl::Status NoHubRule(absl::string_view masker) {
  return NoEfficientForm(absl::StrCat(masker, " with estimator \"hub\""),
                         "its draws come from LibTorch's generator in the hub's order");
}

Twin SinkTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<SinkConfig>(json));
  return std::make_shared<cpu::SinkRange>(config.sink_size);
}

Twin LocalTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<LocalConfig>(json));
  return std::make_shared<cpu::LocalRange>(config.window_size);
}

Twin CausalTwin(const Json& json) {
  SA_RETURN_IF_ERROR(ConfigFromJson<CausalConfig>(json).status());
  return std::make_shared<cpu::CausalRange>();
}

Twin OracleTopKTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<OracleTopKConfig>(json));
  return std::make_shared<cpu::OracleTopKSelector>(cpu::TopKRule{.heavy_size = config.heavy_size});
}

Twin RandomTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<RandomSamplingConfig>(json));
  if (config.estimator == Estimator::kHub) return NoHubRule(config.kName);
  return std::make_shared<cpu::RandomSampler>(config.sampling_rate);
}

Twin AdaptiveTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<AdaptiveSamplingConfig>(json));
  if (config.estimator == Estimator::kHub) return NoHubRule(config.kName);
  cpu::AdaptiveSamplerOptions options;
  options.base_rate = config.base_rate_sampling;
  options.epsilon = config.epsilon;
  options.delta = config.delta;
  options.init_offset = config.init_offset;
  options.local_offset = config.local_offset;
  options.output_guarantee = config.guarantee == Guarantee::kOutput;
  return std::make_shared<cpu::AdaptiveSampler>(options);
}

}  // namespace

Twin CpuTwin(const Json& entry) {
  static const std::map<std::string, Twin (*)(const Json&)> twins = {
      {SinkConfig::kName, &SinkTwin},
      {LocalConfig::kName, &LocalTwin},
      {CausalConfig::kName, &CausalTwin},
      {OracleTopKConfig::kName, &OracleTopKTwin},
      {RandomSamplingConfig::kName, &RandomTwin},
      {AdaptiveSamplingConfig::kName, &AdaptiveTwin},
  };
  if (!entry.is_object() || !entry.contains("type") || !entry["type"].is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a masker must be an object with a string \"type\", got ", JsonExcerpt(entry)));
  }
  const std::string type = entry["type"].get<std::string>();
  const auto twin = twins.find(type);
  if (twin != twins.end()) return twin->second(entry);
  SA_ASSIGN_OR_RETURN(const MaskerDescriptor* descriptor, FindMasker(type));
  return NoEfficientForm(descriptor->name, "nobody wrote one");
}

}  // namespace sparse_attention
