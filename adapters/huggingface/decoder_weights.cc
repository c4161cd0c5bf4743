#include "adapters/huggingface/decoder_weights.h"

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/base/torch_status.h"
#include "sparse_attention/safetensors/tensor_of_view.h"

namespace sparse_attention {
namespace {

class Loader {
 public:
  Loader(const std::shared_ptr<const Checkpoint>& files, std::optional<at::ScalarType> type,
         at::Device device)
      : files_(files), type_(type), device_(device) {}

  absl::Status Read(const std::string& name, const std::vector<int64_t>& shape, at::Tensor* out) {
    SA_ASSIGN_OR_RETURN(const TensorView view, files_->Get(name));
    const std::string where = absl::StrCat(files_->FileOf(name), ": tensor ", name);
    if (view.shape != shape) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": config.json asks for shape [",
                                                     absl::StrJoin(shape, ", "), "], got [",
                                                     absl::StrJoin(view.shape, ", "), "]"));
    }
    const absl::StatusOr<at::Tensor> mapped = TensorOfView(view, files_);
    if (!mapped.ok()) return Annotate(mapped.status(), where);
    if (!type_.has_value()) type_ = mapped->scalar_type();
    *out = mapped->to(device_, *type_);
    return absl::OkStatus();
  }

  absl::Status ReadLinear(const std::string& name, int64_t out_size, int64_t in_size, bool bias,
                          LinearWeights* out) {
    SA_RETURN_IF_ERROR(Read(name + ".weight", {out_size, in_size}, &out->weight));
    if (!bias) return absl::OkStatus();
    return Read(name + ".bias", {out_size}, &out->bias.emplace());
  }

  absl::Status ReadLayer(int64_t index, const ModelConfig& c, LayerWeights* out) {
    const std::string prefix = absl::StrCat("model.layers.", index, ".");
    const int64_t q_size = c.num_heads * c.head_dim;
    const int64_t kv_size = c.num_kv_heads * c.head_dim;
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    SA_RETURN_IF_ERROR(Read(prefix + "input_layernorm.weight", {c.hidden_size}, &out->input_norm));
    SA_RETURN_IF_ERROR(
        ReadLinear(attention + "q_proj", q_size, c.hidden_size, c.qkv_bias, &out->q));
    SA_RETURN_IF_ERROR(
        ReadLinear(attention + "k_proj", kv_size, c.hidden_size, c.qkv_bias, &out->k));
    SA_RETURN_IF_ERROR(
        ReadLinear(attention + "v_proj", kv_size, c.hidden_size, c.qkv_bias, &out->v));
    SA_RETURN_IF_ERROR(ReadLinear(attention + "o_proj", c.hidden_size, q_size, c.o_bias, &out->o));
    if (c.qk_norm) {
      SA_RETURN_IF_ERROR(Read(attention + "q_norm.weight", {c.head_dim}, &out->q_norm));
      SA_RETURN_IF_ERROR(Read(attention + "k_norm.weight", {c.head_dim}, &out->k_norm));
    }
    SA_RETURN_IF_ERROR(Read(prefix + "post_attention_layernorm.weight", {c.hidden_size},
                            &out->post_attention_norm));
    SA_RETURN_IF_ERROR(
        ReadLinear(mlp + "gate_proj", c.intermediate_size, c.hidden_size, c.mlp_bias, &out->gate));
    SA_RETURN_IF_ERROR(
        ReadLinear(mlp + "up_proj", c.intermediate_size, c.hidden_size, c.mlp_bias, &out->up));
    return ReadLinear(mlp + "down_proj", c.hidden_size, c.intermediate_size, c.mlp_bias,
                      &out->down);
  }

 private:
  const std::shared_ptr<const Checkpoint>& files_;
  std::optional<at::ScalarType> type_;
  const at::Device device_;
};

}  // namespace

absl::StatusOr<DecoderWeights> LoadDecoderWeights(const std::shared_ptr<const Checkpoint>& files,
                                                  const ModelConfig& config,
                                                  std::optional<at::ScalarType> type,
                                                  at::Device device) {
  return CatchTorch([&]() -> absl::StatusOr<DecoderWeights> {
    Loader loader(files, type, device);
    DecoderWeights weights;
    const std::vector<int64_t> vocabulary = {config.vocab_size, config.hidden_size};
    SA_RETURN_IF_ERROR(loader.Read("model.embed_tokens.weight", vocabulary, &weights.embedding));
    weights.layers.resize(config.num_layers);
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      SA_RETURN_IF_ERROR(loader.ReadLayer(layer, config, &weights.layers[layer]));
    }
    SA_RETURN_IF_ERROR(loader.Read("model.norm.weight", {config.hidden_size}, &weights.final_norm));
    if (config.tie_word_embeddings) {
      weights.lm_head = weights.embedding;
    } else {
      SA_RETURN_IF_ERROR(loader.Read("lm_head.weight", vocabulary, &weights.lm_head));
    }
    return weights;
  });
}

}  // namespace sparse_attention
