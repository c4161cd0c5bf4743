#include "sparse_attention/efficient_attention/engine_testing.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/tensor_check.h"

namespace sparse_attention {
namespace {

// The inclusion probability of a key that the row's set sampled, 0 where it is dropped.
float SampleWeight(const cpu::StepItem& item, int row, int64_t key) {
  if (item.sampled.weights == nullptr) return std::exp(-item.sampled.bias[item.set_of(row)]);
  const uint32_t listed = static_cast<uint32_t>(key);
  uint16_t members = static_cast<uint16_t>(1u << row);
  float bias[cpu::kMostGroup] = {};
  int64_t dropped[cpu::kMostGroup] = {};
  item.sampled.weights->Weigh(item, &listed, 1, &members, bias, 1, dropped, item.arena);
  return members == 0 ? 0 : std::exp(-bias[row]);
}

}  // namespace

absl::StatusOr<EfficientResult> RunEfficient(const EfficientAttention& attention,
                                             const AttentionInputs& in, AttentionSession* session) {
  at::Tensor lse,
      weights = at::zeros({in.batch(), in.query_heads(), in.queries(), in.keys()}, at::kFloat);
  float* const all = weights.data_ptr<float>();
  std::mutex mutex;
  const cpu::StepObserver observe = [&](const cpu::StepItem& item) {
    const std::lock_guard lock(mutex);
    const cpu::HeldKeys& held = item.held;
    for (int row = 0; row < item.rows(); ++row) {
      const int64_t head = item.kv_head * item.rows() + row;
      float* const out =
          all + ((item.sequence * in.query_heads() + head) * in.queries() + item.query) * in.keys();
      const int set = item.set_of(row);
      for (int64_t key = held.first(); key < held.end(); ++key) {
        const bool open = key >= held.open_begin() && key < held.open_end();
        if (!open || (held.bits(set) != nullptr && cpu::TestBit(held.bits(set), key))) {
          out[key] = 1;
        } else if (item.sampled.any && cpu::TestBit(item.sampled.bits[set], key)) {
          out[key] = SampleWeight(item, row, key);
        }
      }
    }
  };
  SA_ASSIGN_OR_RETURN(at::Tensor out, attention.Run(in, session, nullptr, &lse, &observe));
  if (attention.IsDense(in.layer, in.query_heads())) {
    const auto visible = VisibleKeys(in);
    weights = visible.has_value() ? visible->to(at::kFloat).expand(weights.sizes()).contiguous()
                                  : at::ones(weights.sizes());
  }
  return EfficientResult{out, lse, Mask::AdoptDense(weights)};
}

absl::StatusOr<std::unique_ptr<const EfficientAttention>> EfficientFromJson(Json pipeline) {
  pipeline["type"] = "efficient";
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, PipelineFromJson(pipeline));
  return EfficientAttention::Create(config);
}

absl::StatusOr<std::unique_ptr<const ResearchAttention>> ResearchFromJson(Json pipeline) {
  pipeline["type"] = "research";
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, PipelineFromJson(pipeline));
  return ResearchAttention::Create(config);
}

at::Tensor VisibleWeights(const AttentionInputs& in, const Mask& mask) {
  const auto visible = VisibleKeys(in);
  const at::Tensor weights = mask.ToDense();
  return visible.has_value() ? weights.mul(visible->to(at::kFloat)) : weights;
}

EngineCase MakeEngineCase(uint64_t seed, at::ScalarType type, int64_t most_keys) {
  RandomTensors random(seed);
  const int64_t batch = random.Integer(1, 3), kv_heads = random.Integer(1, 3);
  const int64_t heads = kv_heads * random.OneOf<int64_t>({1, 2, 4, 7, 16});
  const int64_t queries = random.Chance(0.6) ? 1 : random.OneOf<int64_t>({2, 5, 17});
  const int64_t keys =
      queries + (random.Chance(0.2) ? random.Integer(0, 40) : random.Integer(41, most_keys));
  const int64_t dim = random.OneOf<int64_t>({32, 64, 80, 128, 256});
  const int64_t value_dim = random.Chance(0.7) ? dim : random.OneOf<int64_t>({32, 72, 128});
  EngineCase result;
  AttentionInputs& in = result.inputs;
  in.q = random.Normal({batch, heads, queries, dim}, type);
  in.k = random.Normal({batch, kv_heads, keys, dim}, type);
  in.v = random.Normal({batch, kv_heads, keys, value_dim}, type);
  if (random.Chance(0.3)) {  // as caches of [batch, tokens, heads, dim] hand them over
    in.k = in.k.transpose(1, 2).contiguous().transpose(1, 2);
    in.v = in.v.transpose(1, 2).contiguous().transpose(1, 2);
  }
  in.causal = queries > 1 || random.Chance(0.5);
  in.layer = random.Integer(0, 3);
  std::string& text = result.text;
  text = absl::StrCat("seed ", seed, ": q ", DescribeTensor(in.q), ", v ", DescribeTensor(in.v),
                      ", layer ", in.layer);
  if (random.Chance(0.2)) {
    in.scale = random.Real(-0.5, 0.5);
    absl::StrAppend(&text, ", scale ", *in.scale);
  }
  if (random.Chance(0.2)) {
    in.softcap = random.Real(0.5, 5);
    absl::StrAppend(&text, ", softcap ", *in.softcap);
  }
  if (random.Chance(0.2)) {
    in.sink_logits = random.Normal({heads}, type, 2);
    absl::StrAppend(&text, ", sinks");
  }
  if (random.Chance(0.2)) {
    in.sliding_window = random.Integer(1, keys);
    absl::StrAppend(&text, ", window ", *in.sliding_window);
  }
  return result;
}

}  // namespace sparse_attention
