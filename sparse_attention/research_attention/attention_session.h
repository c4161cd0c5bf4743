// AttentionSession: what the maskers of a pipeline remember of one sequence (or one batch of
// sequences) between steps. The caller owns one per sequence and passes it to every step; a
// pipeline itself remembers nothing.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_ATTENTION_SESSION_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_ATTENTION_SESSION_H_

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

// What an engine remembers of one layer, beside the states of maskers.
class LayerMemory {
 public:
  virtual ~LayerMemory() = default;
  virtual void Rewind() = 0;  // see AttentionSession::Rewind
};

class AttentionSession {
 public:
  // The state of one masker in one layer, made by it at the first use.
  MaskerState* StateFor(int64_t layer, int64_t rule, int64_t masker, const Masker& maker) {
    std::unique_ptr<MaskerState>& state = states_[{layer, rule, masker}];
    if (state == nullptr) state = maker.NewState();
    return state.get();
  }

  // The engine's own place for a layer; null at first.
  std::unique_ptr<LayerMemory>& MemoryFor(int64_t layer) { return memories_[layer]; }

  // The sequence is cut back to what Prepare of the engine was given.
  void Rewind() {
    for (auto& [place, state] : states_) state->Rewind();
    for (auto& [layer, memory] : memories_) {
      if (memory != nullptr) memory->Rewind();
    }
  }

  // Forgets everything: the next step starts a new sequence.
  void Reset() {
    states_.clear();
    memories_.clear();
  }

 private:
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::unique_ptr<MaskerState>> states_;
  std::map<int64_t, std::unique_ptr<LayerMemory>> memories_;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_ATTENTION_SESSION_H_
