#include "sparse_attention/efficient_attention/engine_testing.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>

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
  item.sampled.weights->Weigh(item, &listed, 1, nullptr, 0, &members, bias, 1, dropped, item.arena);
  return members == 0 ? 0 : std::exp(-bias[row]);
}

// Collects what maskers choose in a step, float32 [batch, query heads, queries, keys].
class MaskObserver {
 public:
  MaskObserver(const PipelineConfig& config, const AttentionInputs& in)
      : in_(in),
        weights_(at::zeros({in.batch(), in.query_heads(), in.queries(), in.keys()}, at::kFloat)),
        seen_(static_cast<size_t>(in.batch() * in.kv_heads() * in.queries())) {
    for (int64_t head = 0; head < in.query_heads(); ++head) {
      const PipelineRule* rule = config.RuleFor(in.layer, head);
      const bool dense = rule == nullptr || rule->dense();
      chain_of_head_.push_back(dense ? kDense : static_cast<int>(rule - config.rules.data()));
    }
  }

  cpu::StepObserver observer() {
    return [this](const cpu::StepItem& item) { Observe(item); };
  }

  // `visible` as VisibleKeys: dense heads hold all of it.
  Mask Take(const std::optional<at::Tensor>& visible) {
    const at::Tensor all = visible.has_value() ? visible->to(at::kFloat).expand(weights_.sizes())
                                               : at::ones(weights_.sizes());
    for (int64_t head = 0; head < in_.query_heads(); ++head) {
      if (chain_of_head_[static_cast<size_t>(head)] == kDense) {
        weights_.select(1, head).copy_(all.select(1, head));
      }
    }
    return Mask::AdoptDense(weights_);
  }

 private:
  static constexpr int kDense = -1;

  // The item's chain: those of a group come in the order of their first heads.
  int ChainOf(const cpu::StepItem& item) {
    int& seen = seen_[static_cast<size_t>(
        (item.sequence * in_.kv_heads() + item.kv_head) * in_.queries() + item.query)];
    std::vector<int> chains;
    for (int row = 0; row < item.rows(); ++row) {
      const int chain = chain_of_head_[static_cast<size_t>(item.kv_head * item.rows() + row)];
      if (chain != kDense && std::find(chains.begin(), chains.end(), chain) == chains.end()) {
        chains.push_back(chain);
      }
    }
    return chains.at(static_cast<size_t>(seen++));
  }

  void Observe(const cpu::StepItem& item) {
    const std::lock_guard lock(mutex_);
    const cpu::HeldKeys& held = item.held;
    const int chain = ChainOf(item);
    for (int row = 0; row < item.rows(); ++row) {
      const int64_t head = item.kv_head * item.rows() + row;
      if (chain_of_head_[static_cast<size_t>(head)] != chain) continue;
      float* const out =
          weights_.data_ptr<float>() +
          ((item.sequence * in_.query_heads() + head) * in_.queries() + item.query) * in_.keys();
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
  }

  const AttentionInputs& in_;
  at::Tensor weights_;
  std::vector<int> chain_of_head_;
  std::vector<int> seen_;  // items by [sequence, KV head, query]
  std::mutex mutex_;
};

absl::StatusOr<PipelineConfig> ConfigOf(Json pipeline, const char* type) {
  pipeline["type"] = type;
  return PipelineFromJson(pipeline);
}

cpu::Element ElementOf(at::ScalarType type) {
  return type == at::kFloat  ? cpu::Element::kFloat32
         : type == at::kHalf ? cpu::Element::kFloat16
                             : cpu::Element::kBFloat16;
}

}  // namespace

absl::StatusOr<EfficientResult> RunEfficient(const EfficientAttention& attention,
                                             const AttentionInputs& in, AttentionSession* session,
                                             MetricSink* sink) {
  at::Tensor lse;
  MaskObserver mask(attention.config(), in);
  const cpu::StepObserver observe = mask.observer();
  SA_ASSIGN_OR_RETURN(const at::Tensor out, attention.Run(in, session, sink, &lse, &observe));
  return EfficientResult{out, lse, mask.Take(VisibleKeys(in))};
}

absl::StatusOr<std::unique_ptr<LayerUnderTest>> LayerUnderTest::Create(
    const Json& pipeline, const AttentionInputs& largest, const LayerTestOptions& options) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, ConfigOf(pipeline, "efficient"));
  SA_ASSIGN_OR_RETURN(const CpuPipeline planned, CpuPipeline::Create(config));
  EfficientLayerOptions plan;
  plan.shape = {
      ElementOf(largest.k.scalar_type()),        static_cast<int32_t>(largest.dim()),
      static_cast<int32_t>(largest.value_dim()), static_cast<int32_t>(largest.query_heads()),
      static_cast<int32_t>(largest.kv_heads()),  largest.layer};
  plan.sequences = largest.batch();
  plan.capacity = largest.keys();
  plan.threads = options.threads;
  SA_ASSIGN_OR_RETURN(cpu::CpuLayer layer, planned.Plan(plan, options.isa));
  return std::unique_ptr<LayerUnderTest>(new LayerUnderTest(config, options, std::move(layer)));
}

LayerUnderTest::LayerUnderTest(const PipelineConfig& config, const LayerTestOptions& options,
                               cpu::CpuLayer layer)
    : config_(config), options_(options), layer_(std::move(layer)), workers_(options.threads) {
  for (int t = 0; t < options.threads; ++t) arenas_.emplace_back(layer_.ScratchBytes());
}

void LayerUnderTest::Append(const AttentionInputs& in) {
  const int64_t bytes = static_cast<int64_t>(in.k.element_size());
  views_.resize(static_cast<size_t>(in.batch()));
  for (int64_t s = 0; s < in.batch(); ++s) {
    cpu::SequenceKv& kv = views_[static_cast<size_t>(s)];
    kv.k.base = static_cast<const char*>(in.k.const_data_ptr()) + s * in.k.stride(0) * bytes;
    kv.v.base = static_cast<const char*>(in.v.const_data_ptr()) + s * in.v.stride(0) * bytes;
    kv.k.row_stride = in.k.stride(2) * bytes;
    kv.v.row_stride = in.v.stride(2) * bytes;
    kv.k_head_stride = in.k.stride(1) * bytes;
    kv.v_head_stride = in.v.stride(1) * bytes;
    kv.begin = options_.padding.empty() ? 0 : options_.padding[static_cast<size_t>(s)];
    kv.length = in.keys();
  }
  layer_.Append(views_, workers_);
}

EfficientResult LayerUnderTest::Run(const AttentionInputs& in) {
  Append(in);
  const at::Tensor q = in.q.contiguous();
  const int64_t bytes = static_cast<int64_t>(q.element_size());
  at::Tensor out =
      at::empty({in.batch(), in.query_heads(), in.queries(), in.value_dim()}, q.options());
  at::Tensor lse = at::empty({in.batch(), in.query_heads(), in.queries()}, at::kFloat);
  at::Tensor sinks;
  cpu::StepInputs inputs;
  inputs.q = static_cast<const char*>(q.const_data_ptr());
  inputs.q_sequence_stride = q.stride(0) * bytes;
  inputs.q_head_stride = q.stride(1) * bytes;
  inputs.q_query_stride = q.stride(2) * bytes;
  inputs.queries = in.queries();
  inputs.sequences = views_;
  inputs.scale = static_cast<float>(in.effective_scale());
  inputs.softcap = static_cast<float>(in.softcap.value_or(0));
  inputs.sliding_window = in.sliding_window.value_or(0);
  if (in.sink_logits.has_value()) {
    sinks = in.sink_logits->to(at::kFloat).contiguous();
    inputs.sink_logits = sinks.const_data_ptr<float>();
  }
  cpu::StepOutputs outputs;
  outputs.out = static_cast<char*>(out.data_ptr());
  outputs.sequence_stride = out.stride(0) * bytes;
  outputs.head_stride = out.stride(1) * bytes;
  outputs.query_stride = out.stride(2) * bytes;
  outputs.lse = lse.data_ptr<float>();
  MaskObserver mask(config_, in);
  const cpu::StepObserver observe = mask.observer();
  layer_.Run(inputs, outputs, workers_, arenas_, nullptr, &observe);
  return {out, lse, mask.Take(VisibleKeys(WithPadding(in, options_.padding)))};
}

AttentionInputs WithPadding(const AttentionInputs& in, const std::vector<int64_t>& padding) {
  if (padding.empty()) return in;
  AttentionInputs padded = in;
  at::Tensor bias = at::zeros({in.batch(), 1, in.queries(), in.keys()}, at::kFloat);
  for (int64_t s = 0; s < in.batch(); ++s) {
    const int64_t length = std::min(in.keys(), padding[static_cast<size_t>(s)]);
    bias.select(0, s).narrow(2, 0, length).fill_(-std::numeric_limits<float>::infinity());
  }
  padded.bias = bias;
  return padded;
}

absl::StatusOr<std::unique_ptr<const EfficientAttention>> EfficientFromJson(Json pipeline) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, ConfigOf(std::move(pipeline), "efficient"));
  return EfficientAttention::Create(config);
}

absl::StatusOr<std::unique_ptr<const ResearchAttention>> ResearchFromJson(Json pipeline) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, ConfigOf(std::move(pipeline), "research"));
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
