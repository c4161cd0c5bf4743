#include "sparse_attention/efficient_attention/kernels/cpu/attention/weighted_list.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sparse_attention::cpu {

void AttendWeightedList(const AttentionKernels& kernels, const AttentionProblem& problem,
                        const WeightedList& list, const RunningState& state) {
  if (list.count == 0) return;
  KeyList keys;
  if (list.inverse_probabilities == nullptr) {
    keys.keys = list.keys;
    keys.count = list.count;
    keys.members = list.members;
    kernels.attend_list(problem, keys, state);
    return;
  }
  // In pieces, so that the logarithms need no memory but the stack.
  constexpr int64_t kPiece = 512;
  float bias[kMaxRows * kPiece];
  const int32_t rows = list.stride == 0 ? 1 : problem.rows;
  const auto fill = [&](int32_t row, int64_t begin) {
    const float* const weights = list.inverse_probabilities + row * list.stride + begin;
    for (int64_t i = 0; i < keys.count; ++i) {
      // What has no meaning need not be initialised.
      const bool member = rows == 1 || list.members == nullptr || (keys.members[i] >> row & 1) != 0;
      bias[row * kPiece + i] = member ? std::log(weights[i]) : 0;
    }
  };
  for (int64_t begin = 0; begin < list.count; begin += kPiece) {
    keys.count = std::min(kPiece, list.count - begin);
    keys.keys = list.keys + begin;
    keys.members = list.members == nullptr ? nullptr : list.members + begin;
    for (int32_t r = 0; r < rows; ++r) fill(r, begin);
    keys.bias = bias;
    keys.bias_stride = list.stride == 0 ? 0 : kPiece;
    kernels.attend_list(problem, keys, state);
  }
}

RowList RowList::Within(int64_t begin, int64_t end) const {
  const int64_t first = std::lower_bound(keys, keys + count, begin) - keys;
  const int64_t last = std::lower_bound(keys + first, keys + count, end) - keys;
  return {keys + first, inverse_probabilities == nullptr ? nullptr : inverse_probabilities + first,
          last - first};
}

void AttendRowLists(const AttentionKernels& kernels, const AttentionProblem& problem,
                    const RowList* lists, RowListScratch& scratch, const RunningState& state) {
  constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  int64_t places[kMaxRows] = {};
  int64_t next[kMaxRows];  // the key at each list's place
  bool weighted = false;
  for (int32_t r = 0; r < problem.rows; ++r) {
    next[r] = lists[r].count > 0 ? lists[r].keys[0] : kNone;
    weighted = weighted || lists[r].inverse_probabilities != nullptr;
  }
  WeightedList list;
  list.keys = scratch.keys;
  list.members = scratch.members;
  list.inverse_probabilities = weighted ? scratch.weights : nullptr;
  list.stride = RowListScratch::kPiece;
  while (true) {
    const int64_t key = *std::min_element(next, next + problem.rows);
    if (key == kNone || list.count == RowListScratch::kPiece) {
      AttendWeightedList(kernels, problem, list, state);
      list.count = 0;
    }
    if (key == kNone) return;
    uint32_t members = 0;
    for (int32_t r = 0; r < problem.rows; ++r) {
      if (next[r] != key) continue;
      members |= 1u << r;
      const RowList& row = lists[r];
      if (weighted) {
        scratch.weights[r * list.stride + list.count] =
            row.inverse_probabilities == nullptr ? 1 : row.inverse_probabilities[places[r]];
      }
      next[r] = ++places[r] < row.count ? row.keys[places[r]] : kNone;
    }
    scratch.keys[list.count] = static_cast<uint32_t>(key);
    scratch.members[list.count++] = static_cast<uint16_t>(members);
  }
}

void AttendSharedList(const AttentionKernels& kernels, const AttentionProblem& problem,
                      const RowList& shared, RowListScratch& scratch, const RunningState& state) {
  WeightedList list;
  list.keys = scratch.keys;
  for (int64_t begin = 0; begin < shared.count; begin += RowListScratch::kPiece) {
    list.count = std::min(RowListScratch::kPiece, shared.count - begin);
    for (int64_t i = 0; i < list.count; ++i) {
      scratch.keys[i] = static_cast<uint32_t>(shared.keys[begin + i]);
    }
    if (shared.inverse_probabilities != nullptr) {
      list.inverse_probabilities = shared.inverse_probabilities + begin;
    }
    AttendWeightedList(kernels, problem, list, state);
  }
}

}  // namespace sparse_attention::cpu
