// CpuMasker: what a masker of a pipeline does in the efficient engine on the CPU: for the query
// heads that share a KV head, and one query, it adds keys to those that are held.
//
// A method that scores keys by an index implements KeyIndex; TopKSelector (top_k_selector.h) does
// the rest. Everything is planned before the first step: maskers are const, an index is made for a
// layer, and scratch memory is asked for by ScratchBytes and taken from the thread's arena.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_MASKER_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_MASKER_H_

#include <cstdint>
#include <memory>
#include <span>

#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/cpu/arena.h"
#include "sparse_attention/efficient_attention/cpu/cost_rule.h"
#include "sparse_attention/efficient_attention/cpu/held_keys.h"
#include "sparse_attention/efficient_attention/cpu/step.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"

namespace sparse_attention::cpu {

// What a plan fixes for all its steps.
struct StepPlan {
  LayerShape shape;
  int64_t sequences = 1;
  int64_t capacity = 0;  // keys of a sequence
  uint64_t seed = 42;
  bool by_group = false;  // heads of a group select together
  enum class Reduce { kMax, kMean, kSum } reduce = Reduce::kMax;  // then: of their scores
  Isa isa = Isa::kGeneric;
  AttentionKernels attention;  // of `isa`
  BitmapKernels bitmap;
  CostRule cost;

  int sets() const { return by_group ? 1 : shape.group(); }
};

// Keys [begin, end).
struct KeySpan {
  int64_t begin = 0;
  int64_t end = 0;

  bool empty() const { return begin >= end; }
  int64_t size() const { return empty() ? 0 : end - begin; }
  bool Contains(const KeySpan& other) const {
    return other.empty() || (begin <= other.begin && other.end <= end);
  }
};

// Exact logits of an item, float32 [rows, keys from `first` on], rows `stride` floats apart, where
// a masker asked for them (CpuMasker::LogitsNeeded): read once, they choose keys and weigh values.
struct ItemLogits {
  float* data = nullptr;
  int64_t first = 0;  // a multiple of 64; from there to the first visible key: -infinity
  int64_t stride = 0;
  KeySpan known;

  float* At(int row, int64_t key) const { return data + row * stride + (key - first); }
  bool Cover(const KeySpan& keys) const { return data != nullptr && known.Contains(keys); }

  // Room for `keys` keys of a sequence, in all.
  static constexpr int64_t Floats(int64_t rows, int64_t keys) {
    return rows * ((keys + 15) / 16 * 16 + 64);
  }
};

struct StepItem;

// Keys that are listed before the attention kernel reads them: enough that its prefetches run
// ahead, few enough that the list stays in the first-level cache.
constexpr int64_t kListKeys = 4096;

// Inclusion probabilities that differ from key to key.
class SampleWeights {
 public:
  // bias [rows, count], rows `stride` floats apart: -log of the inclusion probability of keys[i],
  // for the rows that members[i] names, bit r row r. `count` up to kListKeys. `logits` is as
  // AttentionKernels::logits_list gives them, or null. Rows for which a key has no probability (0
  // or NaN) are no longer its members, and dropped[row] grows by one for each. `scratch` is the
  // thread's: several may weigh keys of one item.
  virtual void Weigh(const StepItem& item, const uint32_t* keys, int64_t count, const float* logits,
                     int64_t logits_stride, uint16_t* members, float* bias, int64_t stride,
                     int64_t* dropped, Arena& scratch) const = 0;

  // Of a thread's arena: for the biases of a list, its logits, and what takes their place where
  // they do not tell the products.
  static size_t ListBytes(const StepPlan& plan) {
    return 3 * Arena::Bytes<float>(plan.shape.group() * kListKeys);
  }

 protected:
  ~SampleWeights() = default;  // lives in an arena
};

// Keys of a sample, beside those that are held.
struct SampledKeys {
  // Bitmaps by set, as those of HeldKeys.
  uint64_t* bits[kMostGroup] = {};
  // Added to the logits of a set's sampled keys: -log of the inclusion probability.
  float bias[kMostGroup] = {};
  const SampleWeights* weights = nullptr;  // instead of `bias`, or null
  bool any = false;
};

// What a step reports of one row, for metrics.
struct RowReport {
  int64_t visible = 0;        // keys that the row sees
  int64_t selected = 0;       // keys attended to
  int64_t rows_read = 0;      // keys of the KV head that were read for the query heads of its group
  int64_t sample_budget = 0;  // keys drawn
  bool promised = false;      // an adaptive sampler chose the budget
  bool guarantee_met = true;  // then: the sample supports its promise
};

// One (sequence, KV head, query) of a step.
struct StepItem {
  const StepPlan& plan;
  const StepInputs& inputs;
  int64_t sequence;
  int64_t kv_head;
  int64_t query;
  AttentionProblem problem;  // its rows are the query heads of the group
  int64_t keys;              // of the sequence, visible or not
  int64_t position;          // of the query
  HeldKeys held;
  ItemLogits logits;
  SampledKeys sampled;
  Arena& arena;
  // The running state of attention: empty until the held keys are attended to.
  RunningState state;
  RowReport reports[kMostGroup] = {};

  int rows() const { return problem.rows; }
  // The set that selects for a row.
  int set_of(int row) const { return plan.by_group ? 0 : row; }
};

// An index over the keys of all sequences and KV heads of one layer.
class KeyIndex {
 public:
  virtual ~KeyIndex() = default;
  // Takes in the keys of a sequence beyond those that it took in before, which are as they were.
  // Called from one thread; `workers` may be used.
  virtual void Append(int64_t sequence, const SequenceKv& kv, Workers& workers) = 0;
  // Forgets the keys from `length` on.
  virtual void Truncate(int64_t sequence, int64_t length) = 0;
  // A step begins, whose keys Append took in: for methods that choose once for all its queries.
  // `arenas` has one a thread of `workers`, with ScratchBytes.
  virtual void BeginStep(const StepInputs&, Workers&, std::span<Arena>) {}
  // What `earlier` knows that does not follow from the keys, or follows from those of an earlier
  // step: it is an index of the same masker for a smaller capacity, whose keys Append will hand
  // over again.
  virtual void Inherit(const KeyIndex&) {}
  virtual int64_t bytes() const = 0;  // held
  // Of a thread's arena, for one item.
  virtual size_t ScratchBytes() const { return 0; }
  // Read to choose among `keys` keys of one sequence, all KV heads together, for one query.
  virtual int64_t ScoringBytes(int64_t) const { return 0; }
};

class CpuMasker {
 public:
  virtual ~CpuMasker() = default;
  // Null where the method remembers nothing of keys. Errors: what the method needs is missing for
  // the layer, or the plan is beyond it.
  virtual absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan&) const {
    return nullptr;
  }
  // As KeyIndex::ScoringBytes, of keys whose logits are computed.
  virtual int64_t ScoringBytes(const StepPlan&, int64_t) const { return 0; }
  // True where LogitsNeeded may ask for any.
  virtual bool scores_by_logits() const { return false; }
  // The keys whose logits are to be in item.logits before Select.
  virtual KeySpan LogitsNeeded(const StepItem&) const { return {}; }
  // True where Select needs item.state to be that of the keys which are held before it; nothing is
  // held behind it then.
  virtual bool needs_held_mass() const { return false; }
  // For one item, beside what HeldKeys takes.
  virtual size_t ScratchBytes(const StepPlan&) const { return 0; }
  // `index` is what NewIndex made, and covers all keys. Not called where all keys are held.
  virtual void Select(StepItem& item, const KeyIndex* index) const = 0;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_MASKER_H_
