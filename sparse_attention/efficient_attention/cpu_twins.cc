#include "sparse_attention/efficient_attention/cpu_twins.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/efficient_attention/cpu/fixed_ranges.h"
#include "sparse_attention/efficient_attention/cpu/indexer_index.h"
#include "sparse_attention/efficient_attention/cpu/label_index.h"
#include "sparse_attention/efficient_attention/cpu/magic_pig_sampler.h"
#include "sparse_attention/efficient_attention/cpu/oracle_scores.h"
#include "sparse_attention/efficient_attention/cpu/pq_index.h"
#include "sparse_attention/efficient_attention/cpu/quest_index.h"
#include "sparse_attention/efficient_attention/cpu/samplers.h"
#include "sparse_attention/efficient_attention/cpu/signature_index.h"
#include "sparse_attention/efficient_attention/cpu/snap_kv_selector.h"
#include "sparse_attention/efficient_attention/cpu/socket_index.h"
#include "sparse_attention/efficient_attention/cpu/top_p_selector.h"
#include "sparse_attention/key_index/narrow_weights.h"
#include "sparse_attention/key_index/socket_planes.h"
#include "sparse_attention/research_attention/maskers/fixed/causal_config.h"
#include "sparse_attention/research_attention/maskers/fixed/double_sparsity_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/lightning_indexer_config.h"
#include "sparse_attention/research_attention/maskers/fixed/local_config.h"
#include "sparse_attention/research_attention/maskers/fixed/oracle_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/oracle_top_p_config.h"
#include "sparse_attention/research_attention/maskers/fixed/pq_cache_config.h"
#include "sparse_attention/research_attention/maskers/fixed/quest_top_k_config.h"
#include "sparse_attention/research_attention/maskers/fixed/sink_config.h"
#include "sparse_attention/research_attention/maskers/fixed/snap_kv_config.h"
#include "sparse_attention/research_attention/maskers/fixed/socket_top_k_config.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling_config.h"
#include "sparse_attention/research_attention/maskers/sampling/magic_pig_config.h"
#include "sparse_attention/research_attention/maskers/sampling/magic_pig_planes.h"
#include "sparse_attention/research_attention/maskers/sampling/random_sampling_config.h"

namespace sparse_attention {
namespace {

using Twin = absl::StatusOr<std::shared_ptr<const cpu::CpuMasker>>;

// What is required, what is missing, and what else to do.
absl::Status Unsupported(absl::string_view required, absl::string_view missing) {
  return absl::UnimplementedError(absl::StrCat("the efficient engine does not support ", required,
                                               ": ", missing, "; \"type\": \"research\" runs it"));
}

// More than a plan may have: larger numbers mean the same, and sums of them stay numbers.
constexpr int64_t kMostKeys = int64_t{1} << 31;

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

// The MLPs of a file's layers, made narrow when a layer is first planned and shared by all plans.
class NarrowMlps {
 public:
  explicit NarrowMlps(std::shared_ptr<const HashAttentionWeights> weights)
      : weights_(std::move(weights)) {}

  absl::StatusOr<cpu::SignatureMlps> Of(const cpu::LayerShape& shape) {
    SA_ASSIGN_OR_RETURN(const HashAttentionLayer* found,
                        weights_->Layer(shape.layer, shape.query_heads, shape.kv_heads, shape.dim));
    const std::lock_guard lock(mutex_);
    std::shared_ptr<Layer>& layer = layers_[shape.layer];
    if (layer == nullptr) layer = std::make_shared<Layer>(weights_, *found);
    cpu::SignatureMlps mlps;
    mlps.query = layer->query;
    mlps.key = layer->key;
    mlps.key_heads = found->key.heads();
    mlps.activation = weights_->activation();
    mlps.owner = layer;
    return mlps;
  }

 private:
  struct Layer {
    Layer(std::shared_ptr<const HashAttentionWeights> of, const HashAttentionLayer& layer)
        : owner(std::move(of)), query(LinearsOf(layer.query)), key(LinearsOf(layer.key)) {}

    std::vector<cpu::MlpLinear> LinearsOf(const MlpWeights& mlp) {
      std::vector<cpu::MlpLinear> linears;
      for (const LinearWeights& linear : mlp.linears) {
        narrow.push_back(std::make_unique<cpu::NarrowWeights>(linear.weight.values));
        linears.push_back({narrow.back()->data(), linear.bias.values.data(), linear.weight.size(1),
                           linear.weight.size(2), narrow.back()->element()});
      }
      return linears;
    }

    const std::shared_ptr<const HashAttentionWeights> owner;
    std::vector<std::unique_ptr<const cpu::NarrowWeights>> narrow;
    const std::vector<cpu::MlpLinear> query, key;
  };

  const std::shared_ptr<const HashAttentionWeights> weights_;
  std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<Layer>> layers_;
};

Twin HashAttentionTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<HashAttentionTopKConfig>(json));
  SA_ASSIGN_OR_RETURN(const auto weights, LoadWeights(config));
  const auto mlps = std::make_shared<NarrowMlps>(weights);
  return std::make_shared<cpu::HashAttentionSelector>(
      cpu::TopKRule{.heavy_size = config.heavy_size},
      [mlps](const cpu::LayerShape& shape) { return mlps->Of(shape); });
}

Twin DoubleSparsityTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<DoubleSparsityTopKConfig>(json));
  SA_ASSIGN_OR_RETURN(ChannelFile read, LoadChannels(config));
  const auto file = std::make_shared<const ChannelFile>(std::move(read));
  const auto channels =
      [file, config](const cpu::LayerShape& shape) -> absl::StatusOr<std::vector<int32_t>> {
    const absl::StatusOr<ChannelLists> lists =
        DoubleSparsityChannels(*file, config, shape.layer, shape.query_heads, shape.dim);
    if (!lists.ok()) return Annotate(lists.status(), config.kName);
    std::vector<int32_t> channels;
    for (const std::vector<int64_t>& list : *lists) {
      channels.insert(channels.end(), list.begin(), list.end());
    }
    return channels;
  };
  return std::make_shared<cpu::DoubleSparsitySelector>(config.heavy_size, config.label_bits,
                                                       channels);
}

Twin SocketTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<SocketTopKConfig>(json));
  constexpr int64_t kMostTables = 4096;
  if (config.L > kMostTables) {
    return Unsupported(absl::StrCat(config.kName, ".L ", config.L),
                       absl::StrCat("it has room for ", kMostTables, " tables"));
  }
  cpu::SocketOptions options;
  options.bits = config.K;
  options.tables = config.L;
  options.tau = config.tau;
  options.planes = [config](int64_t dim) { return SocketPlanes(config.L, config.K, dim).values; };
  return std::make_shared<cpu::SocketSelector>(config.heavy_size, std::move(options));
}

Twin LightningIndexerTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<LightningIndexerConfig>(json));
  SA_ASSIGN_OR_RETURN(const auto weights, LoadWeights(config));
  const auto matrices =
      [weights](const cpu::LayerShape& shape) -> absl::StatusOr<cpu::IndexerMatrices> {
    SA_ASSIGN_OR_RETURN(const IndexerLayerWeights* layer,
                        weights->Layer(shape.layer, shape.query_heads, shape.kv_heads, shape.dim));
    cpu::IndexerMatrices result;
    result.heads = layer->heads();
    result.width = layer->width();
    result.query = layer->query.values.data();
    result.key = layer->key.values.data();
    result.gate = layer->gate.values.data();
    result.owner = weights;
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
  options.offset = std::min(config.init_offset, kMostKeys);
  options.inner_product = config.metric == PqMetric::kInnerProduct;
  options.seed = config.seed;
  return std::make_shared<cpu::PqCacheSelector>(config.heavy_size, options);
}

Twin QuestTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<QuestTopKConfig>(json));
  return std::make_shared<cpu::QuestSelector>(
      config.heavy_size, std::min(config.page_size, kMostKeys), config.label_bits);
}

Twin SnapKvTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<SnapKvConfig>(json));
  return std::make_shared<cpu::SnapKvSelector>(
      cpu::SnapKvOptions{config.heavy_size, config.window_size, config.kernel_size});
}

Twin MagicPigTwin(const Json& json) {
  SA_ASSIGN_OR_RETURN(const auto config, ConfigFromJson<MagicPigConfig>(json));
  if (config.estimator == Estimator::kHub) return NoHubDraws(config.kName, "estimator");
  cpu::MagicPigOptions options;
  options.tables = config.lsh_l;
  options.bits = config.lsh_k;
  options.centred = config.center;
  options.planes = [config](const cpu::StepPlan& plan) {
    return DrawMagicPigPlanes(config, plan.seed, plan.shape.layer, plan.shape.dim).values;
  };
  return std::make_shared<cpu::MagicPigSampler>(std::move(options));
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

const std::map<std::string, Twin (*)(const Json&)>& Twins() {
  static const auto* const twins = new std::map<std::string, Twin (*)(const Json&)>{
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
      {SnapKvConfig::kName, &SnapKvTwin},
      {RandomSamplingConfig::kName, &RandomTwin},
      {AdaptiveSamplingConfig::kName, &AdaptiveTwin},
      {MagicPigConfig::kName, &MagicPigTwin},
  };
  return *twins;
}

std::string TwinNames() {
  return absl::StrJoin(Twins(), ", ",
                       [](std::string* out, const auto& twin) { out->append(twin.first); });
}

}  // namespace

absl::StatusOr<std::string> MaskerTypeOf(const Json& entry) {
  if (!entry.is_object() || !entry.contains("type") || !entry["type"].is_string()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a masker must be an object with a string \"type\", got ", JsonExcerpt(entry)));
  }
  return entry["type"].get<std::string>();
}

bool HasCpuTwin(const std::string& type) { return Twins().contains(type); }

absl::Status NoCpuTwin(absl::string_view type) {
  return Unsupported(type, absl::StrCat("it has kernels for ", TwinNames()));
}

Twin CpuTwin(const Json& entry) {
  SA_ASSIGN_OR_RETURN(const std::string type, MaskerTypeOf(entry));
  const auto twin = Twins().find(type);
  if (twin != Twins().end()) return twin->second(entry);
  std::vector<std::string> names;
  for (const auto& [name, make] : Twins()) names.push_back(name);
  return absl::NotFoundError(absl::StrCat("the efficient engine has no masker \"", type,
                                          "\" (did you mean \"", NearestName(type, names),
                                          "\"? it has kernels for ", TwinNames(), ")"));
}

bool IsCpuSampler(absl::string_view type) {
  return type == RandomSamplingConfig::kName || type == AdaptiveSamplingConfig::kName ||
         type == MagicPigConfig::kName;
}

bool IsCpuOracle(absl::string_view type) {
  return type == OracleTopKConfig::kName || type == OracleTopPConfig::kName;
}

}  // namespace sparse_attention
