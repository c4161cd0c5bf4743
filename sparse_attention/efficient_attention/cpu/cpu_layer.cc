#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "sparse_attention/efficient_attention/cpu/attend.h"

namespace sparse_attention::cpu {
absl::StatusOr<CpuLayer> CpuLayer::Create(const StepPlan& plan, const LayerPipeline& pipeline) {
  if (static_cast<int32_t>(pipeline.chain_of_head.size()) != plan.shape.query_heads ||
      plan.shape.kv_heads < 1 || plan.shape.query_heads % plan.shape.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a layer of ", plan.shape.query_heads, " query and ", plan.shape.kv_heads,
        " KV heads with a pipeline for ", pipeline.chain_of_head.size(), " query heads"));
  }
  if (plan.shape.group() > kMostGroup) {
    return absl::InvalidArgumentError(absl::StrCat(
        "at most ", kMostGroup, " query heads may share a KV head, got ", plan.shape.group()));
  }
  CpuLayer layer(plan, pipeline);
  for (const MaskerChain& chain : pipeline.chains) {
    std::vector<std::unique_ptr<KeyIndex>>& indexes = layer.indexes_.emplace_back();
    for (const auto& masker : chain) {
      SA_ASSIGN_OR_RETURN(std::unique_ptr<KeyIndex> index, masker->NewIndex(plan));
      indexes.push_back(std::move(index));
    }
  }
  return layer;
}

void CpuLayer::Append(std::span<const SequenceKv> sequences, Workers& workers) {
  for (const auto& chain : indexes_) {
    for (const auto& index : chain) {
      if (index == nullptr) continue;
      for (size_t s = 0; s < sequences.size(); ++s) {
        index->Append(static_cast<int64_t>(s), sequences[s], workers);
      }
    }
  }
}

void CpuLayer::Truncate(int64_t sequence, int64_t length) {
  for (const auto& chain : indexes_) {
    for (const auto& index : chain) {
      if (index != nullptr) index->Truncate(sequence, length);
    }
  }
}

void CpuLayer::Inherit(const CpuLayer& earlier) {
  for (size_t c = 0; c < indexes_.size(); ++c) {
    for (size_t m = 0; m < indexes_[c].size(); ++m) {
      if (indexes_[c][m] != nullptr) indexes_[c][m]->Inherit(*earlier.indexes_[c][m]);
    }
  }
}

int64_t CpuLayer::IndexBytes() const {
  int64_t bytes = 0;
  for (const auto& chain : indexes_) {
    for (const auto& index : chain) {
      if (index != nullptr) bytes += index->bytes();
    }
  }
  return bytes;
}

double CpuLayer::ScoringShare(int64_t keys) const {
  const LayerShape& shape = plan_.shape;
  double bytes = 0;
  for (size_t c = 0; c < pipeline_.chains.size(); ++c) {
    const double heads = static_cast<double>(std::count(
        pipeline_.chain_of_head.begin(), pipeline_.chain_of_head.end(), static_cast<int>(c)));
    for (size_t m = 0; m < pipeline_.chains[c].size(); ++m) {
      const KeyIndex* const index = indexes_[c][m].get();
      const int64_t of_masker = pipeline_.chains[c][m]->ScoringBytes(plan_, keys) +
                                (index == nullptr ? 0 : index->ScoringBytes(keys));
      bytes += static_cast<double>(of_masker) * heads / static_cast<double>(shape.query_heads);
    }
  }
  const int64_t kv =
      keys * shape.kv_heads * (shape.dim + shape.value_dim) * ElementBytes(shape.element);
  return kv == 0 ? 0 : bytes / static_cast<double>(kv);
}

size_t CpuLayer::ScratchBytes() const {
  size_t most = 0;
  for (size_t c = 0; c < pipeline_.chains.size(); ++c) {
    size_t bytes = HeldKeys::ScratchBytes(plan_.sets(), plan_.capacity);
    for (size_t m = 0; m < pipeline_.chains[c].size(); ++m) {
      bytes += pipeline_.chains[c][m]->ScratchBytes(plan_);
      if (indexes_[c][m] != nullptr) bytes += indexes_[c][m]->ScratchBytes();
    }
    most = std::max(most, bytes);
  }
  return most + AttendScratchBytes(plan_);
}

void CpuLayer::Run(const StepInputs& inputs, const StepOutputs& outputs, Workers& workers,
                   std::span<Arena> arenas, RowReport* reports, const StepObserver* observe) {
  SA_CHECK(static_cast<int>(arenas.size()) >= workers.threads());
  for (const auto& chain : indexes_) {
    for (const auto& index : chain) {
      if (index != nullptr) index->BeginStep(inputs, workers, arenas);
    }
  }
  const auto& of_head = pipeline_.chain_of_head;
  const bool dense = std::all_of(of_head.begin(), of_head.end(),
                                 [](int chain) { return chain == LayerPipeline::kDense; });
  // A dense item shares its rows of keys among as many queries as a call takes.
  const int64_t block = dense ? std::max(1, kMaxRows / plan_.shape.group()) : 1;
  const int64_t blocks = (inputs.queries + block - 1) / block;
  const int64_t sequences = static_cast<int64_t>(inputs.sequences.size());
  const int64_t kv_heads = plan_.shape.kv_heads;
  workers.Run(sequences * kv_heads * blocks, [&](int64_t i, int thread) {
    const int64_t first = i % blocks * block;
    const Item item = {i / blocks / kv_heads, i / blocks % kv_heads, first,
                       std::min(block, inputs.queries - first)};
    RunItem(item, inputs, outputs, arenas[static_cast<size_t>(thread)], reports, observe);
  });
}

void CpuLayer::RunItem(const Item& item, const StepInputs& inputs, const StepOutputs& outputs,
                       Arena& arena, RowReport* reports, const StepObserver* observe) const {
  const int group = plan_.shape.group();
  const int* const chain_of = pipeline_.chain_of_head.data() + item.kv_head * group;
  uint32_t left = (1u << group) - 1;
  // Heads of a group mostly follow one chain; else each chain selects for all of them, so that
  // groups stay whole, and its own heads take the result.
  while (left != 0) {
    const int chain = chain_of[std::countr_zero(left)];
    uint32_t heads = 0;
    for (int h = 0; h < group; ++h) heads |= static_cast<uint32_t>(chain_of[h] == chain) << h;
    left &= ~heads;
    ArenaScope scope(arena);
    if (chain == LayerPipeline::kDense) {
      RunDense(item, inputs, outputs, heads, arena, reports);
    } else {
      RunChain(chain, item, inputs, outputs, heads, arena, reports, observe);
    }
  }
}

void CpuLayer::RunDense(const Item& item, const StepInputs& inputs, const StepOutputs& outputs,
                        uint32_t heads, Arena& arena, RowReport* reports) const {
  RowBlock block(plan_, inputs, item.sequence, item.kv_head, item.first_query, item.queries, arena);
  int64_t row_begin[kMaxRows], row_end[kMaxRows];
  for (int r = 0; r < block.problem.rows; ++r) {
    const int64_t position = inputs.PositionOf(item.sequence, block.query_of(r));
    row_begin[r] = inputs.FirstVisible(item.sequence, position);
    row_end[r] = position + 1;
  }
  const int last = block.problem.rows - 1;
  plan_.attention.attend_range(block.problem, row_begin[0], row_end[last], row_begin, row_end,
                               block.state);
  block.Finish(plan_, inputs, outputs, heads);
  if (reports == nullptr) return;
  for (int r = 0; r < block.problem.rows; ++r) {
    if ((heads >> block.head_of(r) & 1) == 0) continue;
    RowReport& report = reports[block.row_index(plan_, inputs, r)];
    report = {};
    report.visible = std::max<int64_t>(0, row_end[r] - row_begin[r]);
    report.selected = report.rows_read = report.visible;
  }
}

void CpuLayer::RunChain(int chain, const Item& item, const StepInputs& inputs,
                        const StepOutputs& outputs, uint32_t heads, Arena& arena,
                        RowReport* reports, const StepObserver* observe) const {
  for (int64_t query = item.first_query; query < item.first_query + item.queries; ++query) {
    ArenaScope scope(arena);
    RowBlock block(plan_, inputs, item.sequence, item.kv_head, query, 1, arena);
    const int64_t position = inputs.PositionOf(item.sequence, query);
    const int64_t first = inputs.FirstVisible(item.sequence, position);
    StepItem step = {.plan = plan_,
                     .inputs = inputs,
                     .sequence = item.sequence,
                     .kv_head = item.kv_head,
                     .query = query,
                     .problem = block.problem,
                     .keys = inputs.kv(item.sequence).length,
                     .position = position,
                     .held = HeldKeys(first, position + 1, plan_.sets()),
                     .sampled = {},
                     .arena = arena,
                     .state = block.state};
    const MaskerChain& maskers = pipeline_.chains[static_cast<size_t>(chain)];
    for (size_t m = 0; m < maskers.size() && !step.held.holds_all(); ++m) {
      maskers[m]->Select(step, indexes_[static_cast<size_t>(chain)][m].get());
    }
    if (observe != nullptr) (*observe)(step);
    AttendHeld(step);
    AttendSampled(step);
    block.Finish(plan_, inputs, outputs, heads);
    if (reports == nullptr) continue;
    for (int r = 0; r < block.problem.rows; ++r) {
      step.reports[r].visible = step.held.visible();
      if ((heads >> r & 1) != 0) reports[block.row_index(plan_, inputs, r)] = step.reports[r];
    }
  }
}

}  // namespace sparse_attention::cpu
