#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"

#include <algorithm>
#include <bit>
#include <new>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "sparse_attention/efficient_attention/cpu/attend.h"

namespace sparse_attention::cpu {
namespace {

// Items that share threads at a time.
constexpr int64_t kMostShared = 32;

uint32_t AllHeads(const StepPlan& plan) { return (1u << plan.shape.group()) - 1; }

}  // namespace

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
    bool logits = false;  // of all keys
    for (size_t m = 0; m < pipeline_.chains[c].size(); ++m) {
      const CpuMasker& masker = *pipeline_.chains[c][m];
      const KeyIndex* const index = indexes_[c][m].get();
      const int64_t of_masker = (logits ? 0 : masker.ScoringBytes(plan_, keys)) +
                                (index == nullptr ? 0 : index->ScoringBytes(keys));
      logits = logits || masker.scores_by_logits();
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
    bool logits = false;
    for (size_t m = 0; m < pipeline_.chains[c].size(); ++m) {
      bytes += pipeline_.chains[c][m]->ScratchBytes(plan_);
      if (indexes_[c][m] != nullptr) bytes += indexes_[c][m]->ScratchBytes();
      logits = logits || pipeline_.chains[c][m]->scores_by_logits();
    }
    if (logits) {
      bytes += Arena::Bytes<float>(ItemLogits::Floats(plan_.shape.group(), plan_.capacity));
    }
    most = std::max(most, bytes + AttendScratchBytes(plan_, logits));
  }
  return most + Arena::Bytes<ItemRun>(1) + ItemRun::ScratchBytes(plan_);
}

void CpuLayer::Run(const StepInputs& inputs, const StepOutputs& outputs, Workers& workers,
                   std::span<Arena> arenas, RowReport* reports, const StepObserver* observe) {
  SA_CHECK(static_cast<int>(arenas.size()) >= workers.threads());
  for (const auto& chain : indexes_) {
    for (const auto& index : chain) {
      if (index != nullptr) index->BeginStep(inputs, workers, arenas);
    }
  }
  const StepCall call = {plan_, inputs, outputs, reports, observe};
  const auto& of_head = pipeline_.chain_of_head;
  const bool dense = std::all_of(of_head.begin(), of_head.end(),
                                 [](int chain) { return chain == LayerPipeline::kDense; });
  // A dense item shares its rows of keys among as many queries as a call takes.
  const int64_t block = dense ? std::max(1, kMaxRows / plan_.shape.group()) : 1;
  const int64_t blocks = (inputs.queries + block - 1) / block;
  const int64_t kv_heads = plan_.shape.kv_heads;
  const auto place_of = [&](int64_t i) -> ItemPlace {
    const int64_t first = i % blocks * block;
    return {i / blocks / kv_heads, i / blocks % kv_heads, first,
            std::min(block, inputs.queries - first)};
  };
  const int64_t items = static_cast<int64_t>(inputs.sequences.size()) * kv_heads * blocks;
  int64_t longest = 0;
  for (const SequenceKv& kv : inputs.sequences) longest = std::max(longest, kv.length);

  // One thread an item; but what would leave threads idle in the end is shared.
  const int64_t threads = workers.threads();
  const bool share = threads > 1 && items < 2 * threads && longest > kPartKeys;
  const int64_t alone = !share ? items : items < threads ? 0 : threads;
  workers.Run(alone, [&](int64_t i, int thread) {
    Arena& arena = arenas[static_cast<size_t>(thread)];
    for (uint32_t left = AllHeads(plan_); left != 0;) {
      ArenaScope scope(arena);
      ItemRun run = NextRun(call, place_of(i), left, arena);
      while (run.Advance()) run.RunParts();
    }
  });
  for (int64_t first = alone; first < items; first += kMostShared) {
    ItemPlace places[kMostShared];
    const int64_t count = std::min(kMostShared, items - first);
    for (int64_t i = 0; i < count; ++i) places[i] = place_of(first + i);
    RunShared(call, {places, static_cast<size_t>(count)}, workers, arenas);
  }
}

ItemRun CpuLayer::NextRun(const StepCall& call, const ItemPlace& place, uint32_t& left,
                          Arena& arena) const {
  // Heads of a group mostly follow one chain; else each chain selects for all of them, so that
  // groups stay whole, and its own heads take the result.
  const int group = plan_.shape.group();
  const int* const chain_of = pipeline_.chain_of_head.data() + place.kv_head * group;
  const int chain = chain_of[std::countr_zero(left)];
  uint32_t heads = 0;
  for (int h = 0; h < group; ++h) heads |= static_cast<uint32_t>(chain_of[h] == chain) << h;
  left &= ~heads;
  if (chain == LayerPipeline::kDense) return ItemRun(call, place, heads, nullptr, {}, arena);
  const size_t c = static_cast<size_t>(chain);
  return ItemRun(call, place, heads, &pipeline_.chains[c], indexes_[c], arena);
}

void CpuLayer::RunShared(const StepCall& call, std::span<const ItemPlace> places, Workers& workers,
                         std::span<Arena> arenas) const {
  struct Shared {
    uint32_t left;       // heads to come
    ItemRun* run;        // at work, or null
    int64_t first_part;  // among those of all items
    size_t mark;         // of its arena
  };
  Shared shared[kMostShared];
  const int64_t count = static_cast<int64_t>(places.size());
  for (int64_t i = 0; i < count; ++i) {
    shared[i] = {AllHeads(plan_), nullptr, 0, arenas[static_cast<size_t>(i)].mark()};
  }

  // What an item keeps between its stages lies in the arena of its own number, beneath what the
  // thread of that number takes for a part.
  const auto advance = [&](int64_t i, int) {
    Shared& item = shared[i];
    Arena& arena = arenas[static_cast<size_t>(i)];
    if (item.run != nullptr) item.run->MergeParts();
    while (item.run != nullptr || item.left != 0) {
      if (item.run == nullptr) {
        static_assert(std::is_trivially_destructible_v<ItemRun>);
        item.run = new (arena.Take<ItemRun>(1))
            ItemRun(NextRun(call, places[static_cast<size_t>(i)], item.left, arena));
      }
      if (item.run->Advance()) return;
      item.run = nullptr;
      arena.Release(item.mark);
    }
  };
  while (true) {
    workers.Run(count, advance);
    bool done = true;
    int64_t parts = 0;
    for (int64_t i = 0; i < count; ++i) {
      shared[i].first_part = parts;
      if (shared[i].run == nullptr) continue;
      done = false;
      parts += shared[i].run->parts();
    }
    if (done) return;
    workers.Run(parts, [&](int64_t part, int thread) {
      int64_t i = count - 1;
      while (shared[i].run == nullptr || shared[i].first_part > part) --i;
      shared[i].run->RunPart(part - shared[i].first_part, arenas[static_cast<size_t>(thread)]);
    });
  }
}

}  // namespace sparse_attention::cpu
