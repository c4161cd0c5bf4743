#include "sparse_attention/efficient_attention/cpu/item_run.h"

#include <algorithm>
#include <limits>

namespace sparse_attention::cpu {
namespace {

HeldKeys NothingHeld(const StepCall& call, const ItemPlace& place) {
  const int64_t position = call.inputs.PositionOf(place.sequence, place.first_query);
  return HeldKeys(call.inputs.FirstVisible(place.sequence, position), position + 1,
                  call.plan.sets());
}

// Floats of a part's state.
int64_t StateFloats(int64_t rows, int64_t value_dim) { return rows * (value_dim + 2); }

}  // namespace

ItemRun::ItemRun(const StepCall& call, const ItemPlace& place, uint32_t heads,
                 const MaskerChain* chain, std::span<const std::unique_ptr<KeyIndex>> indexes,
                 Arena& arena)
    : call_(call),
      heads_(heads),
      chain_(chain),
      indexes_(indexes),
      block_(call.plan, call.inputs, place.sequence, place.kv_head, place.first_query,
             place.queries, arena),
      item_{.plan = call.plan,
            .inputs = call.inputs,
            .sequence = place.sequence,
            .kv_head = place.kv_head,
            .query = place.first_query,
            .problem = block_.problem,
            .keys = call.inputs.kv(place.sequence).length,
            .position = call.inputs.PositionOf(place.sequence, place.first_query),
            .held = NothingHeld(call, place),
            .logits = {},
            .sampled = {},
            .arena = arena,
            .state = block_.state} {
  const int64_t others = std::max<int64_t>(0, Parts{{0, item_.keys}}.count() - 1);
  states_ = arena.Take<float>(others * StateFloats(block_.problem.rows, call.plan.shape.value_dim));
}

size_t ItemRun::ScratchBytes(const StepPlan& plan) {
  return RowBlockBytes(plan) + Arena::Bytes<float>(Parts{{0, plan.capacity}}.count() *
                                                   StateFloats(kMaxRows, plan.shape.value_dim));
}

bool ItemRun::Want(Wanted wanted, const Parts& parts) {
  wanted_ = wanted;
  parts_ = parts;
  return true;
}

bool ItemRun::Advance() {
  if (wanted_ == Wanted::kLogits) item_.logits.known = parts_.keys;
  wanted_ = Wanted::kNothing;
  if (chain_ == nullptr && !attended_) {
    attended_ = true;
    TakeDenseRanges();
    return Want(Wanted::kRanges, {{row_begin_[0], row_end_[block_.problem.rows - 1]}});
  }
  const size_t maskers = chain_ == nullptr ? 0 : chain_->size();
  for (; next_ < maskers && !item_.held.holds_all(); ++next_) {
    const CpuMasker& masker = *(*chain_)[next_];
    const KeySpan logits = masker.LogitsNeeded(item_);
    if (!item_.logits.Cover(logits) && !logits.empty()) return WantLogits(logits);
    if (masker.needs_held_mass() && !attended_) break;
    masker.Select(item_, indexes_[next_].get());
  }
  if (!attended_) {
    attended_ = true;
    keys_ = HeldToAttend(item_);
    return Want(Wanted::kHeld, keys_.parts);
  }
  if (item_.sampled.any && !attended_sample_) {
    attended_sample_ = true;
    keys_ = SampledToAttend(item_);
    return Want(Wanted::kSampled, keys_.parts);
  }
  Finish();
  return false;
}

bool ItemRun::WantLogits(const KeySpan& keys) {
  ItemLogits& logits = item_.logits;
  if (logits.data != nullptr) {  // of fewer keys: once more
    return Want(Wanted::kLogits,
                {{std::min(keys.begin, logits.known.begin), std::max(keys.end, logits.known.end)}});
  }
  const HeldKeys& held = item_.held;
  logits.first = held.first() / 64 * 64;
  logits.stride = (held.end() - logits.first + 15) / 16 * 16;
  logits.data = item_.arena.Take<float>(block_.problem.rows * logits.stride);
  for (int row = 0; row < block_.problem.rows; ++row) {
    std::fill(logits.At(row, logits.first), logits.At(row, held.first()),
              -std::numeric_limits<float>::infinity());
  }
  return Want(Wanted::kLogits, {keys});
}

void ItemRun::TakeDenseRanges() {
  for (int r = 0; r < block_.problem.rows; ++r) {
    const int64_t position = call_.inputs.PositionOf(block_.sequence, block_.query_of(r));
    row_begin_[r] = call_.inputs.FirstVisible(block_.sequence, position);
    row_end_[r] = position + 1;
    item_.reports[r].selected = item_.reports[r].rows_read =
        std::max<int64_t>(0, row_end_[r] - row_begin_[r]);
  }
}

void ItemRun::ComputePart(int64_t part, const RunningState& state, Arena& scratch) {
  if (wanted_ != Wanted::kRanges) return AttendPart(item_, keys_, part, state, scratch);
  const KeySpan keys = InPart(parts_.keys, parts_, part);
  call_.plan.attention.attend_range(block_.problem, keys.begin, keys.end, row_begin_, row_end_,
                                    state);
}

RunningState ItemRun::StateOf(int64_t part) const {
  if (part == 0) return block_.state;
  const int64_t rows = block_.problem.rows, dim = call_.plan.shape.value_dim;
  float* const state = states_ + (part - 1) * StateFloats(rows, dim);
  return {state, state + rows, state + 2 * rows, dim};
}

void ItemRun::RunPart(int64_t part, Arena& scratch) {
  if (wanted_ == Wanted::kLogits) {
    const KeySpan keys = InPart(parts_.keys, parts_, part);
    return call_.plan.attention.logits_range(block_.problem, keys.begin, keys.end,
                                             item_.logits.At(0, keys.begin), item_.logits.stride);
  }
  const RunningState state = StateOf(part);
  if (part > 0) InitState(block_.problem.rows, call_.plan.shape.value_dim, state);
  ComputePart(part, state, scratch);
}

void ItemRun::MergeParts() {
  if (wanted_ == Wanted::kLogits) return;
  for (int64_t part = 1; part < parts(); ++part) {
    call_.plan.attention.merge(block_.problem.rows, call_.plan.shape.value_dim, StateOf(part),
                               block_.state);
  }
}

void ItemRun::RunParts() {
  for (int64_t part = 0; part < parts(); ++part) RunPart(part, item_.arena);
  MergeParts();
}

void ItemRun::Finish() {
  if (call_.observe != nullptr && chain_ != nullptr) (*call_.observe)(item_);
  block_.Finish(call_.plan, call_.inputs, call_.outputs, heads_);
  if (call_.reports == nullptr) return;
  for (int r = 0; r < block_.problem.rows; ++r) {
    if ((heads_ >> block_.head_of(r) & 1) == 0) continue;
    RowReport& report = call_.reports[block_.row_index(call_.plan, call_.inputs, r)];
    report = item_.reports[r];
    report.visible = chain_ == nullptr ? report.selected : item_.held.visible();
  }
}

}  // namespace sparse_attention::cpu
