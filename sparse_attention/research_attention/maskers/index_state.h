// IndexState: a masker's memory of an index over the keys of its sequence and layer. The index is
// built from the keys that it meets first, extended by appended keys, cut back with them, and built
// again where keys that it rests on changed.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_INDEX_STATE_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_INDEX_STATE_H_

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/key_ledger.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

// `Index` has `int64_t prefix() const`, the leading keys whose change asks for a fresh build.
template <typename Index>
class IndexState : public MaskerState {
 public:
  // The index over the keys of `in`. `build()` gives a fresh one; `extend(index, unchanged)` brings
  // one up to date whose first `unchanged` keys are as they were. With `with_values` a changed
  // value is noticed like a changed key.
  template <typename Build, typename Extend>
  const Index& Update(const AttentionInputs& in, const Build& build, const Extend& extend,
                      bool with_values = false) {
    int64_t unchanged = keys_.Update(in.k);
    if (with_values) unchanged = std::min(unchanged, values_.Update(in.v));
    if (!index_.has_value() || unchanged < index_->prefix()) {
      index_.emplace(build());
    } else if (unchanged < in.keys() || in.keys() < covered_) {
      extend(*index_, unchanged);
    }
    covered_ = in.keys();
    return *index_;
  }

  NamedTensors Tensors() const override {
    if constexpr (requires(const Index& index) { index.Tensors(); }) {
      if (index_.has_value()) return index_->Tensors();
    }
    return {};
  }

 private:
  KeyLedger keys_, values_;
  std::optional<Index> index_;
  int64_t covered_ = 0;
};

// Calls use(state) with the masker's own state, or with a passing one where the caller keeps none.
template <typename State, typename Use>
auto WithState(MaskerState* state, const Use& use) {
  if (state != nullptr) return use(static_cast<State&>(*state));
  State passing;
  return use(passing);
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_INDEX_STATE_H_
