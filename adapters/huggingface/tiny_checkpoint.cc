#include "adapters/huggingface/tiny_checkpoint.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/huggingface/model_config.h"
#include "adapters/huggingface/tokenizer_byte_level.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/safetensors/safetensors_writer.h"

namespace sparse_attention {
namespace {

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  return file.flush() ? absl::OkStatus() : absl::UnavailableError("cannot write " + path);
}

using NamedShape = std::pair<std::string, std::vector<int64_t>>;

std::vector<NamedShape> Parameters(const ModelConfig& c) {
  std::vector<NamedShape> all = {{"model.embed_tokens.weight", {c.vocab_size, c.hidden_size}},
                                 {"model.norm.weight", {c.hidden_size}}};
  if (!c.tie_word_embeddings) all.push_back({"lm_head.weight", {c.vocab_size, c.hidden_size}});
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const auto linear = [&](const char* name, int64_t out, int64_t in, bool bias) {
      all.push_back({absl::StrCat(prefix, name, ".weight"), {out, in}});
      if (bias) all.push_back({absl::StrCat(prefix, name, ".bias"), {out}});
    };
    const int64_t q_size = c.num_heads * c.head_dim;
    const int64_t kv_size = c.num_kv_heads * c.head_dim;
    linear("self_attn.q_proj", q_size, c.hidden_size, c.qkv_bias);
    linear("self_attn.k_proj", kv_size, c.hidden_size, c.qkv_bias);
    linear("self_attn.v_proj", kv_size, c.hidden_size, c.qkv_bias);
    linear("self_attn.o_proj", c.hidden_size, q_size, c.o_bias);
    linear("mlp.gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear("mlp.up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias);
    linear("mlp.down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias);
    all.push_back({prefix + "input_layernorm.weight", {c.hidden_size}});
    all.push_back({prefix + "post_attention_layernorm.weight", {c.hidden_size}});
    if (c.qk_norm) {
      all.push_back({prefix + "self_attn.q_norm.weight", {c.head_dim}});
      all.push_back({prefix + "self_attn.k_norm.weight", {c.head_dim}});
    }
  }
  return all;
}

}  // namespace

Json TinyConfig(const Json& changes) {
  Json config = {{"model_type", "llama"},
                 {"vocab_size", 264},
                 {"hidden_size", 32},
                 {"intermediate_size", 48},
                 {"num_hidden_layers", 3},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"head_dim", 8},
                 {"max_position_embeddings", 1024},
                 {"rms_norm_eps", 1e-6},
                 {"eos_token_id", kTinyEos},
                 {"bos_token_id", kTinyBos}};
  config.update(changes);
  return config;
}

absl::Status WriteTinyCheckpoint(const std::string& folder, const Json& config, uint64_t seed) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return absl::UnavailableError(absl::StrCat(folder, ": ", error.message()));
  SA_RETURN_IF_ERROR(WriteText(folder + "/config.json", DumpJson(config, 2)));
  SA_ASSIGN_OR_RETURN(const ModelConfig model, ModelConfig::FromJson(DumpJson(config)));
  const bool half = model.dtype == "bfloat16";
  RandomTensors random(seed);
  std::vector<at::Tensor> tensors;  // own what the views point to
  std::vector<TensorView> views;
  for (const auto& [name, shape] : Parameters(model)) {
    const at::ScalarType type = half ? at::kBFloat16 : at::kFloat;
    const bool norm = absl::StrContains(name, "norm.weight");
    tensors.push_back(norm ? random.Uniform(shape, 0.5, 1.5, type)
                           : random.Normal(shape, type, 0.3));
    TensorView view;
    view.name = name;
    view.dtype = half ? SafetensorsDtype::kBF16 : SafetensorsDtype::kF32;
    view.shape = shape;
    view.data = static_cast<const std::byte*>(tensors.back().const_data_ptr());
    view.bytes = tensors.back().nbytes();
    views.push_back(view);
  }
  return WriteSafetensors(folder + "/model.safetensors", std::move(views));
}

absl::Status WriteTinyTokenizer(const std::string& folder) {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocab[std::string(ByteLevelCharacter(static_cast<uint8_t>(byte)))] = byte;
  }
  const auto special = [](int32_t id, const char* content) {
    return Json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  const Json bos = {{"SpecialToken", {{"id", "<bos>"}, {"type_id", 0}}}};
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json tokenizer = {
      {"added_tokens", Json::array({special(kTinyBos, "<bos>"), special(kTinyEos, "<eos>")})},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", Json::array({bos, text})},
        {"special_tokens",
         {{"<bos>",
           {{"id", "<bos>"},
            {"ids", Json::array({kTinyBos})},
            {"tokens", Json::array({"<bos>"})}}}}}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"vocab", vocab},
        {"merges", Json::array()}}}};
  return WriteText(folder + "/tokenizer.json", DumpJson(tokenizer));
}

}  // namespace sparse_attention
