#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

#include <algorithm>
#include <new>
#include <type_traits>

#include "sparse_attention/efficient_attention/kernels/cpu/select/levels.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kBlockKeys = 2048;
// Scores that are looked at before a row is fed, in runs of neighbours, since an index is scored a
// vector at a time. Shorter rows fit into a stream's room whole.
constexpr int64_t kSampleRuns = 64;
constexpr int64_t kRunKeys = 16;
constexpr int64_t kSampleKeys = kSampleRuns * kRunKeys;
constexpr int64_t kShortRow = 4096;

// Scores of a type, and the stream that selects by them.
template <typename Score, typename Stream, typename Kernels>
class Selection {
 public:
  Selection(StepItem& item, const ItemScorer& scorer, const Kernels& kernels, int64_t begin,
            int64_t end, int64_t k, const uint64_t* const* excluded)
      : item_(item),
        scorer_(scorer),
        begin_(begin),
        end_(end),
        k_(k),
        sets_(item.held.sets()),
        excluded_(excluded),
        scores_(item.arena.Take<Score>(sets_ * kBlockKeys)) {
    for (int set = 0; set < sets_; ++set) {
      streams_[set] = new (item.arena.Take<Stream>(1))
          Stream(kernels, end, item.arena.Take<char>(Stream::ScratchBytes(end)));
    }
  }

  void Run(uint64_t* const* selected) {
    Begin();
    uint32_t left = (1u << sets_) - 1;
    while (left != 0) {
      for (int64_t begin = begin_; begin < end_; begin += kBlockKeys) {
        const int64_t count = std::min(kBlockKeys, end_ - begin);
        scorer_.Score(begin, begin + count, scores_, kBlockKeys);
        for (int set = 0; set < sets_; ++set) {
          if ((left >> set & 1) == 0) continue;
          streams_[set]->Feed(begin, scores_ + set * kBlockKeys, count, excluded_[set]);
        }
      }
      for (int set = 0; set < sets_; ++set) {
        if ((left >> set & 1) == 0) continue;
        if (streams_[set]->Finish(selected[set])) left &= ~(1u << set);
      }
    }
  }

 private:
  // What Stream::Begin takes a sample of.
  using Sample = std::conditional_t<std::is_same_v<Score, uint8_t>, uint8_t, float>;

  void Begin() {
    ArenaScope scope(item_.arena);
    const int64_t span = end_ - begin_;
    Sample* const samples = item_.arena.Take<Sample>(sets_ * kSampleKeys);
    int64_t counts[kMostGroup] = {};
    for (int64_t run = 0; span > kShortRow && run < kSampleRuns; ++run) {
      const int64_t first = begin_ + run * (span - kRunKeys) / (kSampleRuns - 1);
      scorer_.Score(first, first + kRunKeys, scores_, kBlockKeys);
      for (int set = 0; set < sets_; ++set) {
        for (int64_t i = 0; i < kRunKeys; ++i) {
          if (excluded_[set] != nullptr && TestBit(excluded_[set], first + i)) continue;
          samples[set * kSampleKeys + counts[set]++] =
              static_cast<Sample>(scores_[set * kBlockKeys + i]);
        }
      }
    }
    for (int set = 0; set < sets_; ++set) {
      int64_t entries = span;
      if (excluded_[set] != nullptr) {
        entries -= item_.plan.bitmap.rank(excluded_[set], end_) -
                   item_.plan.bitmap.rank(excluded_[set], begin_);
      }
      streams_[set]->Begin(k_, entries, samples + set * kSampleKeys, counts[set]);
    }
  }

  StepItem& item_;
  const ItemScorer& scorer_;
  const int64_t begin_, end_, k_;
  const int sets_;
  const uint64_t* const* const excluded_;
  Score* const scores_;  // [sets, kBlockKeys]
  Stream* streams_[kMostGroup];
};

}  // namespace

void SelectTopEntries(StepItem& item, const ItemScorer& scorer, int64_t begin, int64_t end,
                      int64_t k, const uint64_t* const* excluded, uint64_t* const* selected) {
  if (begin >= end || k <= 0) return;
  ArenaScope scope(item.arena);
  const Isa isa = item.plan.isa;
  switch (scorer.type()) {
    case ScoreType::kFloat:
      return Selection<float, TopKStream, TopKKernels>(item, scorer, TopKKernelsFor(isa), begin,
                                                       end, k, excluded)
          .Run(selected);
    case ScoreType::kUint16:
      return Selection<uint16_t, TopKStream, TopKKernels>(item, scorer, TopKKernelsFor(isa), begin,
                                                          end, k, excluded)
          .Run(selected);
    case ScoreType::kUint8:
      return Selection<uint8_t, LevelStream, LevelKernels>(item, scorer, LevelKernelsFor(isa),
                                                           begin, end, k, excluded)
          .Run(selected);
  }
}

size_t SelectTopEntriesScratchBytes(const StepPlan& plan, int64_t entries) {
  const size_t sets = static_cast<size_t>(plan.sets());
  const size_t stream = std::max(
      Arena::Bytes<TopKStream>(1) + Arena::Bytes<char>(TopKStream::ScratchBytes(entries)),
      Arena::Bytes<LevelStream>(1) + Arena::Bytes<char>(LevelStream::ScratchBytes(entries)));
  return sets * stream + Arena::Bytes<float>(plan.sets() * kBlockKeys) +
         Arena::Bytes<float>(plan.sets() * kSampleKeys);
}

size_t TopKSelector::ScratchBytes(const StepPlan& plan) const {
  return SelectTopEntriesScratchBytes(plan, plan.capacity);
}

bool TopKSelector::HoldsAll(const StepItem& item, int64_t k) const {
  const int64_t beside = rule_.keys_beside + (rule_.queries_beside ? item.inputs.queries : 0);
  return k >= item.keys || item.keys - k <= beside;
}

KeySpan TopKSelector::Candidates(const StepItem& item) const {
  const int64_t k = rule_.heavy_size.Resolve(item.keys);
  if (k <= 0 || HoldsAll(item, k)) return {};
  const HeldKeys& held = item.held;
  const bool beside = rule_.spends_beside_held;
  return {std::max(rule_.first_candidate, beside ? held.open_begin() : held.first()),
          beside ? held.open_end() : held.end()};
}

void TopKSelector::Select(StepItem& item, const KeyIndex* index) const {
  const int64_t k = rule_.heavy_size.Resolve(item.keys);
  if (HoldsAll(item, k)) return item.held.HoldAll();
  if (k <= 0) return;
  const KeySpan candidates = Candidates(item);
  const HeldKeys& held = item.held;
  const uint64_t* excluded[kMostGroup] = {};
  uint64_t* selected[kMostGroup];
  for (int set = 0; set < held.sets(); ++set) {
    if (rule_.spends_beside_held) excluded[set] = held.bits(set);
    selected[set] = item.held.MutableBits(set, item.arena);
  }
  ArenaScope scope(item.arena);
  const ItemScorer* const scorer = static_cast<const ScoredIndex*>(index)->MakeScorer(item);
  SelectTopEntries(item, *scorer, candidates.begin, candidates.end, k, excluded, selected);
}

}  // namespace sparse_attention::cpu
