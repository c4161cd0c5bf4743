#include "adapters/huggingface/generation_config.h"

#include <filesystem>
#include <utility>

#include "absl/status/status.h"
#include "adapters/huggingface/checkpoint_json.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

constexpr size_t kMaxConfigBytes = 16'000'000;
constexpr int64_t kMaxTokenId = (int64_t{1} << 24) - 1;

absl::StatusOr<GenerationConfig> Parse(absl::string_view text, const ModelConfig& model) {
  SA_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(text));
  const JsonFields fields(json, "");
  GenerationConfig config;
  SA_ASSIGN_OR_RETURN(std::optional<std::vector<int64_t>> eos,
                      fields.IntOrList("eos_token_id", 0, kMaxTokenId));
  config.eos_token_ids = eos.has_value() ? *std::move(eos) : model.eos_token_ids;
  SA_ASSIGN_OR_RETURN(config.bos_token_id, fields.Int("bos_token_id", 0, kMaxTokenId));
  if (!config.bos_token_id.has_value()) config.bos_token_id = model.bos_token_id;
  // -1 is an old way to say that there is none.
  SA_ASSIGN_OR_RETURN(config.pad_token_id, fields.Int("pad_token_id", -1, kMaxTokenId));
  if (config.pad_token_id == -1) config.pad_token_id = std::nullopt;

  SA_ASSIGN_OR_RETURN(const std::optional<bool> do_sample, fields.Bool("do_sample"));
  config.do_sample = do_sample.value_or(false);
  SA_ASSIGN_OR_RETURN(const std::optional<double> temperature,
                      fields.Number("temperature", 0.0, 1e6));
  config.temperature = temperature.value_or(1.0);
  if (config.do_sample && config.temperature == 0.0) {
    return fields.Wrong("temperature", "must be > 0 where do_sample is true", config.temperature);
  }
  SA_ASSIGN_OR_RETURN(const std::optional<double> top_p, fields.Number("top_p", 0.0, 1.0));
  config.top_p = top_p.value_or(1.0);
  if (config.top_p == 0.0) return fields.Wrong("top_p", "must be > 0", config.top_p);
  SA_ASSIGN_OR_RETURN(const std::optional<int64_t> top_k, fields.Int("top_k", 0, kMaxTokenId));
  config.top_k = top_k.value_or(50);
  return config;
}

}  // namespace

absl::StatusOr<GenerationConfig> GenerationConfig::FromFolder(const std::string& folder,
                                                              const ModelConfig& model) {
  const std::string path = (std::filesystem::path(folder) / "generation_config.json").string();
  const absl::StatusOr<std::string> text = ReadBoundedFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return Parse("{}", model);
  SA_RETURN_IF_ERROR(text.status());
  absl::StatusOr<GenerationConfig> config = Parse(*text, model);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

absl::StatusOr<GenerationConfig> GenerationConfig::FromJson(absl::string_view json,
                                                            const ModelConfig& model) {
  absl::StatusOr<GenerationConfig> config = Parse(json, model);
  if (!config.ok()) return Annotate(config.status(), "generation_config.json");
  return config;
}

}  // namespace sparse_attention
