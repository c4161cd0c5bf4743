#include "sparse_attention/efficient_attention/efficient_attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"
#include "sparse_attention/efficient_attention/cpu/key_guard.h"
#include "sparse_attention/efficient_attention/cpu_twins.h"
#include "sparse_attention/efficient_attention/efficient_metrics.h"
#include "sparse_attention/research_attention/maskers/registry.h"

namespace sparse_attention {
namespace {

constexpr int64_t kLeastCapacity = 1024;

// The threads of this process and their scratch memory; steps of different sessions take turns.
struct Threads {
  std::mutex turn;
  std::unique_ptr<cpu::Workers> workers;
  std::vector<cpu::Arena> arenas;

  // Called with `turn` held.
  void Prepare(size_t scratch_bytes) {
    const int count = at::get_num_threads();
    if (workers == nullptr || workers->threads() != count) {
      workers = std::make_unique<cpu::Workers>(count);
    }
    if (static_cast<int>(arenas.size()) != count ||
        (!arenas.empty() && arenas[0].capacity() < scratch_bytes)) {
      arenas.clear();
      for (int i = 0; i < count; ++i) arenas.emplace_back(scratch_bytes);
    }
  }
};

Threads& ProcessThreads() {
  static Threads* const threads = new Threads;
  return *threads;
}

absl::StatusOr<cpu::Element> ElementOf(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return cpu::Element::kFloat32;
    case at::kHalf:
      return cpu::Element::kFloat16;
    case at::kBFloat16:
      return cpu::Element::kBFloat16;
    default:
      return absl::UnimplementedError(absl::StrCat(
          "the efficient engine supports float32, float16 and bfloat16, got ", at::toString(type)));
  }
}

// The efficient engine's own limits, for inputs that are valid.
absl::Status CheckSupported(const AttentionInputs& in) {
  const auto error = [](absl::string_view what, absl::string_view supported, const auto& got) {
    return absl::UnimplementedError(
        absl::StrCat("the efficient engine needs ", what, " ", supported, ", got ", got));
  };
  if (!in.q.device().is_cpu()) return error("tensors", "on the CPU", in.q.device().str());
  if (in.bias.has_value()) {
    return error("inputs", "without an additive bias", DescribeTensor(*in.bias));
  }
  if (!in.causal && in.queries() > 1)
    return error("several queries", "to be causal", "causal false");
  if (in.first_query_position.has_value() && *in.first_query_position != in.keys() - in.queries()) {
    return error("queries", "to be the last of the keys",
                 absl::StrCat("first_query_position ", *in.first_query_position, " with ",
                              in.keys(), " keys and ", in.queries(), " queries"));
  }
  for (const at::Tensor* x : {&in.k, &in.v}) {
    if (x->stride(3) != 1) {
      return error("rows of keys and values", "to lie side by side", DescribeTensor(*x));
    }
  }
  return absl::OkStatus();
}

cpu::SequenceKv ViewOf(const AttentionInputs& in, int64_t sequence) {
  const int64_t bytes = static_cast<int64_t>(in.k.element_size());
  cpu::SequenceKv kv;
  kv.k.base = static_cast<const char*>(in.k.const_data_ptr()) + sequence * in.k.stride(0) * bytes;
  kv.v.base = static_cast<const char*>(in.v.const_data_ptr()) + sequence * in.v.stride(0) * bytes;
  kv.k.row_stride = in.k.stride(2) * bytes;
  kv.v.row_stride = in.v.stride(2) * bytes;
  kv.k_head_stride = in.k.stride(1) * bytes;
  kv.v_head_stride = in.v.stride(1) * bytes;
  kv.length = in.keys();
  return kv;
}

}  // namespace

class EfficientAttention::LayerState : public LayerMemory {
 public:
  LayerState(const EfficientLayerOptions& options, cpu::CpuLayer layer)
      : options_(options), layer_(std::move(layer)) {
    const int64_t row_bytes = options.shape.dim * cpu::ElementBytes(options.shape.element);
    for (int64_t s = 0; s < options.sequences; ++s) {
      guards_.emplace_back(options.capacity, row_bytes);
    }
    views_.resize(static_cast<size_t>(options.sequences));
  }

  bool Fits(const EfficientLayerOptions& needed) const {
    const cpu::LayerShape &a = options_.shape, &b = needed.shape;
    return a.element == b.element && a.dim == b.dim && a.value_dim == b.value_dim &&
           a.query_heads == b.query_heads && a.kv_heads == b.kv_heads && a.layer == b.layer &&
           options_.sequences == needed.sequences && needed.capacity <= options_.capacity;
  }

  void Cover(const AttentionInputs& in, cpu::Workers& workers) {
    for (int64_t s = 0; s < options_.sequences; ++s) {
      cpu::SequenceKv& view = views_[static_cast<size_t>(s)];
      view = ViewOf(in, s);
      cpu::KeyGuard& guard = guards_[static_cast<size_t>(s)];
      const int64_t covered = guard.covered();
      const int64_t unchanged = guard.Update(view.k, view.length);
      if (unchanged < covered) layer_.Truncate(s, unchanged);
    }
    layer_.Append(views_, workers);
  }

  void KeepAsPrefix() { prefix_ = views_.empty() ? 0 : views_[0].length; }
  void Rewind() override {
    for (int64_t s = 0; s < options_.sequences; ++s) {
      cpu::KeyGuard& guard = guards_[static_cast<size_t>(s)];
      if (guard.covered() <= prefix_) continue;
      guard.Truncate(prefix_);
      layer_.Truncate(s, prefix_);
    }
  }

  const cpu::CpuLayer& layer() const { return layer_; }
  const std::vector<cpu::SequenceKv>& views() const { return views_; }

 private:
  EfficientLayerOptions options_;
  cpu::CpuLayer layer_;
  std::vector<cpu::KeyGuard> guards_;
  std::vector<cpu::SequenceKv> views_;
  int64_t prefix_ = 0;
};

absl::StatusOr<std::unique_ptr<const EfficientAttention>> EfficientAttention::Create(
    const PipelineConfig& config) {
  if (config.type != EngineType::kEfficient) {
    return absl::InvalidArgumentError(
        "pipeline.type must be \"efficient\" for the efficient engine, got \"research\"");
  }
  std::unique_ptr<EfficientAttention> attention(new EfficientAttention(config));
  for (size_t rule = 0; rule < config.rules.size(); ++rule) {
    cpu::MaskerChain chain;
    std::string sampler;
    for (size_t i = 0; i < config.rules[rule].maskers.size(); ++i) {
      const Json& entry = config.rules[rule].maskers[i];
      const std::string path = MaskerPath(config, rule, i);
      auto twin = CpuTwin(entry);
      if (!twin.ok()) return Annotate(twin.status(), path);
      SA_ASSIGN_OR_RETURN(const MaskerDescriptor* descriptor,
                          FindMasker(entry["type"].get<std::string>()));
      if (!sampler.empty()) {
        return absl::UnimplementedError(absl::StrCat(
            path, ": in the efficient engine nothing may follow a sampling masker, got ",
            descriptor->name, " behind ", sampler));
      }
      if (descriptor->kind == MaskerKind::kSampling) sampler = descriptor->name;
      if (descriptor->scoring_reads == ScoringReads::kAllKeys) attention->is_oracle_ = true;
      chain.push_back(*std::move(twin));
    }
    attention->chains_.push_back(std::move(chain));
  }
  return attention;
}

cpu::LayerPipeline EfficientAttention::PipelineOf(int64_t layer, int64_t query_heads) const {
  cpu::LayerPipeline pipeline;
  std::vector<int> chain_of_rule(config_.rules.size(), -1);
  for (int64_t head = 0; head < query_heads; ++head) {
    const PipelineRule* rule = config_.RuleFor(layer, head);
    if (rule == nullptr || rule->dense()) {
      pipeline.chain_of_head.push_back(cpu::LayerPipeline::kDense);
      continue;
    }
    const size_t index = static_cast<size_t>(rule - config_.rules.data());
    if (chain_of_rule[index] < 0) {
      chain_of_rule[index] = static_cast<int>(pipeline.chains.size());
      pipeline.chains.push_back(chains_[index]);
    }
    pipeline.chain_of_head.push_back(chain_of_rule[index]);
  }
  return pipeline;
}

bool EfficientAttention::IsDense(int64_t layer, int64_t query_heads) const {
  return PipelineOf(layer, query_heads).chains.empty();
}

absl::StatusOr<cpu::CpuLayer> EfficientAttention::Plan(const EfficientLayerOptions& options) const {
  const cpu::LayerShape& shape = options.shape;
  const auto limit = [](absl::string_view what, int64_t most, int64_t got) {
    return absl::UnimplementedError(
        absl::StrCat("the efficient engine supports ", what, " from 1 to ", most, ", got ", got));
  };
  if (shape.dim < 1 || shape.dim > cpu::kMaxDim) return limit("a dim", cpu::kMaxDim, shape.dim);
  if (shape.value_dim < 1 || shape.value_dim > cpu::kMaxDim) {
    return limit("a value dim", cpu::kMaxDim, shape.value_dim);
  }
  constexpr int64_t kMostKeys = (int64_t{1} << 31) - 1;
  if (options.capacity < 0 || options.capacity > kMostKeys) {
    return limit("a number of keys", kMostKeys, options.capacity);
  }
  cpu::StepPlan plan;
  plan.shape = shape;
  plan.sequences = options.sequences;
  plan.capacity = options.capacity;
  plan.seed = config_.seed;
  plan.by_group = config_.selection == Selection::kKvGroup;
  plan.reduce = config_.group_reduce == GroupReduce::kMax    ? cpu::StepPlan::Reduce::kMax
                : config_.group_reduce == GroupReduce::kMean ? cpu::StepPlan::Reduce::kMean
                                                             : cpu::StepPlan::Reduce::kSum;
  plan.isa = cpu::BestIsa();
  plan.attention = cpu::AttentionKernelsFor(plan.isa);
  plan.bitmap = cpu::BitmapKernelsFor(plan.isa);
  return cpu::CpuLayer::Create(plan, PipelineOf(shape.layer, shape.query_heads));
}

absl::StatusOr<EfficientAttention::LayerState*> EfficientAttention::Update(
    const AttentionInputs& in, AttentionSession* session) const {
  SA_ASSIGN_OR_RETURN(const cpu::Element element, ElementOf(in.k.scalar_type()));
  EfficientLayerOptions options;
  options.shape = {element,
                   static_cast<int32_t>(in.dim()),
                   static_cast<int32_t>(in.value_dim()),
                   static_cast<int32_t>(in.query_heads()),
                   static_cast<int32_t>(in.kv_heads()),
                   in.layer};
  options.sequences = in.batch();
  options.capacity = in.keys();
  std::unique_ptr<LayerMemory>& memory = session->MemoryFor(in.layer);
  auto* state = dynamic_cast<LayerState*>(memory.get());
  if (state == nullptr || !state->Fits(options)) {
    // Room for what is appended, so that a plan is made again only after the keys have doubled.
    options.capacity = std::max(kLeastCapacity, 2 * in.keys());
    SA_ASSIGN_OR_RETURN(cpu::CpuLayer layer, Plan(options));
    memory = std::make_unique<LayerState>(options, std::move(layer));
    state = static_cast<LayerState*>(memory.get());
  }
  return state;
}

absl::Status EfficientAttention::Prepare(const AttentionInputs& inputs,
                                         AttentionSession* session) const {
  SA_RETURN_IF_ERROR(ValidateInputs(inputs));
  SA_RETURN_IF_ERROR(CheckSupported(inputs));
  if (inputs.batch() == 0 || IsDense(inputs.layer, inputs.query_heads())) return absl::OkStatus();
  SA_ASSIGN_OR_RETURN(LayerState * state, Update(inputs, session));
  Threads& threads = ProcessThreads();
  const std::lock_guard lock(threads.turn);
  threads.Prepare(state->layer().ScratchBytes());
  state->Cover(inputs, *threads.workers);
  state->KeepAsPrefix();
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> EfficientAttention::Run(const AttentionInputs& in,
                                                   AttentionSession* session, MetricSink* sink,
                                                   at::Tensor* lse,
                                                   const cpu::StepObserver* observe) const {
  SA_RETURN_IF_ERROR(ValidateInputs(in));
  SA_RETURN_IF_ERROR(CheckSupported(in));
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    const std::vector<int64_t> rows = {in.batch(), in.query_heads(), in.queries()};
    at::Tensor out = at::empty({rows[0], rows[1], rows[2], in.value_dim()}, in.q.options());
    at::Tensor of_rows = at::empty(rows, in.q.options().dtype(at::kFloat));
    if (of_rows.numel() > 0) {
      SA_ASSIGN_OR_RETURN(LayerState * state, Update(in, session));
      const at::Tensor q = in.q.stride(3) == 1 ? in.q : in.q.contiguous();
      const int64_t bytes = static_cast<int64_t>(q.element_size());
      cpu::StepInputs inputs;
      inputs.q = static_cast<const char*>(q.const_data_ptr());
      inputs.q_sequence_stride = q.stride(0) * bytes;
      inputs.q_head_stride = q.stride(1) * bytes;
      inputs.q_query_stride = q.stride(2) * bytes;
      inputs.queries = in.queries();
      inputs.scale = static_cast<float>(in.effective_scale());
      inputs.softcap = static_cast<float>(in.softcap.value_or(0));
      inputs.sliding_window = in.sliding_window.value_or(0);
      at::Tensor sinks;
      if (in.sink_logits.has_value()) {
        sinks = in.sink_logits->to(at::kFloat).contiguous();
        inputs.sink_logits = sinks.const_data_ptr<float>();
      }
      cpu::StepOutputs outputs;
      outputs.out = static_cast<char*>(out.data_ptr());
      outputs.sequence_stride = out.stride(0) * bytes;
      outputs.head_stride = out.stride(1) * bytes;
      outputs.query_stride = out.stride(2) * bytes;
      outputs.lse = of_rows.data_ptr<float>();
      std::vector<cpu::RowReport> reports;
      if (sink != nullptr) reports.resize(static_cast<size_t>(of_rows.numel()));

      Threads& threads = ProcessThreads();
      const std::lock_guard lock(threads.turn);
      threads.Prepare(state->layer().ScratchBytes());
      state->Cover(in, *threads.workers);
      inputs.sequences = state->views();
      state->layer().Run(inputs, outputs, *threads.workers, threads.arenas,
                         sink == nullptr ? nullptr : reports.data(), observe);
      if (sink != nullptr) {
        SA_RETURN_IF_ERROR(
            LogEfficientStep(in, out, {reports, state->layer().ScoringShare(in.keys())}, sink));
      }
    }
    if (lse != nullptr) *lse = of_rows;
    return out;
  });
}

}  // namespace sparse_attention
