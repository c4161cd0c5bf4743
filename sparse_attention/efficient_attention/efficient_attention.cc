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

// LibTorch's threads, which would compete with others between its operators and ours.
void RunInTorchThreads(int threads, void (*part)(void*, int), void* context) {
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) part(context, static_cast<int>(thread));
  });
}

// The threads of this process and their scratch memory; steps of different sessions take turns.
struct Threads {
  std::mutex turn;
  std::unique_ptr<cpu::Workers> workers;
  std::vector<cpu::Arena> arenas;

  // Called with `turn` held.
  void Prepare(size_t scratch_bytes) {
    const int count = at::get_num_threads();
    if (workers == nullptr || workers->threads() != count) {
      workers = std::make_unique<cpu::Workers>(count, &RunInTorchThreads);
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

  // Differs from what is needed in its capacity at most.
  bool IsOfShape(const EfficientLayerOptions& needed) const {
    const cpu::LayerShape &a = options_.shape, &b = needed.shape;
    return a.element == b.element && a.dim == b.dim && a.value_dim == b.value_dim &&
           a.query_heads == b.query_heads && a.kv_heads == b.kv_heads && a.layer == b.layer &&
           options_.sequences == needed.sequences;
  }
  bool Fits(const EfficientLayerOptions& needed) const {
    return IsOfShape(needed) && needed.capacity <= options_.capacity;
  }

  // Takes the place of `earlier`, which is of this shape, in a step whose keys it has no room for.
  void Replace(LayerState& earlier, const AttentionInputs& in) {
    earlier.Follow(in);
    layer_.Inherit(earlier.layer_);
    guards_ = std::move(earlier.guards_);
    prefix_ = earlier.prefix_;
  }

  void Cover(const AttentionInputs& in, cpu::Workers& workers) {
    Follow(in);
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

  cpu::CpuLayer& layer() { return layer_; }
  const std::vector<cpu::SequenceKv>& views() const { return views_; }

 private:
  // Notices where the keys were cut back and go on differently.
  void Follow(const AttentionInputs& in) {
    for (int64_t s = 0; s < options_.sequences; ++s) {
      cpu::SequenceKv& view = views_[static_cast<size_t>(s)];
      view = ViewOf(in, s);
      cpu::KeyGuard& guard = guards_[static_cast<size_t>(s)];
      const int64_t covered = guard.covered();
      const int64_t unchanged = guard.Update(view.k, view.length);
      if (unchanged < covered) layer_.Truncate(s, unchanged);
    }
  }

  EfficientLayerOptions options_;
  cpu::CpuLayer layer_;
  std::vector<cpu::KeyGuard> guards_;
  std::vector<cpu::SequenceKv> views_;
  int64_t prefix_ = 0;
};

absl::StatusOr<std::unique_ptr<const EfficientAttention>> EfficientAttention::Create(
    const PipelineConfig& config) {
  // Of maskers without a CPU form, the registry knows which exist.
  SA_RETURN_IF_ERROR(ForEachMasker(config, [](const Json& entry) -> absl::Status {
    SA_ASSIGN_OR_RETURN(const std::string type, MaskerTypeOf(entry));
    if (HasCpuTwin(type)) return absl::OkStatus();
    SA_RETURN_IF_ERROR(FindMasker(type).status());
    return NoCpuTwin(type);
  }));
  SA_ASSIGN_OR_RETURN(CpuPipeline pipeline, CpuPipeline::Create(config));
  return std::unique_ptr<const EfficientAttention>(new EfficientAttention(std::move(pipeline)));
}

bool EfficientAttention::IsDense(int64_t layer, int64_t query_heads) const {
  return pipeline_.PipelineOf(layer, query_heads).chains.empty();
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
  options.threads = at::get_num_threads();
  std::unique_ptr<LayerMemory>& memory = session->MemoryFor(in.layer);
  auto* state = dynamic_cast<LayerState*>(memory.get());
  if (state == nullptr || !state->Fits(options)) {
    // Room for what is appended, so that a plan is made again only after the keys have doubled.
    options.capacity = std::max(kLeastCapacity, 2 * in.keys());
    SA_ASSIGN_OR_RETURN(cpu::CpuLayer layer, pipeline_.Plan(options));
    auto fresh = std::make_unique<LayerState>(options, std::move(layer));
    if (state != nullptr && state->IsOfShape(options)) fresh->Replace(*state, in);
    state = fresh.get();
    memory = std::move(fresh);
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
    std::vector<cpu::RowReport> reports;
    double scoring_share = 0;
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
      if (sink != nullptr) reports.resize(static_cast<size_t>(of_rows.numel()));

      Threads& threads = ProcessThreads();
      const std::lock_guard lock(threads.turn);
      threads.Prepare(state->layer().ScratchBytes());
      state->Cover(in, *threads.workers);
      inputs.sequences = state->views();
      state->layer().Run(inputs, outputs, *threads.workers, threads.arenas,
                         sink == nullptr ? nullptr : reports.data(), observe);
      if (sink != nullptr) scoring_share = state->layer().ScoringShare(in.keys());
    }
    if (sink != nullptr) {
      SA_RETURN_IF_ERROR(LogEfficientStep(in, out, {reports, scoring_share}, sink));
    }
    if (lse != nullptr) *lse = of_rows;
    return out;
  });
}

}  // namespace sparse_attention
