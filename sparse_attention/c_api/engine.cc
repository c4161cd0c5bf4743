// Engines and layers of the C API.
#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "sparse_attention/c_api/boundary.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/efficient_attention/cpu/arena.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"
#include "sparse_attention/efficient_attention/cpu_pipeline.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"

namespace sparse_attention::c_api {

// What the layers of an engine share; calls on them hold `turn`.
struct EngineCore {
  EngineCore(CpuPipeline pipeline, cpu::Isa isa, int threads)
      : pipeline(std::move(pipeline)), isa(isa), workers(threads) {}

  // Scratch memory of at least `bytes` for every thread.
  absl::Status Reserve(size_t bytes) {
    if (!arenas.empty() && arenas.front().capacity() >= bytes) return absl::OkStatus();
    std::vector<cpu::Arena> larger;
    for (int t = 0; t < workers.threads(); ++t) {
      SA_ASSIGN_OR_RETURN(cpu::Arena arena, cpu::Arena::Create(bytes));
      larger.push_back(std::move(arena));
    }
    arenas = std::move(larger);
    return absl::OkStatus();
  }

  const CpuPipeline pipeline;
  const cpu::Isa isa;
  std::mutex turn;
  cpu::Workers workers;
  std::vector<cpu::Arena> arenas;
};

namespace {

constexpr int64_t kMostThreads = 1024;

absl::StatusOr<std::shared_ptr<EngineCore>> MakeEngine(const char* json,
                                                       const sah_engine_options* given) {
  SA_RETURN_IF_ERROR(CheckPointer(json, "json"));
  sah_engine_options options = {};
  if (given != nullptr) {
    SA_ASSIGN_OR_RETURN(options, ReadStruct(given, "options"));
  }
  SA_RETURN_IF_ERROR(CheckInteger(options.threads, 0, kMostThreads, "options.threads"));
  absl::StatusOr<cpu::Isa> isa = IsaOf(options.isa);
  if (!isa.ok()) return Annotate(isa.status(), "options");
  SA_ASSIGN_OR_RETURN(const Json document, ParseJson(json));
  SA_ASSIGN_OR_RETURN(PipelineConfig config, PipelineFromJson(document));
  if (options.model_folder != nullptr) config = ResolveModelPaths(config, options.model_folder);
  SA_ASSIGN_OR_RETURN(CpuPipeline pipeline, CpuPipeline::Create(config));
  int threads = options.threads;
  if (threads == 0) {
    threads =
        static_cast<int>(std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, kMostThreads));
  }
  return std::make_shared<EngineCore>(std::move(pipeline), *isa, threads);
}

}  // namespace
}  // namespace sparse_attention::c_api

struct sah_engine {
  std::shared_ptr<sparse_attention::c_api::EngineCore> core;
};

struct sah_layer {
  std::shared_ptr<sparse_attention::c_api::EngineCore> core;
  sparse_attention::cpu::CpuLayer layer;
  bool dense;
  std::vector<int64_t> covered;  // keys of a sequence
  // Of a call, allocated when the layer is made or at the first call.
  std::vector<sparse_attention::cpu::SequenceKv> views;
  std::vector<sparse_attention::cpu::RowReport> reports;

  const sparse_attention::cpu::StepPlan& plan() const { return layer.plan(); }
};

namespace sparse_attention::c_api {
namespace {

absl::StatusOr<std::unique_ptr<sah_layer>> MakeLayer(const std::shared_ptr<EngineCore>& core,
                                                     const sah_layer_options* given) {
  SA_ASSIGN_OR_RETURN(const sah_layer_options options, ReadStruct(given, "options"));
  EfficientLayerOptions plan;
  cpu::LayerShape& shape = plan.shape;
  SA_ASSIGN_OR_RETURN(shape.element, ElementOf(options.dtype, "options.dtype"));
  SA_RETURN_IF_ERROR(CheckInteger(options.dim, 1, cpu::kMaxDim, "options.dim"));
  SA_RETURN_IF_ERROR(CheckInteger(options.value_dim, 0, cpu::kMaxDim, "options.value_dim"));
  constexpr int32_t kMost = 1 << 16;
  SA_RETURN_IF_ERROR(CheckInteger(options.kv_heads, 1, kMost, "options.kv_heads"));
  SA_RETURN_IF_ERROR(CheckInteger(options.query_heads, options.kv_heads,
                                  options.kv_heads * cpu::kMostGroup, "options.query_heads"));
  if (options.query_heads % options.kv_heads != 0) {
    return RuleError("options.query_heads",
                     absl::StrCat("must be a multiple of kv_heads, ", options.kv_heads),
                     absl::StrCat(options.query_heads));
  }
  // Layers are a part of the counters of random draws.
  SA_RETURN_IF_ERROR(CheckInteger(options.layer, 0, (1 << 24) - 1, "options.layer"));
  SA_RETURN_IF_ERROR(CheckInteger(options.sequences, 1, kMost, "options.sequences"));
  SA_RETURN_IF_ERROR(
      CheckInteger(options.capacity, 1, std::numeric_limits<int32_t>::max(), "options.capacity"));
  // Below, sizes of indexes stay far from the largest number.
  constexpr int64_t kMostKeyHeads = int64_t{1} << 44;
  const int64_t key_heads = int64_t{options.sequences} * options.kv_heads;
  if (options.capacity > kMostKeyHeads / key_heads) {
    return RuleError("options.capacity", "times sequences and kv_heads must be at most 2^44",
                     absl::StrCat(options.capacity, " for ", options.sequences, " sequences and ",
                                  options.kv_heads, " KV heads"));
  }
  shape.dim = options.dim;
  shape.value_dim = options.value_dim == 0 ? options.dim : options.value_dim;
  shape.query_heads = options.query_heads;
  shape.kv_heads = options.kv_heads;
  shape.layer = options.layer;
  plan.sequences = options.sequences;
  plan.capacity = options.capacity;
  plan.threads = core->workers.threads();

  const std::lock_guard lock(core->turn);
  SA_ASSIGN_OR_RETURN(cpu::CpuLayer layer, core->pipeline.Plan(plan, core->isa));
  SA_RETURN_IF_ERROR(core->Reserve(layer.ScratchBytes()));
  const size_t sequences = static_cast<size_t>(plan.sequences);
  const bool dense = core->pipeline.PipelineOf(shape.layer, shape.query_heads).chains.empty();
  return std::unique_ptr<sah_layer>(new sah_layer{core,
                                                  std::move(layer),
                                                  dense,
                                                  std::vector<int64_t>(sequences),
                                                  std::vector<cpu::SequenceKv>(sequences),
                                                  {}});
}

// The strides of one side of a cache, which reach every row of it.
struct Side {
  const void* data;
  int64_t row, head, block;
  int64_t row_bytes;
  const char* name;  // "k"
};

absl::Status CheckSide(const Side& side, const cpu::StepPlan& plan, const Paging& paging,
                       int64_t longest) {
  const cpu::Element element = plan.shape.element;
  SA_RETURN_IF_ERROR(CheckElements(side.data, element, Path("cache.", side.name)));
  SA_RETURN_IF_ERROR(
      CheckStride(side.row, element, side.row_bytes, Path("cache.", side.name, "_row_stride")));
  SA_RETURN_IF_ERROR(CheckStride(side.head, element, 0, Path("cache.", side.name, "_head_stride")));
  SA_RETURN_IF_ERROR(
      CheckStride(side.block, element, 0, Path("cache.", side.name, "_block_stride")));
  const int64_t rows = paging.paged() ? std::min(paging.page_size, longest) : longest;
  const int64_t blocks = paging.paged() ? paging.pages : plan.sequences;
  return CheckSpan({{rows, side.row}, {plan.shape.kv_heads, side.head}, {blocks, side.block}},
                   Path("cache.", side.name));
}

// The cache as the layer reads it, into layer.views.
absl::Status ReadCache(const sah_kv_cache* given, sah_layer& layer) {
  SA_ASSIGN_OR_RETURN(const sah_kv_cache cache, ReadStruct(given, "cache"));
  const cpu::StepPlan& plan = layer.plan();
  SA_RETURN_IF_ERROR(CheckPointer(cache.lengths, "cache.lengths"));
  SA_RETURN_IF_ERROR(CheckOptional(cache.padding, "cache.padding"));
  const Paging paging = {cache.page_size, cache.pages};
  SA_RETURN_IF_ERROR(CheckPaging(paging, "cache"));
  if (paging.paged()) {
    SA_RETURN_IF_ERROR(CheckPointer(cache.block_tables, "cache.block_tables"));
    SA_RETURN_IF_ERROR(
        CheckInteger(cache.block_table_stride, 0, int64_t{1} << 31, "cache.block_table_stride"));
  }
  int64_t longest = 0;
  for (int64_t s = 0; s < plan.sequences; ++s) {
    const int64_t length = cache.lengths[s];
    SA_RETURN_IF_ERROR(CheckInteger(length, 0, plan.capacity, Path("cache.lengths").At(s)));
    const int64_t padding = cache.padding == nullptr ? 0 : cache.padding[s];
    SA_RETURN_IF_ERROR(CheckInteger(padding, 0, length, Path("cache.padding").At(s)));
    longest = std::max(longest, length);
    if (!paging.paged()) continue;
    SA_RETURN_IF_ERROR(CheckInteger(paging.PagesOf(length), 0, cache.block_table_stride,
                                    Path("the entries of cache.block_tables").At(s)));
    SA_RETURN_IF_ERROR(CheckTable(cache.block_tables + s * cache.block_table_stride, length, paging,
                                  Path("cache.block_tables").At(s)));
  }
  const int64_t bytes = cpu::ElementBytes(plan.shape.element);
  SA_RETURN_IF_ERROR(CheckSide({cache.k, cache.k_row_stride, cache.k_head_stride,
                                cache.k_block_stride, plan.shape.dim * bytes, "k"},
                               plan, paging, longest));
  SA_RETURN_IF_ERROR(CheckSide({cache.v, cache.v_row_stride, cache.v_head_stride,
                                cache.v_block_stride, plan.shape.value_dim * bytes, "v"},
                               plan, paging, longest));
  for (int64_t s = 0; s < plan.sequences; ++s) {
    cpu::SequenceKv& view = layer.views[static_cast<size_t>(s)];
    view.k.base = static_cast<const char*>(cache.k);
    view.v.base = static_cast<const char*>(cache.v);
    view.k.row_stride = cache.k_row_stride;
    view.v.row_stride = cache.v_row_stride;
    view.k_head_stride = cache.k_head_stride;
    view.v_head_stride = cache.v_head_stride;
    for (cpu::RowView* rows : {&view.k, &view.v}) {
      const int64_t block = rows == &view.k ? cache.k_block_stride : cache.v_block_stride;
      rows->pages = nullptr;
      if (paging.paged()) {
        rows->pages = cache.block_tables + s * cache.block_table_stride;
        rows->page_shift = paging.shift();
        rows->page_stride = block;
      } else {
        rows->base += s * block;
      }
    }
    view.length = cache.lengths[s];
    view.begin = cache.padding == nullptr ? 0 : cache.padding[s];
  }
  return absl::OkStatus();
}

absl::Status Append(sah_layer& layer) {
  for (size_t s = 0; s < layer.views.size(); ++s) {
    const int64_t length = layer.views[s].length;
    if (length != 0 && length < layer.covered[s]) {
      return absl::FailedPreconditionError(
          absl::StrCat("cache.lengths[", s, "] is ", length, ", the indexes cover ",
                       layer.covered[s], " keys: sah_layer_truncate must tell of a cut"));
    }
  }
  try {
    layer.layer.Append(layer.views, layer.core->workers);
  } catch (...) {
    // Some indexes may have taken in keys that others have not.
    for (size_t s = 0; s < layer.views.size(); ++s) {
      layer.layer.Truncate(static_cast<int64_t>(s), 0);
      layer.covered[s] = 0;
    }
    throw;
  }
  for (size_t s = 0; s < layer.views.size(); ++s) {
    layer.covered[s] = std::max(layer.covered[s], layer.views[s].length);
  }
  return absl::OkStatus();
}

absl::Status CheckStep(const sah_step& step, const sah_layer& layer) {
  const cpu::LayerShape& shape = layer.plan().shape;
  const cpu::Element element = shape.element;
  const int64_t bytes = cpu::ElementBytes(element);
  SA_RETURN_IF_ERROR(CheckInteger(step.queries, 1, layer.plan().capacity, "step.queries"));
  SA_RETURN_IF_ERROR(CheckElements(step.q, element, "step.q"));
  SA_RETURN_IF_ERROR(CheckElements(step.out, element, "step.out"));
  const auto check = [&](absl::string_view name, int64_t sequence, int64_t head, int64_t query,
                         int64_t least) -> absl::Status {
    const int64_t sequences = layer.plan().sequences;
    for (const auto& [of, count, stride] : {std::tuple{"_sequence_stride", sequences, sequence},
                                            {"_head_stride", int64_t{shape.query_heads}, head},
                                            {"_query_stride", step.queries, query}}) {
      // Where there is one there is no next one.
      SA_RETURN_IF_ERROR(
          CheckStride(stride, element, count > 1 ? least : 0, Path("step.", name, of)));
    }
    return CheckSpan({{sequences, sequence}, {shape.query_heads, head}, {step.queries, query}},
                     Path("step.", name));
  };
  SA_RETURN_IF_ERROR(
      check("q", step.q_sequence_stride, step.q_head_stride, step.q_query_stride, 0));
  SA_RETURN_IF_ERROR(check("out", step.out_sequence_stride, step.out_head_stride,
                           step.out_query_stride, shape.value_dim * bytes));
  SA_RETURN_IF_ERROR(CheckFactor(step.scale, "step.scale"));
  SA_RETURN_IF_ERROR(CheckFactor(step.softcap, "step.softcap"));
  SA_RETURN_IF_ERROR(CheckInteger(step.sliding_window, 0, std::numeric_limits<int32_t>::max(),
                                  "step.sliding_window"));
  SA_RETURN_IF_ERROR(CheckOptional(step.sink_logits, "step.sink_logits"));
  SA_RETURN_IF_ERROR(CheckOptional(step.lse, "step.lse"));
  SA_RETURN_IF_ERROR(CheckOptional(step.reports, "step.reports"));
  for (size_t s = 0; s < layer.views.size(); ++s) {
    const int64_t length = layer.views[s].length;
    if (length == 0) continue;
    if (length < step.queries) {
      return RuleError(absl::StrCat("cache.lengths[", s, "]"),
                       absl::StrCat("must be 0 or at least step.queries, ", step.queries),
                       absl::StrCat(length));
    }
    if (length != layer.covered[s]) {
      return absl::FailedPreconditionError(absl::StrCat(
          "cache.lengths[", s, "] is ", length, ", the indexes cover ", layer.covered[s],
          " keys: ", length > layer.covered[s] ? "sah_layer_append" : "sah_layer_truncate",
          " must come first"));
    }
  }
  return absl::OkStatus();
}

absl::Status Run(const sah_step* given, sah_layer& layer) {
  SA_ASSIGN_OR_RETURN(const sah_step step, ReadStruct(given, "step"));
  SA_RETURN_IF_ERROR(CheckStep(step, layer));
  const cpu::LayerShape& shape = layer.plan().shape;
  cpu::StepInputs inputs;
  inputs.q = static_cast<const char*>(step.q);
  inputs.q_sequence_stride = step.q_sequence_stride;
  inputs.q_head_stride = step.q_head_stride;
  inputs.q_query_stride = step.q_query_stride;
  inputs.queries = step.queries;
  inputs.sequences = layer.views;
  inputs.scale = ScaleOr(step.scale, shape.dim);
  inputs.softcap = step.softcap;
  inputs.sliding_window = step.sliding_window;
  inputs.sink_logits = step.sink_logits;
  cpu::StepOutputs outputs;
  outputs.out = static_cast<char*>(step.out);
  outputs.sequence_stride = step.out_sequence_stride;
  outputs.head_stride = step.out_head_stride;
  outputs.query_stride = step.out_query_stride;
  outputs.lse = step.lse;
  const int64_t rows = layer.plan().sequences * shape.query_heads * step.queries;
  if (step.reports != nullptr) layer.reports.resize(static_cast<size_t>(rows));
  layer.layer.Run(inputs, outputs, layer.core->workers, layer.core->arenas,
                  step.reports == nullptr ? nullptr : layer.reports.data());
  for (int64_t row = 0; step.reports != nullptr && row < rows; ++row) {
    const cpu::RowReport& report = layer.reports[static_cast<size_t>(row)];
    step.reports[row] = {report.visible,       report.selected, report.rows_read,
                         report.sample_budget, report.promised, report.guarantee_met};
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace sparse_attention::c_api

namespace c_api = sparse_attention::c_api;

extern "C" {

sah_status sah_engine_create(const char* json, const sah_engine_options* options,
                             sah_engine** engine) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(engine, "engine"));
    *engine = nullptr;
    SA_ASSIGN_OR_RETURN(auto core, c_api::MakeEngine(json, options));
    *engine = new sah_engine{std::move(core)};
    return absl::OkStatus();
  });
}

void sah_engine_destroy(sah_engine* engine) { delete engine; }

sah_status sah_engine_get_info(const sah_engine* engine, sah_engine_info* info) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(engine, "engine"));
    c_api::EngineCore& core = *engine->core;
    const std::lock_guard lock(core.turn);
    sah_engine_info values = {};
    values.threads = core.workers.threads();
    values.isa = sparse_attention::cpu::IsaName(core.isa);
    for (const auto& arena : core.arenas) {
      values.scratch_bytes += static_cast<int64_t>(arena.capacity());
    }
    return c_api::WriteStruct(values, info, "info");
  });
}

sah_status sah_layer_create(sah_engine* engine, const sah_layer_options* options,
                            sah_layer** layer) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(layer, "layer"));
    *layer = nullptr;
    SA_RETURN_IF_ERROR(c_api::CheckPointer(engine, "engine"));
    SA_ASSIGN_OR_RETURN(auto made, c_api::MakeLayer(engine->core, options));
    *layer = made.release();
    return absl::OkStatus();
  });
}

void sah_layer_destroy(sah_layer* layer) { delete layer; }

sah_status sah_layer_append(sah_layer* layer, const sah_kv_cache* cache) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(layer, "layer"));
    const std::lock_guard lock(layer->core->turn);
    SA_RETURN_IF_ERROR(c_api::ReadCache(cache, *layer));
    return c_api::Append(*layer);
  });
}

sah_status sah_layer_truncate(sah_layer* layer, int32_t sequence, int32_t length) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(layer, "layer"));
    const std::lock_guard lock(layer->core->turn);
    SA_RETURN_IF_ERROR(c_api::CheckInteger(sequence, 0, layer->plan().sequences - 1, "sequence"));
    SA_RETURN_IF_ERROR(c_api::CheckInteger(length, 0, layer->plan().capacity, "length"));
    int64_t& covered = layer->covered[static_cast<size_t>(sequence)];
    if (length >= covered) return absl::OkStatus();
    layer->layer.Truncate(sequence, length);
    covered = length;
    return absl::OkStatus();
  });
}

sah_status sah_layer_run(sah_layer* layer, const sah_kv_cache* cache, const sah_step* step) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(layer, "layer"));
    const std::lock_guard lock(layer->core->turn);
    SA_RETURN_IF_ERROR(c_api::ReadCache(cache, *layer));
    return c_api::Run(step, *layer);
  });
}

sah_status sah_layer_get_info(const sah_layer* layer, sah_layer_info* info) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(layer, "layer"));
    const std::lock_guard lock(layer->core->turn);
    sah_layer_info values = {};
    values.index_bytes = layer->layer.IndexBytes();
    values.dense = layer->dense;
    return c_api::WriteStruct(values, info, "info");
  });
}

sah_status sah_layer_scoring_share(const sah_layer* layer, int32_t keys, double* share) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckPointer(layer, "layer"));
    SA_RETURN_IF_ERROR(c_api::CheckPointer(share, "share"));
    SA_RETURN_IF_ERROR(c_api::CheckInteger(keys, 0, layer->plan().capacity, "keys"));
    const std::lock_guard lock(layer->core->turn);
    *share = layer->layer.ScoringShare(keys);
    return absl::OkStatus();
  });
}

}  // extern "C"
