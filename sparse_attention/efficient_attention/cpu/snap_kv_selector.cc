#include "sparse_attention/efficient_attention/cpu/snap_kv_selector.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/attend.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_p.h"

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kBlockKeys = 1024;  // of all rows of the window, while they stay in the cache

// The softmax of one row of the window, before its shares are known.
struct RowMass {
  float top = -std::numeric_limits<float>::infinity();
  double sum = 0;

  // A row that sees no key, or has a logit that is no number, votes for none.
  bool votes() const { return std::isfinite(top) && sum > 0; }
};

// The attention that the last `window` queries of a step pay to the keys of one KV head.
class WindowAttention {
 public:
  WindowAttention(const StepPlan& plan, const StepInputs& inputs, int64_t sequence, int64_t kv_head,
                  int64_t window, Arena& arena)
      : plan_(plan),
        inputs_(inputs),
        sequence_(sequence),
        kv_head_(kv_head),
        window_(window),
        keys_(inputs.kv(sequence).length),
        kernels_(TopPKernelsFor(plan.isa)),
        arena_(arena),
        logits_(arena.Take<float>(kMaxRows * kBlockKeys)),
        masses_(arena.Take<RowMass>(plan.shape.group() * window)) {
    std::fill_n(masses_, plan.shape.group() * window, RowMass());
  }

  static size_t ScratchBytes(const StepPlan& plan, int64_t window) {
    return Arena::Bytes<float>(kMaxRows * kBlockKeys) +
           Arena::Bytes<RowMass>(plan.shape.group() * window);
  }

  // Summed over the window: votes [query heads of the group, keys].
  void Sum(float* votes) {
    std::fill_n(votes, plan_.shape.group() * keys_, 0.f);
    ForEachRow([&](RowMass& mass, int, int64_t, float* logits, int64_t count) {
      const float top = kernels_.highest(logits, count, nullptr);
      if (top > mass.top) {
        mass.sum *= std::exp(static_cast<double>(mass.top) - static_cast<double>(top));
        mass.top = top;
      }
      mass.sum += kernels_.masses(logits, count, nullptr, mass.top, logits);
    });
    ForEachRow([&](const RowMass& mass, int head, int64_t first, float* logits, int64_t count) {
      if (!mass.votes()) return;
      kernels_.masses(logits, count, nullptr, mass.top, logits);
      const float share = static_cast<float>(1 / mass.sum);
      float* const of_head = votes + head * keys_ + first;
      for (int64_t j = 0; j < count; ++j) of_head[j] += logits[j] * share;
    });
  }

 private:
  // Calls use(mass, head, first key, logits, count) for every row and block of keys that it sees.
  template <typename Use>
  void ForEachRow(const Use& use) {
    const int64_t at_once = kMaxRows / plan_.shape.group();
    for (int64_t begin = 0; begin < keys_; begin += kBlockKeys) {
      const int64_t end = std::min(keys_, begin + kBlockKeys);
      for (int64_t query = 0; query < window_; query += at_once) {
        ArenaScope scope(arena_);
        const RowBlock block(plan_, inputs_, sequence_, kv_head_, inputs_.queries - window_ + query,
                             std::min(at_once, window_ - query), arena_);
        plan_.attention.logits_range(block.problem, begin, end, logits_, kBlockKeys);
        for (int row = 0; row < block.problem.rows; ++row) {
          const int64_t position = inputs_.PositionOf(sequence_, block.query_of(row));
          const int64_t first = std::max(begin, inputs_.FirstVisible(sequence_, position));
          const int64_t last = std::min(end, position + 1);
          if (first >= last) continue;
          const int head = block.head_of(row);
          const int64_t in_window = block.query_of(row) - (inputs_.queries - window_);
          use(masses_[head * window_ + in_window], head, first,
              logits_ + row * kBlockKeys + (first - begin), last - first);
        }
      }
    }
  }

  const StepPlan& plan_;
  const StepInputs& inputs_;
  const int64_t sequence_, kv_head_, window_, keys_;
  const TopPKernels kernels_;
  Arena& arena_;
  float* const logits_;    // [kMaxRows, kBlockKeys]
  RowMass* const masses_;  // [query heads of the group, window]
};

// What each sequence's prompt keeps.
class PromptChoice final : public KeyIndex {
 public:
  PromptChoice(const StepPlan& plan, const SnapKvOptions& options)
      : plan_(plan),
        options_(options),
        words_(BitmapWords(plan.capacity)),
        prompts_(static_cast<size_t>(plan.sequences)),
        chosen_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * plan.sets() * words_)) {}

  void Append(int64_t, const SequenceKv&, Workers&) override {}
  void Truncate(int64_t sequence, int64_t length) override {
    Prompt& prompt = prompts_[static_cast<size_t>(sequence)];
    if (length < prompt.keys) prompt = {};
  }
  int64_t bytes() const override { return static_cast<int64_t>(chosen_.size() * sizeof(uint64_t)); }
  size_t ScratchBytes() const override {
    const int64_t window = std::min(options_.window_size, plan_.capacity);
    return Arena::Bytes<float>(plan_.shape.group() * plan_.capacity) +
           Arena::Bytes<float>(plan_.sets() * plan_.capacity) +
           WindowAttention::ScratchBytes(plan_, window) + Arena::Bytes<TopKStream>(1) +
           Arena::Bytes<char>(TopKStream::ScratchBytes(plan_.capacity));
  }

  void BeginStep(const StepInputs& inputs, Workers& workers, std::span<Arena> arenas) override {
    const int64_t sequences = static_cast<int64_t>(inputs.sequences.size());
    bool all_continue = true;
    for (int64_t s = 0; s < sequences; ++s) all_continue = all_continue && Continues(inputs, s);
    if (all_continue) return;
    workers.Run(sequences * plan_.shape.kv_heads, [&](int64_t i, int thread) {
      const int64_t s = i / plan_.shape.kv_heads;
      if (Continues(inputs, s)) return;
      Choose(inputs, s, i % plan_.shape.kv_heads, arenas[static_cast<size_t>(thread)]);
    });
    for (int64_t s = 0; s < sequences; ++s) {
      if (Continues(inputs, s)) continue;
      const int64_t keys = inputs.kv(s).length;
      prompts_[static_cast<size_t>(s)] = {keys, keys - Window(inputs, s)};
    }
  }

  void Inherit(const KeyIndex& index) override {
    const auto& earlier = static_cast<const PromptChoice&>(index);
    prompts_ = earlier.prompts_;
    for (size_t begin = 0, from = 0; from < earlier.chosen_.size();
         begin += static_cast<size_t>(words_), from += static_cast<size_t>(earlier.words_)) {
      std::copy_n(earlier.chosen_.begin() + static_cast<int64_t>(from), earlier.words_,
                  chosen_.begin() + static_cast<int64_t>(begin));
    }
  }

  // All keys from this one on are kept.
  int64_t window_begin(int64_t sequence) const {
    return prompts_[static_cast<size_t>(sequence)].window_begin;
  }
  // Of the keys before it, as a bitmap.
  const uint64_t* chosen(int64_t sequence, int64_t kv_head, int set) const {
    return chosen_.data() + Offset(sequence, kv_head, set);
  }

 private:
  struct Prompt {
    int64_t keys = 0;  // 0: none yet
    int64_t window_begin = 0;
  };

  // The step goes on behind the sequence's prompt; else it is the end of one.
  bool Continues(const StepInputs& inputs, int64_t sequence) const {
    const int64_t prompt = prompts_[static_cast<size_t>(sequence)].keys;
    return prompt > 0 && inputs.queries == 1 && prompt < inputs.kv(sequence).length;
  }
  int64_t Window(const StepInputs& inputs, int64_t sequence) const {
    return std::min({options_.window_size, inputs.queries, inputs.kv(sequence).length});
  }
  int64_t Offset(int64_t sequence, int64_t kv_head, int set) const {
    return ((sequence * plan_.shape.kv_heads + kv_head) * plan_.sets() + set) * words_;
  }

  void Choose(const StepInputs& inputs, int64_t sequence, int64_t kv_head, Arena& arena) {
    ArenaScope scope(arena);
    const int64_t keys = inputs.kv(sequence).length, window = Window(inputs, sequence);
    const int64_t before = keys - window;
    float* const votes = arena.Take<float>(plan_.shape.group() * keys);
    float* const scores = arena.Take<float>(plan_.sets() * keys);
    WindowAttention(plan_, inputs, sequence, kv_head, window, arena).Sum(votes);
    // A mean over the heads orders keys as their sum does.
    for (int head = 0; head < plan_.shape.group(); ++head) {
      Pool(votes + head * keys, keys, before,
           !plan_.by_group || head == 0             ? Into::kSet
           : plan_.reduce == StepPlan::Reduce::kMax ? Into::kMax
                                                    : Into::kAdd,
           scores + (plan_.by_group ? 0 : head * keys));
    }
    auto* const stream = new (arena.Take<TopKStream>(1)) TopKStream(
        TopKKernelsFor(plan_.isa), before, arena.Take<char>(TopKStream::ScratchBytes(before)));
    for (int set = 0; set < plan_.sets(); ++set) {
      uint64_t* const chosen = chosen_.data() + Offset(sequence, kv_head, set);
      std::fill_n(chosen, words_, 0);
      const int64_t k = std::clamp<int64_t>(options_.heavy_size.Resolve(keys), 0, before);
      if (k > 0) stream->Select(scores + set * keys, before, k, nullptr, chosen);
    }
  }

  enum class Into { kSet, kAdd, kMax };

  // The mean over kernel_size neighbours, 0 beyond the ends, of votes[keys] for the first `count`.
  void Pool(const float* votes, int64_t keys, int64_t count, Into into, float* scores) const {
    const int64_t reach = options_.kernel_size / 2;
    for (int64_t j = 0; j < count; ++j) {
      float sum = 0;
      const int64_t end = std::min(keys, j + reach + 1);
      for (int64_t i = std::max<int64_t>(0, j - reach); i < end; ++i) sum += votes[i];
      const float mean = sum / static_cast<float>(options_.kernel_size);
      scores[j] = into == Into::kSet   ? mean
                  : into == Into::kAdd ? scores[j] + mean
                                       : std::max(scores[j], mean);
    }
  }

  const StepPlan plan_;
  const SnapKvOptions options_;
  const int64_t words_;           // of a set's bitmap
  std::vector<Prompt> prompts_;   // by sequence
  std::vector<uint64_t> chosen_;  // [sequences, KV heads, sets, words]
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> SnapKvSelector::NewIndex(const StepPlan& plan) const {
  return std::make_unique<PromptChoice>(plan, options_);
}

void SnapKvSelector::Select(StepItem& item, const KeyIndex* index) const {
  const auto& choice = static_cast<const PromptChoice&>(*index);
  const int64_t window_begin = choice.window_begin(item.sequence);
  item.held.HoldFrom(window_begin);
  const int64_t words = BitmapWords(std::min(window_begin, item.held.end()));
  for (int set = 0; set < item.held.sets(); ++set) {
    const uint64_t* const chosen = choice.chosen(item.sequence, item.kv_head, set);
    uint64_t* const bits = item.held.MutableBits(set, item.arena);
    for (int64_t w = 0; w < words; ++w) bits[w] |= chosen[w];
  }
}

}  // namespace sparse_attention::cpu
