// Configs of whole methods, which the Python hub has beside pipelines: each stands for the
// efficient pipeline of sink, local and the method's masker, and runs as that.
//
//   {"type": "hash_attention", "sink_size": 128, "local_size": 128, "heavy_size": 0.02,
//    "hat_weights": "{model}/hash_attention.safetensors"}
//   {"type": "double_sparsity", "sink_size": 128, "local_size": 128, "heavy_size": 0.02,
//    "ds_channel_config": {"sorted_channel_file": "{model}/double_sparsity.json"},
//    "ds_bits": 4, "ds_group_factor": 16}
//
// Field names are the hub's. A sink_size or local_size of 0 leaves that masker out. Beside them a
// pipeline's selection, group_reduce, name and description; nothing is drawn, hence no seed.
#ifndef SPARSE_ATTENTION_CONFIG_METHOD_CONFIG_H_
#define SPARSE_ATTENTION_CONFIG_METHOD_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sparse_attention/config/budget.h"
#include "sparse_attention/config/check.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/config/pipeline_config.h"

namespace sparse_attention {

// The fields of a pipeline that say who selects.
template <class C>
auto SelectionFields() {
  return std::tuple(
      Field{"selection", &C::selection,
            "Whether every query head selects keys for itself, or the query heads of a KV head "
            "select together."},
      Field{"group_reduce", &C::group_reduce,
            "With kv_group: how the scores of a group's query heads become one."});
}

// The fields of a pipeline that reports show.
template <class C>
auto ReportFields() {
  return std::tuple(Field{"name", &C::name, "For reports."},
                    Field{"description", &C::description, "For reports."});
}

// What every method has.
struct MethodConfig {
  Budget heavy_size = Budget::Fraction(0.02);
  Budget sink_size = Budget::Count(128);
  Budget local_size = Budget::Count(128);
  Selection selection = Selection::kQueryHead;
  GroupReduce group_reduce = GroupReduce::kMax;
  std::string name;
  std::string description;
};

template <class C>
auto MethodSizeFields() {
  return std::tuple(
      Field{"heavy_size", &C::heavy_size, "Keys kept beside sink and window.", PositiveBudget(),
            Required()},
      Field{"sink_size", &C::sink_size, "Leading keys kept.", NonNegativeBudget(), Required()},
      Field{"local_size", &C::local_size, "Latest keys kept, the query's own position included.",
            NonNegativeBudget(), Required()});
}

// HashAttention: top-k on learned bit signatures.
struct HashAttentionConfig : MethodConfig {
  static constexpr char kName[] = "hash_attention";
  std::string hat_weights;
  static auto Fields() {
    return std::tuple_cat(
        MethodSizeFields<HashAttentionConfig>(),
        std::tuple(Field{"hat_weights", &HashAttentionConfig::hat_weights,
                         "Safetensors file of the MLPs; {model}/ stands for the model's folder.",
                         NonEmpty(), Required()},
                   // The weights decide.
                   IgnoredField{"hat_bits"}, IgnoredField{"hat_mlp_layers"},
                   IgnoredField{"hat_mlp_hidden_size"}),
        SelectionFields<HashAttentionConfig>(), ReportFields<HashAttentionConfig>());
  }
};

// Where Double Sparsity finds the channels that matter. In JSON the file alone will do:
// "ds_channel_config": "channels.json".
struct ChannelConfig {
  static constexpr char kPath[] = "channel_config";
  std::string sorted_channel_file;
  std::optional<std::string> channel_selection;
  static auto Fields() {
    return std::tuple(
        Field{"sorted_channel_file", &ChannelConfig::sorted_channel_file,
              "JSON file of channels by importance, from `sah calibrate`; {model}/ stands for the "
              "model's folder.",
              NonEmpty(), Required()},
        Field{"channel_selection", &ChannelConfig::channel_selection,
              "q_proj, k_proj or qk_proj; default: that of the masker."});
  }
};

template <>
struct FieldValue<ChannelConfig> {
  static std::string Type() { return "channel_config or string (its sorted_channel_file)"; }
  static Json Schema(const FieldRules& rules);
  static absl::Status Read(const Json& json, const std::string& path, const FieldRules& rules,
                           ChannelConfig* out);
  static Json Write(const ChannelConfig& value) { return ConfigToJson(value); }
  static absl::Status Check(const ChannelConfig& value, const std::string& path, const FieldRules&);
  static bool Equal(const ChannelConfig& a, const ChannelConfig& b) { return ConfigEquals(a, b); }
};

// Double Sparsity: top-k on few quantised channels.
struct DoubleSparsityConfig : MethodConfig {
  static constexpr char kName[] = "double_sparsity";
  ChannelConfig ds_channel_config;
  int64_t ds_bits = 4;
  int64_t ds_group_factor = 16;
  static auto Fields() {
    return std::tuple_cat(
        MethodSizeFields<DoubleSparsityConfig>(),
        std::tuple(Field{"ds_channel_config", &DoubleSparsityConfig::ds_channel_config,
                         "Channels by importance.", Required()},
                   Field{"ds_bits", &DoubleSparsityConfig::ds_bits,
                         "Bits of a channel's value; 16: not quantised.",
                         InLeftOpen(0, 16).Says("must be in range (0, 16]"), Required()},
                   Field{"ds_group_factor", &DoubleSparsityConfig::ds_group_factor,
                         "dim / ds_group_factor channels are used.", Positive(), Required()}),
        SelectionFields<DoubleSparsityConfig>(), ReportFields<DoubleSparsityConfig>());
  }
};

// The pipeline that a config stands for. InvalidArgument: a field breaks its rule,
// "hash_attention.heavy_size must be > 0, got 0". What the masker alone can tell, of a file that is
// missing, say, is an error of the engine that is created, with the path in this pipeline,
// "pipeline.maskers[2]: ...".
absl::StatusOr<PipelineConfig> PipelineOf(const HashAttentionConfig& config);
absl::StatusOr<PipelineConfig> PipelineOf(const DoubleSparsityConfig& config);

// Whether `json` is an object whose "type" names a method.
bool IsMethodConfig(const Json& json);

// "'hash_attention' or 'double_sparsity'"
std::string MethodChoices();

// The pipeline of a JSON object for which IsMethodConfig holds; errors as PipelineOf.
absl::StatusOr<PipelineConfig> PipelineFromMethod(const Json& json);

// JSON Schemas of the methods, in the order of MethodChoices, each with its name as "title".
std::vector<Json> MethodSchemas();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_METHOD_CONFIG_H_
