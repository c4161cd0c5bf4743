// CpuLayer: one layer of the efficient engine on the CPU: its maskers, their indexes over the keys
// of all sequences, and the steps.
//
// A step is cut into items, one (sequence, KV head, query) each; dense heads take several queries
// at a time. An item is computed by one thread from its scores to its output, so that all but keys,
// values and indexes stays in that core's caches, and its result depends neither on the number of
// threads nor on the other items, bit for bit.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_LAYER_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_LAYER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/cpu/arena.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"
#include "sparse_attention/efficient_attention/cpu/item_run.h"
#include "sparse_attention/efficient_attention/cpu/step.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"

namespace sparse_attention::cpu {

// The maskers of a layer: each query head follows one chain, or none and is dense.
struct LayerPipeline {
  std::vector<MaskerChain> chains;
  std::vector<int> chain_of_head;  // [query heads]; kDense: none

  static constexpr int kDense = -1;
};

class CpuLayer {
 public:
  // InvalidArgument where `pipeline` does not fit the plan; or an error of a masker's index.
  static absl::StatusOr<CpuLayer> Create(const StepPlan& plan, const LayerPipeline& pipeline);

  // The indexes take in the keys of `sequences` beyond those that they cover.
  void Append(std::span<const SequenceKv> sequences, Workers& workers);
  // Indexes forget the keys of a sequence from `length` on.
  void Truncate(int64_t sequence, int64_t length);

  // Takes over what the indexes of a layer for the same pipeline and shape, and a smaller capacity,
  // know beside its keys, which Append then has to hand over again.
  void Inherit(const CpuLayer& earlier);

  // One step. Every index must cover the keys. `observe`, where given, is called for every item
  // whose maskers are done, from the thread that computes it. `arenas` has one a thread of
  // `workers`, each of ScratchBytes(). `reports` is [sequences, query heads, queries], or null.
  void Run(const StepInputs& inputs, const StepOutputs& outputs, Workers& workers,
           std::span<Arena> arenas, RowReport* reports = nullptr,
           const StepObserver* observe = nullptr);

  size_t ScratchBytes() const;
  int64_t IndexBytes() const;
  // Bytes that a query of a sequence of `keys` keys reads to choose among them, over those of its
  // keys and values.
  double ScoringShare(int64_t keys) const;
  const StepPlan& plan() const { return plan_; }

 private:
  CpuLayer(const StepPlan& plan, const LayerPipeline& pipeline)
      : plan_(plan), pipeline_(pipeline) {}

  // The next chain that heads of `left` follow; takes them out of it.
  ItemRun NextRun(const StepCall& call, const ItemPlace& place, uint32_t& left, Arena& arena) const;
  // Fewer items than threads, their parts shared among these.
  void RunShared(const StepCall& call, std::span<const ItemPlace> places, Workers& workers,
                 std::span<Arena> arenas) const;

  StepPlan plan_;
  LayerPipeline pipeline_;
  std::vector<std::vector<std::unique_ptr<KeyIndex>>> indexes_;  // by chain and masker
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_CPU_LAYER_H_
