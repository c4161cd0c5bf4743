#include "sparse_attention/efficient_attention/cpu_twins.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/efficient_attention/cpu/fixed_ranges.h"
#include "sparse_attention/efficient_attention/cpu/indexer_index.h"
#include "sparse_attention/efficient_attention/cpu/label_index.h"
#include "sparse_attention/efficient_attention/cpu/oracle_scores.h"
#include "sparse_attention/efficient_attention/cpu/pq_index.h"
#include "sparse_attention/efficient_attention/cpu/quest_index.h"
#include "sparse_attention/efficient_attention/cpu/samplers.h"
#include "sparse_attention/efficient_attention/cpu/signature_index.h"
#include "sparse_attention/efficient_attention/cpu/socket_index.h"
#include "sparse_attention/efficient_attention/cpu/top_p_selector.h"
#include "sparse_attention/research_attention/maskers/fixed/causal.h"
#include "sparse_attention/research_attention/maskers/fixed/double_sparsity_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/lightning_indexer.h"
#include "sparse_attention/research_attention/maskers/fixed/local.h"
#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/oracle_top_p.h"
#include "sparse_attention/research_attention/maskers/fixed/pq_cache.h"
#include "sparse_attention/research_attention/maskers/fixed/quest_top_k.h"
#include "sparse_attention/research_attention/maskers/fixed/sink.h"
#include "sparse_attention/research_attention/maskers/fixed/socket_top_k.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"
#include "sparse_attention/research_attention/maskers/sampling/random_sampling.h"

namespace sparse_attention {
namespace {

using Twin = absl::StatusOr<std::shared_ptr<const cpu::CpuMasker>>;

// What is required, what is missing, and what else to do.
absl::Status Unsupported(absl::string_view required, absl::string_view missing) {
  return absl::UnimplementedError(absl::StrCat("the efficient engine does not support ", required,
                                               ": ", missing, "; \"type\": \"research\" runs it"));
}

absl::Status NoHubDraws(absl::string_view masker, absl::string_view field) {
  return Unsupported(absl::StrCat(masker, ".", field, " \"hub\""),
                     "it draws from LibTorch's generator in the Python hub's order");
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

Twin OracleTopPTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<OracleTopPConfig>(json));
  cpu::TopPOptions options;
  options.top_p = config.top_p;
  options.rule = config.threshold_rule == ThresholdRule::kGreater ? cpu::TopPRule::kGreater
                                                                  : cpu::TopPRule::kAtLeast;
  options.of_total = config.coverage == TopPCoverage::kTotal;
  return std::make_shared<cpu::TopPSelector>(options);
}

// The MLPs of a layer as plain pointers into the tensors of `weights`.
absl::StatusOr<cpu::SignatureMlps> MlpsOf(std::shared_ptr<const HashAttentionWeights> weights,
                                          const cpu::LayerShape& shape) {
  SA_ASSIGN_OR_RETURN(const HashAttentionLayer* layer,
                      weights->Layer(shape.layer, shape.query_heads, shape.kv_heads, shape.dim));
  struct Owner {
    std::vector<at::Tensor> tensors;
  };
  auto owner = std::make_shared<Owner>();
  const auto view = [&](const HeadMlp& mlp) {
    std::vector<cpu::MlpLinear> linears;
    for (const HeadLinear& linear : mlp.linears) {
      const at::Tensor weight = linear.weight.contiguous(), bias = linear.bias.contiguous();
      owner->tensors.push_back(weight);
      owner->tensors.push_back(bias);
      linears.push_back({weight.const_data_ptr<float>(), bias.const_data_ptr<float>(),
                         weight.size(1), weight.size(2)});
    }
    return linears;
  };
  cpu::SignatureMlps mlps;
  mlps.query = view(layer->query);
  mlps.key = view(layer->key);
  mlps.key_heads = layer->key.heads();
  mlps.activation = static_cast<cpu::RowActivation>(weights->activation());
  mlps.owner = owner;
  return mlps;
}
static_assert(static_cast<int>(Activation::kRelu) == static_cast<int>(cpu::RowActivation::kRelu));
static_assert(static_cast<int>(Activation::kSilu) == static_cast<int>(cpu::RowActivation::kSilu));
static_assert(static_cast<int>(Activation::kGelu) == static_cast<int>(cpu::RowActivation::kGelu));
static_assert(static_cast<int>(Activation::kTanh) == static_cast<int>(cpu::RowActivation::kTanh));

Twin HashAttentionTwin(const Json& json) {
  // Whatever is wrong with the entry or its file, the research engine's masker says.
  SA_RETURN_IF_ERROR(MaskerFromJson(json, {}).status());
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<HashAttentionTopKConfig>(json));
  SA_ASSIGN_OR_RETURN(const auto weights, HashAttentionWeights::Load(config.hat_weight_file));
  return std::make_shared<cpu::HashAttentionSelector>(
      cpu::TopKRule{.heavy_size = config.heavy_size},
      [weights](const cpu::LayerShape& shape) { return MlpsOf(weights, shape); });
}

Twin DoubleSparsityTwin(const Json& json) {
  SA_RETURN_IF_ERROR(MaskerFromJson(json, {}).status());
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<DoubleSparsityTopKConfig>(json));
  SA_ASSIGN_OR_RETURN(ChannelFile read, ReadChannelFile(config.sorted_channel_file));
  const auto file = std::make_shared<const ChannelFile>(std::move(read));
  const auto channels =
      [file, config](const cpu::LayerShape& shape) -> absl::StatusOr<std::vector<int32_t>> {
    const absl::StatusOr<at::Tensor> lists =
        DoubleSparsityChannels(*file, config, shape.layer, shape.query_heads, shape.dim);
    if (!lists.ok()) return Annotate(lists.status(), config.kName);
    const int64_t* const data = lists->const_data_ptr<int64_t>();
    return std::vector<int32_t>(data, data + lists->numel());
  };
  return std::make_shared<cpu::DoubleSparsitySelector>(config.heavy_size, config.label_bits,
                                                       channels);
}

Twin SocketTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<SocketTopKConfig>(json));
  cpu::SocketOptions options;
  options.bits = config.K;
  options.tables = config.L;
  options.tau = config.tau;
  options.planes = [config](int64_t dim) {
    const at::Tensor planes = SocketPlanes(config.L, config.K, dim).contiguous();
    const float* const data = planes.const_data_ptr<float>();
    return std::vector<float>(data, data + planes.numel());
  };
  return std::make_shared<cpu::SocketSelector>(config.heavy_size, std::move(options));
}

Twin LightningIndexerTwin(const Json& json) {
  SA_RETURN_IF_ERROR(MaskerFromJson(json, {}).status());
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<LightningIndexerConfig>(json));
  SA_ASSIGN_OR_RETURN(const auto weights, IndexerWeights::Load(config.weight_file));
  const auto matrices =
      [weights](const cpu::LayerShape& shape) -> absl::StatusOr<cpu::IndexerMatrices> {
    SA_ASSIGN_OR_RETURN(const IndexerLayer* layer,
                        weights->Layer(shape.layer, shape.query_heads, shape.kv_heads, shape.dim));
    const auto owner = std::make_shared<const IndexerLayer>(
        IndexerLayer{layer->query.contiguous(), layer->key.contiguous(), layer->gate.contiguous()});
    cpu::IndexerMatrices result;
    result.heads = owner->query.size(0);
    result.width = owner->width();
    result.query = owner->query.const_data_ptr<float>();
    result.key = owner->key.const_data_ptr<float>();
    result.gate = owner->gate.const_data_ptr<float>();
    result.owner = owner;
    return result;
  };
  return std::make_shared<cpu::LightningIndexerSelector>(config.heavy_size, matrices);
}

Twin PqCacheTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<PqCacheConfig>(json));
  if (config.kmeans == KMeansRule::kHub) {
    return NoHubDraws(config.kName, "kmeans");
  }
  cpu::PqIndexOptions options;
  options.subvectors = config.pq_group_factor;
  options.bits = config.pq_bits;
  options.iterations = config.kmeans_iter;
  options.offset = config.init_offset;
  options.inner_product = config.metric == PqMetric::kInnerProduct;
  options.seed = config.seed;
  return std::make_shared<cpu::PqCacheSelector>(config.heavy_size, options);
}

Twin QuestTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<QuestTopKConfig>(json));
  return std::make_shared<cpu::QuestSelector>(config.heavy_size, config.page_size,
                                              config.label_bits);
}

Twin RandomTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<RandomSamplingConfig>(json));
  if (config.estimator == Estimator::kHub) return NoHubDraws(config.kName, "estimator");
  return std::make_shared<cpu::RandomSampler>(config.sampling_rate);
}

Twin AdaptiveTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<AdaptiveSamplingConfig>(json));
  if (config.estimator == Estimator::kHub) return NoHubDraws(config.kName, "estimator");
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
      {OracleTopPConfig::kName, &OracleTopPTwin},
      {DoubleSparsityTopKConfig::kName, &DoubleSparsityTwin},
      {SocketTopKConfig::kName, &SocketTwin},
      {HashAttentionTopKConfig::kName, &HashAttentionTwin},
      {LightningIndexerConfig::kName, &LightningIndexerTwin},
      {PqCacheConfig::kName, &PqCacheTwin},
      {QuestTopKConfig::kName, &QuestTwin},
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
  return Unsupported(descriptor->name,
                     absl::StrCat("it has kernels for ",
                                  absl::StrJoin(twins, ", ", [](std::string* out, const auto& of) {
                                    out->append(of.first);
                                  })));
}

}  // namespace sparse_attention
