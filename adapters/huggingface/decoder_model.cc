#include "adapters/huggingface/decoder_model.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/silu.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/cuda_runtime.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

absl::StatusOr<std::optional<at::ScalarType>> ParseDtype(const std::string& dtype) {
  if (dtype == "auto") return std::nullopt;
  if (dtype == "float32") return at::kFloat;
  if (dtype == "bfloat16") return at::kBFloat16;
  return absl::InvalidArgumentError(
      absl::StrCat("dtype must be auto, float32 or bfloat16, got \"", dtype, "\""));
}

// Tries the device, so that a missing one is found before the weights are read.
absl::StatusOr<at::Device> ParseDevice(const std::string& name) {
  absl::StatusOr<at::Device> device = CatchTorch([&]() -> absl::StatusOr<at::Device> {
    const at::Device parsed(name);
    if (!parsed.is_cpu() && !parsed.is_cuda()) {
      return absl::UnimplementedError("only cpu and cuda are supported");
    }
    return parsed;
  });
  if (device.status().code() == absl::StatusCode::kInternal) {
    return absl::InvalidArgumentError(
        absl::StrCat("device must be cpu, cuda or cuda:N, got \"", name, "\""));
  }
  if (!device.ok()) return Annotate(device.status(), absl::StrCat("device \"", name, "\""));
  const absl::Status usable = CatchTorch([&]() -> absl::Status {
    if (device->is_cuda()) SA_RETURN_IF_ERROR(LoadCuda());
    at::empty({1}, at::TensorOptions().device(*device));
    return absl::OkStatus();
  });
  if (!usable.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("device \"", name, "\" cannot be used: ", usable.message()));
  }
  return device;
}

at::Tensor Linear(const at::Tensor& x, const LinearWeights& w) {
  return at::linear(x, w.weight, w.bias);
}

// x / rms(x) * weight over the last dimension; rounded to the model's type before the product with
// the weight, as transformers does.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = wide.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
  return wide.mul(scale).to(x.scalar_type()).mul_(weight);
}

// [tokens, heads * head dim] -> [1, heads, tokens, head dim], a view.
at::Tensor SplitHeads(const at::Tensor& x, int64_t head_dim) {
  return x.view({1, x.size(0), x.size(1) / head_dim, head_dim}).transpose(1, 2);
}

at::Tensor Mlp(const LayerWeights& w, const at::Tensor& x) {
  at::Tensor gate = Linear(x, w.gate);
  at::silu_(gate);
  return Linear(gate.mul_(Linear(x, w.up)), w.down);
}

}  // namespace

DecoderModel::DecoderModel(const ModelConfig& config, DecoderWeights weights)
    : config_(config),
      weights_(std::move(weights)),
      rotary_(config.rope, config.head_dim, weights_.embedding.device()) {}

absl::StatusOr<std::unique_ptr<const DecoderModel>> DecoderModel::Load(
    const std::string& folder, const DecoderOptions& options) {
  SA_ASSIGN_OR_RETURN(const std::optional<at::ScalarType> type, ParseDtype(options.dtype));
  SA_ASSIGN_OR_RETURN(const at::Device device, ParseDevice(options.device));
  SA_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::FromFile(folder + "/config.json"));
  SA_ASSIGN_OR_RETURN(const auto files, Checkpoint::Open(folder));
  SA_ASSIGN_OR_RETURN(DecoderWeights weights, LoadDecoderWeights(files, config, type, device));
  return CatchTorch([&]() -> absl::StatusOr<std::unique_ptr<const DecoderModel>> {
    return std::unique_ptr<const DecoderModel>(new DecoderModel(config, std::move(weights)));
  });
}

absl::StatusOr<KvCache> DecoderModel::NewCache(int64_t capacity) const {
  return KvCache::Create({config_.num_layers, config_.num_kv_heads, config_.head_dim}, capacity,
                         type(), device());
}

absl::StatusOr<at::Tensor> DecoderModel::Attention(int64_t layer, const at::Tensor& x,
                                                   const RotaryTable& table, KvCache* cache,
                                                   int64_t first,
                                                   const AttentionFunction& attention) const {
  const LayerWeights& w = weights_.layers[layer];
  const int64_t tokens = x.size(0);
  SA_ASSIGN_OR_RETURN(at::Tensor new_k, cache->NewKeys(layer, tokens));
  SA_ASSIGN_OR_RETURN(at::Tensor new_v, cache->NewValues(layer, tokens));
  at::Tensor q = SplitHeads(Linear(x, w.q), config_.head_dim);
  at::Tensor k = SplitHeads(Linear(x, w.k), config_.head_dim);
  if (config_.qk_norm) {
    q = RmsNorm(q, w.q_norm, config_.rms_norm_eps);
    k = RmsNorm(k, w.k_norm, config_.rms_norm_eps);
  }
  new_v.copy_(SplitHeads(Linear(x, w.v), config_.head_dim));
  ApplyRotary(k, table, new_k);
  AttentionInputs inputs;
  inputs.q = at::empty_like(q);
  ApplyRotary(q, table, inputs.q);
  inputs.k = cache->Keys(layer, first + tokens);
  inputs.v = cache->Values(layer, first + tokens);
  inputs.causal = true;
  inputs.layer = layer;
  inputs.first_query_position = first;
  if (config_.sliding_windows[layer] > 0) inputs.sliding_window = config_.sliding_windows[layer];
  SA_ASSIGN_OR_RETURN(const at::Tensor out, attention(inputs));
  if (out.sizes() != inputs.q.sizes() || out.scalar_type() != type()) {
    return absl::InternalError(absl::StrCat("the attention function returned ", out.toString(),
                                            " of another shape or type than its queries"));
  }
  return Linear(out.transpose(1, 2).reshape({tokens, config_.num_heads * config_.head_dim}), w.o);
}

absl::StatusOr<at::Tensor> DecoderModel::Pass(absl::Span<const int32_t> tokens,
                                              int64_t sequence_length, KvCache* cache,
                                              const AttentionFunction& attention) const {
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t first = cache->length();
  const at::Tensor ids = at::from_blob(const_cast<int32_t*>(tokens.data()), {count}, at::kInt);
  at::Tensor x = at::embedding(weights_.embedding, ids.to(device()));
  const RotaryTable table = rotary_.Table(first, count, sequence_length, type());
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    const LayerWeights& w = weights_.layers[layer];
    SA_ASSIGN_OR_RETURN(const at::Tensor attended,
                        Attention(layer, RmsNorm(x, w.input_norm, config_.rms_norm_eps), table,
                                  cache, first, attention));
    x.add_(attended);
    x.add_(Mlp(w, RmsNorm(x, w.post_attention_norm, config_.rms_norm_eps)));
  }
  cache->Advance(count);
  return x;
}

absl::StatusOr<at::Tensor> DecoderModel::Forward(absl::Span<const int32_t> tokens, KvCache* cache,
                                                 const AttentionFunction& attention,
                                                 const ForwardOptions& options) const {
  if (tokens.empty()) return absl::InvalidArgumentError("there must be at least one token");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= config_.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("tokens[", i, "] must be in [0, ",
                                                     config_.vocab_size, "), got ", tokens[i]));
    }
  }
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t before = cache->length();
  const int64_t piece = options.tokens_per_pass > 0 ? options.tokens_per_pass : count;
  const int64_t wanted = std::min(std::max<int64_t>(options.logits, 0), count);
  absl::StatusOr<at::Tensor> logits = CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    std::vector<at::Tensor> rows;
    for (int64_t begin = 0; begin < count; begin += piece) {
      const int64_t length = std::min(piece, count - begin);
      SA_ASSIGN_OR_RETURN(const at::Tensor x,
                          Pass(tokens.subspan(begin, length), before + count, cache, attention));
      const int64_t keep = std::min(length, begin + length - (count - wanted));
      if (keep <= 0) continue;
      const at::Tensor normed =
          RmsNorm(x.narrow(0, length - keep, keep), weights_.final_norm, config_.rms_norm_eps);
      rows.push_back(at::linear(normed, weights_.lm_head).to(at::kFloat));
    }
    if (rows.empty()) {
      return at::empty({0, config_.vocab_size},
                       at::TensorOptions().dtype(at::kFloat).device(device()));
    }
    return rows.size() == 1 ? rows[0] : at::cat(rows, 0);
  });
  if (!logits.ok()) SA_CHECK_OK(cache->Truncate(before));
  return logits;
}

}  // namespace sparse_attention
