#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

#include <algorithm>
#include <new>

#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kBlockKeys = 2048;
// Scores that are looked at before a row is fed, in runs of neighbours, since an index is scored a
// vector at a time. Shorter rows fit into a stream's room whole.
constexpr int64_t kSampleRuns = 64;
constexpr int64_t kRunKeys = 16;
constexpr int64_t kShortRow = 4096;

class Selection {
 public:
  Selection(StepItem& item, const ItemScorer& scorer, int64_t begin, int64_t end, int64_t k,
            const uint64_t* const* excluded)
      : item_(item),
        scorer_(scorer),
        begin_(begin),
        end_(end),
        k_(k),
        sets_(item.held.sets()),
        excluded_(excluded) {
    scores_ = item.arena.Take<float>(sets_ * kBlockKeys);
  }

  void Run(uint64_t* const* selected) {
    const TopKKernels kernels = TopKKernelsFor(item_.plan.isa);
    TopKStream* streams[kMostGroup];
    for (int set = 0; set < sets_; ++set) {
      const int64_t keys = item_.held.end();
      streams[set] = new (item_.arena.Take<TopKStream>(1))
          TopKStream(kernels, keys, item_.arena.Take<char>(TopKStream::ScratchBytes(keys)));
    }
    Begin(streams);
    uint32_t left = (1u << sets_) - 1;
    while (left != 0) {
      for (int64_t begin = begin_; begin < end_; begin += kBlockKeys) {
        const int64_t count = std::min(kBlockKeys, end_ - begin);
        scorer_.Score(begin, begin + count, scores_, kBlockKeys);
        for (int set = 0; set < sets_; ++set) {
          if ((left >> set & 1) == 0) continue;
          if (scorer_.type() == ScoreType::kFloat) {
            streams[set]->Feed(begin, FloatScores(set), count, excluded_[set]);
          } else {
            streams[set]->Feed(begin, IntegerScores(set), count, excluded_[set]);
          }
        }
      }
      for (int set = 0; set < sets_; ++set) {
        if ((left >> set & 1) == 0) continue;
        if (streams[set]->Finish(selected[set])) left &= ~(1u << set);
      }
    }
  }

 private:
  const float* FloatScores(int set) const {
    return static_cast<const float*>(scores_) + set * kBlockKeys;
  }
  const uint16_t* IntegerScores(int set) const {
    return static_cast<const uint16_t*>(scores_) + set * kBlockKeys;
  }
  float ScoreOf(int set, int64_t i) const {
    return scorer_.type() == ScoreType::kFloat ? FloatScores(set)[i]
                                               : static_cast<float>(IntegerScores(set)[i]);
  }

  void Begin(TopKStream* const* streams) {
    ArenaScope scope(item_.arena);
    const int64_t span = end_ - begin_;
    float* const samples = item_.arena.Take<float>(sets_ * kSampleRuns * kRunKeys);
    int64_t counts[kMostGroup] = {};
    for (int64_t run = 0; span > kShortRow && run < kSampleRuns; ++run) {
      const int64_t first = begin_ + run * (span - kRunKeys) / (kSampleRuns - 1);
      scorer_.Score(first, first + kRunKeys, scores_, kBlockKeys);
      for (int set = 0; set < sets_; ++set) {
        for (int64_t i = 0; i < kRunKeys; ++i) {
          if (excluded_[set] != nullptr && TestBit(excluded_[set], first + i)) continue;
          samples[set * kSampleRuns * kRunKeys + counts[set]++] = ScoreOf(set, i);
        }
      }
    }
    for (int set = 0; set < sets_; ++set) {
      int64_t entries = span;
      if (excluded_[set] != nullptr) {
        entries -= item_.plan.bitmap.rank(excluded_[set], end_) -
                   item_.plan.bitmap.rank(excluded_[set], begin_);
      }
      streams[set]->Begin(k_, entries, samples + set * kSampleRuns * kRunKeys, counts[set]);
    }
  }

  StepItem& item_;
  const ItemScorer& scorer_;
  const int64_t begin_, end_, k_;
  const int sets_;
  const uint64_t* const* const excluded_;
  void* scores_;  // [sets, kBlockKeys] of the scorer's type
};

}  // namespace

void SelectTopEntries(StepItem& item, const ItemScorer& scorer, int64_t begin, int64_t end,
                      int64_t k, const uint64_t* const* excluded, uint64_t* const* selected) {
  if (begin >= end || k <= 0) return;
  ArenaScope scope(item.arena);
  Selection(item, scorer, begin, end, k, excluded).Run(selected);
}

size_t SelectTopEntriesScratchBytes(const StepPlan& plan, int64_t entries) {
  const size_t sets = static_cast<size_t>(plan.sets());
  return sets *
             (Arena::Bytes<TopKStream>(1) + Arena::Bytes<char>(TopKStream::ScratchBytes(entries))) +
         Arena::Bytes<float>(plan.sets() * kBlockKeys) +
         Arena::Bytes<float>(plan.sets() * kSampleRuns * kRunKeys);
}

size_t TopKSelector::ScratchBytes(const StepPlan& plan) const {
  return SelectTopEntriesScratchBytes(plan, plan.capacity);
}

void TopKSelector::Select(StepItem& item, const KeyIndex* index) const {
  const int64_t k = rule_.heavy_size.Resolve(item.keys);
  const int64_t beside = rule_.keys_beside + (rule_.queries_beside ? item.inputs.queries : 0);
  if (k >= item.keys || item.keys - k <= beside) return item.held.HoldAll();
  if (k <= 0) return;
  const HeldKeys& held = item.held;
  const int64_t begin =
      std::max(rule_.first_candidate, rule_.spends_beside_held ? held.open_begin() : held.first());
  const int64_t end = rule_.spends_beside_held ? held.open_end() : held.end();
  const uint64_t* excluded[kMostGroup] = {};
  uint64_t* selected[kMostGroup];
  for (int set = 0; set < held.sets(); ++set) {
    if (rule_.spends_beside_held) excluded[set] = held.bits(set);
    selected[set] = item.held.MutableBits(set, item.arena);
  }
  ArenaScope scope(item.arena);
  const ItemScorer* const scorer = static_cast<const ScoredIndex*>(index)->MakeScorer(item);
  SelectTopEntries(item, *scorer, begin, end, k, excluded, selected);
}

}  // namespace sparse_attention::cpu
