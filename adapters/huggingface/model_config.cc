#include "adapters/huggingface/model_config.h"

#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/huggingface/checkpoint_json.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

constexpr size_t kMaxConfigBytes = 16'000'000;
constexpr int64_t kMaxPositions = int64_t{1} << 30;
constexpr int64_t kMaxTokenId = (int64_t{1} << 24) - 1;

// What transformers' config class of a family assumes where the file is silent, and which
// parameters its layers have.
struct FamilyTraits {
  absl::string_view name;
  int64_t default_num_kv_heads;  // 0 = num_attention_heads
  int64_t default_head_dim;      // 0 = hidden_size / num_attention_heads
  int64_t default_max_positions;
  std::optional<int64_t> default_bos, default_eos;
  enum class Bias { kNever, kAlways, kByField } qkv_bias, o_bias, mlp_bias;
  bool qk_norm;
  enum class Window { kNone, kAllLayers, kUpperLayers } window;
};
using Bias = FamilyTraits::Bias;
using Window = FamilyTraits::Window;

// In the order of ModelFamily.
constexpr FamilyTraits kFamilies[] = {
    {"llama", 0, 0, 2048, 1, 2, Bias::kByField, Bias::kByField, Bias::kByField, false,
     Window::kNone},
    {"qwen2",
     32,
     0,
     32768,
     {},
     {},
     Bias::kAlways,
     Bias::kNever,
     Bias::kNever,
     false,
     Window::kUpperLayers},
    {"qwen3",
     32,
     128,
     32768,
     {},
     {},
     Bias::kByField,
     Bias::kByField,
     Bias::kNever,
     true,
     Window::kUpperLayers},
    {"mistral", 8, 0, 131072, 1, 2, Bias::kNever, Bias::kNever, Bias::kNever, false,
     Window::kAllLayers},
};

// In the order of RopeType.
constexpr absl::string_view kRopeTypes[] = {"default", "linear", "dynamic", "llama3", "yarn"};

const FamilyTraits& TraitsOf(ModelFamily family) { return kFamilies[static_cast<size_t>(family)]; }

template <typename T>
absl::StatusOr<T> Required(const JsonFields& fields, absl::string_view name,
                           absl::StatusOr<std::optional<T>> value) {
  SA_RETURN_IF_ERROR(value.status());
  if (!value->has_value()) return fields.Missing(name);
  return **value;
}

absl::StatusOr<int64_t> RequiredSize(const JsonFields& fields, absl::string_view name,
                                     int64_t max) {
  return Required(fields, name, fields.Int(name, 1, max));
}

absl::Status Unsupported(absl::string_view field, absl::string_view seen,
                         absl::string_view supported) {
  return absl::UnimplementedError(
      absl::StrCat(field, " ", seen, " is not supported (supported: ", supported, ")"));
}

absl::Status ReadFamily(const JsonFields& fields, ModelConfig& config) {
  SA_ASSIGN_OR_RETURN(const std::string type,
                      Required(fields, "model_type", fields.String("model_type")));
  for (size_t i = 0; i < std::size(kFamilies); ++i) {
    if (kFamilies[i].name == type) {
      config.family = static_cast<ModelFamily>(i);
      return absl::OkStatus();
    }
  }
  return Unsupported("model_type", JsonExcerpt(type),
                     absl::StrJoin(kFamilies, ", ", [](std::string* out, const auto& family) {
                       absl::StrAppend(out, family.name);
                     }));
}

absl::Status ReadSizes(const JsonFields& fields, ModelConfig& config) {
  const FamilyTraits& traits = TraitsOf(config.family);
  SA_ASSIGN_OR_RETURN(config.vocab_size, RequiredSize(fields, "vocab_size", int64_t{1} << 24));
  SA_ASSIGN_OR_RETURN(config.hidden_size, RequiredSize(fields, "hidden_size", int64_t{1} << 17));
  SA_ASSIGN_OR_RETURN(config.intermediate_size,
                      RequiredSize(fields, "intermediate_size", int64_t{1} << 20));
  SA_ASSIGN_OR_RETURN(config.num_layers, RequiredSize(fields, "num_hidden_layers", 1024));
  SA_ASSIGN_OR_RETURN(config.num_heads, RequiredSize(fields, "num_attention_heads", 1024));

  SA_ASSIGN_OR_RETURN(const std::optional<int64_t> kv_heads,
                      fields.Int("num_key_value_heads", 1, 1024));
  // null means one KV head per query head; a file that leaves the field out means the class
  // default.
  const bool kv_default =
      !fields.Mentions("num_key_value_heads") && traits.default_num_kv_heads != 0;
  config.num_kv_heads =
      kv_heads.value_or(kv_default ? traits.default_num_kv_heads : config.num_heads);
  if (config.num_heads % config.num_kv_heads != 0) {
    return fields.Wrong("num_key_value_heads",
                        absl::StrCat("must divide num_attention_heads (", config.num_heads, ")"),
                        config.num_kv_heads);
  }

  SA_ASSIGN_OR_RETURN(const std::optional<int64_t> head_dim, fields.Int("head_dim", 1, 1024));
  if (head_dim.has_value()) {
    config.head_dim = *head_dim;
  } else if (!fields.Mentions("head_dim") && traits.default_head_dim != 0) {
    config.head_dim = traits.default_head_dim;
  } else if (config.hidden_size % config.num_heads != 0) {
    return fields.Wrong("hidden_size",
                        absl::StrCat("must be a multiple of num_attention_heads (",
                                     config.num_heads, ") where head_dim is not given"),
                        config.hidden_size);
  } else {
    config.head_dim = config.hidden_size / config.num_heads;
  }
  if (config.head_dim % 2 != 0 || config.head_dim > 1024) {
    return fields.Wrong("head_dim", "must be even and <= 1024, for rotary embeddings",
                        config.head_dim);
  }

  SA_ASSIGN_OR_RETURN(const std::optional<int64_t> positions,
                      fields.Int("max_position_embeddings", 1, kMaxPositions));
  config.max_position_embeddings = positions.value_or(traits.default_max_positions);
  SA_ASSIGN_OR_RETURN(const std::optional<double> eps, fields.Number("rms_norm_eps", 1e-30, 1.0));
  config.rms_norm_eps = eps.value_or(1e-6);
  return absl::OkStatus();
}

absl::Status ReadParameters(const JsonFields& fields, ModelConfig& config) {
  const FamilyTraits& traits = TraitsOf(config.family);
  SA_ASSIGN_OR_RETURN(const std::optional<bool> attention_bias, fields.Bool("attention_bias"));
  SA_ASSIGN_OR_RETURN(const std::optional<bool> mlp_bias, fields.Bool("mlp_bias"));
  const auto has = [](Bias bias, std::optional<bool> field) {
    return bias == Bias::kAlways || (bias == Bias::kByField && field.value_or(false));
  };
  config.qkv_bias = has(traits.qkv_bias, attention_bias);
  config.o_bias = has(traits.o_bias, attention_bias);
  config.mlp_bias = has(traits.mlp_bias, mlp_bias);
  config.qk_norm = traits.qk_norm;

  SA_ASSIGN_OR_RETURN(const std::optional<bool> tied, fields.Bool("tie_word_embeddings"));
  config.tie_word_embeddings = tied.value_or(false);
  SA_ASSIGN_OR_RETURN(const std::optional<std::string> activation, fields.String("hidden_act"));
  if (activation.value_or("silu") != "silu") {
    return Unsupported("hidden_act", JsonExcerpt(*activation), "silu");
  }
  const absl::string_view dtype_field = fields.Find("dtype") != nullptr ? "dtype" : "torch_dtype";
  SA_ASSIGN_OR_RETURN(const std::optional<std::string> dtype, fields.String(dtype_field));
  config.dtype = dtype.value_or("");
  if (dtype.has_value() && *dtype != "bfloat16" && *dtype != "float16" && *dtype != "float32") {
    return Unsupported(dtype_field, JsonExcerpt(*dtype), "bfloat16, float16, float32");
  }
  return absl::OkStatus();
}

absl::Status ReadTokens(const JsonFields& fields, ModelConfig& config) {
  const FamilyTraits& traits = TraitsOf(config.family);
  SA_ASSIGN_OR_RETURN(std::optional<std::vector<int64_t>> eos,
                      fields.IntOrList("eos_token_id", 0, kMaxTokenId));
  if (eos.has_value()) {
    config.eos_token_ids = *std::move(eos);
  } else if (!fields.Mentions("eos_token_id") && traits.default_eos.has_value()) {
    config.eos_token_ids = {*traits.default_eos};
  }
  SA_ASSIGN_OR_RETURN(config.bos_token_id, fields.Int("bos_token_id", 0, kMaxTokenId));
  if (!fields.Mentions("bos_token_id")) config.bos_token_id = traits.default_bos;
  return absl::OkStatus();
}

// Fills config.sliding_windows.
absl::Status ReadWindows(const JsonFields& fields, ModelConfig& config) {
  const Window kind = TraitsOf(config.family).window;
  const int64_t layers = config.num_layers;
  int64_t window = 0;
  int64_t first_windowed = 0;
  if (kind != Window::kNone) {
    SA_ASSIGN_OR_RETURN(const std::optional<int64_t> given,
                        fields.Int("sliding_window", 1, kMaxPositions));
    window = given.value_or(fields.Mentions("sliding_window") ? 0 : 4096);
  }
  if (kind == Window::kUpperLayers) {
    SA_ASSIGN_OR_RETURN(const std::optional<bool> use, fields.Bool("use_sliding_window"));
    if (!use.value_or(false)) window = 0;
    SA_ASSIGN_OR_RETURN(const std::optional<int64_t> upper,
                        fields.Int("max_window_layers", 0, kMaxPositions));
    first_windowed = upper.value_or(28);
  }
  config.sliding_windows.assign(layers, 0);
  for (int64_t i = first_windowed; i < layers; ++i) config.sliding_windows[i] = window;

  const nlohmann::json* types = fields.Find("layer_types");
  if (types == nullptr) return absl::OkStatus();
  if (!types->is_array() || types->size() != static_cast<size_t>(layers)) {
    return fields.Wrong("layer_types",
                        absl::StrCat("must be a list of num_hidden_layers (", layers, ") names"),
                        *types);
  }
  for (int64_t i = 0; i < layers; ++i) {
    const nlohmann::json& type = (*types)[i];
    const std::string name = absl::StrCat("layer_types[", i, "]");
    if (!type.is_string()) return fields.Wrong(name, "must be a string", type);
    const bool sliding = type == "sliding_attention";
    if (!sliding && type != "full_attention") {
      return Unsupported(name, JsonExcerpt(type), "full_attention, sliding_attention");
    }
    // The model code of Llama and Mistral treats all layers alike, whatever the list says.
    if (kind != Window::kUpperLayers && sliding != (window != 0)) {
      return Unsupported(absl::StrCat("model_type ", TraitsOf(config.family).name, " with ", name),
                         JsonExcerpt(type), window != 0 ? "sliding_attention" : "full_attention");
    }
    if (sliding && window == 0) {
      return fields.Wrong(name, "needs use_sliding_window and a sliding_window", type);
    }
    config.sliding_windows[i] = sliding ? window : 0;
  }
  return absl::OkStatus();
}

absl::Status ReadScaledRope(const JsonFields& top, const JsonFields& fields,
                            const ModelConfig& config, RopeConfig& rope) {
  const bool yarn = rope.type == RopeType::kYarn;
  // Yarn takes an explicit null for "as far as the positions were stretched".
  SA_ASSIGN_OR_RETURN(const std::optional<double> factor, fields.Number("factor", 1.0, 1e6));
  if (!factor.has_value() && !(yarn && fields.Mentions("factor"))) return fields.Missing("factor");

  if (rope.type == RopeType::kLlama3 || yarn) {
    // transformers lets the outer field win.
    SA_ASSIGN_OR_RETURN(std::optional<int64_t> original,
                        top.Int("original_max_position_embeddings", 1, kMaxPositions));
    if (!original.has_value()) {
      SA_ASSIGN_OR_RETURN(original,
                          fields.Int("original_max_position_embeddings", 1, kMaxPositions));
    }
    rope.original_max_position_embeddings = original.value_or(config.max_position_embeddings);
  }
  rope.factor = factor.value_or(static_cast<double>(config.max_position_embeddings) /
                                static_cast<double>(rope.original_max_position_embeddings));

  if (rope.type == RopeType::kLlama3) {
    SA_ASSIGN_OR_RETURN(
        rope.low_freq_factor,
        Required(fields, "low_freq_factor", fields.Number("low_freq_factor", 1e-6, 1e6)));
    SA_ASSIGN_OR_RETURN(
        rope.high_freq_factor,
        Required(fields, "high_freq_factor", fields.Number("high_freq_factor", 1e-6, 1e6)));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return fields.Wrong("high_freq_factor",
                          absl::StrCat("must be > low_freq_factor (", rope.low_freq_factor, ")"),
                          rope.high_freq_factor);
    }
  }
  if (yarn) {
    // transformers reads 0 like an absent field for these four.
    const auto number = [&](absl::string_view name, double& target) -> absl::Status {
      SA_ASSIGN_OR_RETURN(const std::optional<double> value, fields.Number(name, 0.0, 1e6));
      if (value.value_or(0.0) != 0.0) target = *value;
      return absl::OkStatus();
    };
    SA_RETURN_IF_ERROR(number("beta_fast", rope.beta_fast));
    SA_RETURN_IF_ERROR(number("beta_slow", rope.beta_slow));
    SA_RETURN_IF_ERROR(number("mscale", rope.mscale));
    SA_RETURN_IF_ERROR(number("mscale_all_dim", rope.mscale_all_dim));
    if (rope.beta_fast < rope.beta_slow) {
      return fields.Wrong("beta_fast", absl::StrCat("must be >= beta_slow (", rope.beta_slow, ")"),
                          rope.beta_fast);
    }
    SA_ASSIGN_OR_RETURN(rope.attention_factor, fields.Number("attention_factor", 1e-6, 1e6));
    SA_ASSIGN_OR_RETURN(const std::optional<bool> truncate, fields.Bool("truncate"));
    rope.truncate = truncate.value_or(true);
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const JsonFields& top, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.original_max_position_embeddings = config.max_position_embeddings;

  // A version 4 rope_scaling, where there is one, wins over rope_parameters, as in transformers.
  absl::string_view name = "rope_parameters";
  if (const nlohmann::json* scaling = top.Find("rope_scaling");
      scaling != nullptr && *scaling != nlohmann::json::object()) {
    name = "rope_scaling";
  }
  const nlohmann::json* given = top.Find(name);
  const nlohmann::json empty = nlohmann::json::object();
  if (given == nullptr) given = &empty;
  if (!given->is_object()) return top.Wrong(name, "must be an object", *given);
  const JsonFields fields(*given, absl::StrCat(name, "."));

  for (const absl::string_view layer_type : {"full_attention", "sliding_attention"}) {
    if (fields.Mentions(layer_type)) {
      return Unsupported(name, absl::StrCat("for ", layer_type), "one for all layers");
    }
  }
  for (const JsonFields& place : {fields, top}) {
    SA_ASSIGN_OR_RETURN(const std::optional<double> partial,
                        place.Number("partial_rotary_factor", 0.0, 1.0));
    if (partial.value_or(1.0) != 1.0) {
      return Unsupported("partial_rotary_factor", absl::StrCat(*partial), "1.0");
    }
  }
  constexpr double kMinTheta = 1.001;  // its logarithm is divided by
  SA_ASSIGN_OR_RETURN(std::optional<double> theta, fields.Number("rope_theta", kMinTheta, 1e15));
  if (!theta.has_value()) {
    SA_ASSIGN_OR_RETURN(theta, top.Number("rope_theta", kMinTheta, 1e15));
  }
  rope.theta = theta.value_or(10000.0);

  SA_ASSIGN_OR_RETURN(std::optional<std::string> type, fields.String("rope_type"));
  absl::string_view type_field = "rope_type";
  if (!type.has_value()) {
    type_field = "type";
    SA_ASSIGN_OR_RETURN(type, fields.String("type"));
  }
  if (!type.has_value()) type = "default";
  for (size_t i = 0; i < std::size(kRopeTypes); ++i) {
    if (kRopeTypes[i] != *type) continue;
    rope.type = static_cast<RopeType>(i);
    if (rope.type == RopeType::kDefault) return absl::OkStatus();
    return ReadScaledRope(top, fields, config, rope);
  }
  return Unsupported(absl::StrCat(name, ".", type_field), JsonExcerpt(*type),
                     absl::StrJoin(kRopeTypes, ", "));
}

absl::StatusOr<ModelConfig> ParseConfig(absl::string_view text) {
  SA_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(text));
  const JsonFields fields(json, "");
  ModelConfig config;
  SA_RETURN_IF_ERROR(ReadFamily(fields, config));
  if (const nlohmann::json* quantization = fields.Find("quantization_config")) {
    const nlohmann::json method = quantization->is_object()
                                      ? quantization->value("quant_method", nlohmann::json())
                                      : nlohmann::json();
    return Unsupported("quantization_config with quant_method", JsonExcerpt(method),
                       "unquantized float32, float16 and bfloat16 weights");
  }
  SA_RETURN_IF_ERROR(ReadSizes(fields, config));
  SA_RETURN_IF_ERROR(ReadParameters(fields, config));
  SA_RETURN_IF_ERROR(ReadTokens(fields, config));
  SA_RETURN_IF_ERROR(ReadWindows(fields, config));
  SA_RETURN_IF_ERROR(ReadRope(fields, config));
  return config;
}

}  // namespace

absl::string_view ModelFamilyName(ModelFamily family) { return TraitsOf(family).name; }

absl::string_view RopeTypeName(RopeType type) { return kRopeTypes[static_cast<size_t>(type)]; }

double RopeConfig::AttentionScaling() const {
  if (type != RopeType::kYarn) return 1.0;
  if (attention_factor.has_value()) return *attention_factor;
  const auto scaling = [this](double weight) {
    return factor <= 1.0 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
  };
  if (mscale != 0.0 && mscale_all_dim != 0.0) return scaling(mscale) / scaling(mscale_all_dim);
  return scaling(1.0);
}

absl::StatusOr<ModelConfig> ModelConfig::FromFile(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(path, kMaxConfigBytes));
  absl::StatusOr<ModelConfig> config = ParseConfig(text);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

absl::StatusOr<ModelConfig> ModelConfig::FromJson(absl::string_view json) {
  absl::StatusOr<ModelConfig> config = ParseConfig(json);
  if (!config.ok()) return Annotate(config.status(), "config.json");
  return config;
}

}  // namespace sparse_attention
