#include "sparse_attention/efficient_attention/cpu/attend.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kBlockWords = 32;
constexpr int64_t kBlockKeys = 64 * kBlockWords;

// What the kernel is told of a list of keys.
struct ListBuffers {
  explicit ListBuffers(StepItem& item)
      : keys(item.arena.Take<uint32_t>(kListKeys)), members(item.arena.Take<uint16_t>(kListKeys)) {}
  uint32_t* keys;
  uint16_t* members;
};

// Attention over the keys of bitmaps, which hold bits inside the open part alone.
class BitmapAttention {
 public:
  BitmapAttention(StepItem& item, uint64_t* const* bits, const SampledKeys* sample)
      : item_(item),
        sample_(sample),
        buffers_(item),
        bias_(sample != nullptr && sample->weights != nullptr
                  ? item.arena.Take<float>(item.rows() * kListKeys)
                  : nullptr) {
    const HeldKeys& held = item.held;
    first_word_ = held.open_begin() / 64;
    words_ = BitmapWords(held.open_end()) - first_word_;
    for (int set = 0; set < held.sets(); ++set) {
      ClearBits(bits[set], first_word_ * 64, held.open_begin());
      ClearBits(bits[set], held.open_end(), (first_word_ + words_) * 64);
      bits_[set] = bits[set] + first_word_;
    }
  }

  void Run() {
    const int64_t in_union = Count();
    if (in_union == 0) return;
    const double open = static_cast<double>(item_.held.open_end() - item_.held.open_begin());
    if (static_cast<double>(in_union) > item_.plan.cost.gather_share * open) {
      Stream();
    } else {
      Gather();
    }
  }

 private:
  int sets() const { return item_.held.sets(); }

  // Of the union; also reports.
  int64_t Count() {
    const BitmapKernels& bitmap = item_.plan.bitmap;
    int64_t most = 0;
    for (int set = 0; set < sets(); ++set) {
      const int64_t count = bitmap.count(bits_[set], words_);
      most = std::max(most, count);
      for (int r = 0; r < item_.rows(); ++r) {
        if (item_.set_of(r) == set) item_.reports[r].selected += count;
      }
    }
    int64_t in_union = most;
    if (sets() > 1) {
      in_union = 0;
      for (int64_t w = 0; w < words_; ++w) {
        uint64_t word = 0;
        for (int set = 0; set < sets(); ++set) word |= bits_[set][w];
        in_union += __builtin_popcountll(word);
      }
    }
    for (int r = 0; r < item_.rows(); ++r) item_.reports[r].rows_read += in_union;
    return in_union;
  }

  void Gather() {
    const BitmapKernels& bitmap = item_.plan.bitmap;
    int64_t listed = 0;
    for (int64_t word = 0; word < words_; word += kBlockWords) {
      const int64_t count = std::min(kBlockWords, words_ - word);
      const uint32_t base = static_cast<uint32_t>((first_word_ + word) * 64);
      if (sets() == 1) {
        listed += bitmap.to_list(bits_[0] + word, count, base, buffers_.keys + listed,
                                 kListKeys - listed);
      } else {
        const uint64_t* rows[kMostGroup];
        for (int set = 0; set < sets(); ++set) rows[set] = bits_[set] + word;
        listed += bitmap.union_to_list(rows, sets(), count, base, buffers_.keys + listed,
                                       buffers_.members + listed, kListKeys - listed);
      }
      if (listed > kListKeys - kBlockKeys) {
        Attend(listed, sets() > 1);
        listed = 0;
      }
    }
    if (listed > 0) Attend(listed, sets() > 1);
  }

  void Stream() {
    for (int64_t word = 0; word < words_; word += kBlockWords) {
      const int64_t begin = std::max((first_word_ + word) * 64, item_.held.open_begin());
      const int64_t end = std::min((first_word_ + word + kBlockWords) * 64, item_.held.open_end());
      for (int64_t key = begin; key < end; ++key) {
        const int64_t bit = key - first_word_ * 64;
        uint32_t members = 0;
        for (int set = 0; set < sets(); ++set) {
          members |= static_cast<uint32_t>(TestBit(bits_[set], bit)) << set;
        }
        if (item_.plan.by_group && members != 0) members = 0xFFFF;
        buffers_.keys[key - begin] = static_cast<uint32_t>(key);
        buffers_.members[key - begin] = static_cast<uint16_t>(members);
      }
      Attend(end - begin, /*members=*/true);
    }
  }

  void Attend(int64_t count, bool members) {
    KeyList list;
    list.keys = buffers_.keys;
    list.count = count;
    list.members = members ? buffers_.members : nullptr;
    if (sample_ != nullptr && sample_->weights != nullptr) {
      if (!members) std::fill_n(buffers_.members, count, uint16_t{0xFFFF});
      list.members = buffers_.members;
      list.bias = bias_;
      list.bias_stride = kListKeys;
      int64_t dropped[kMostGroup] = {};
      sample_->weights->Weigh(item_, buffers_.keys, count, buffers_.members, bias_, kListKeys,
                              dropped);
      for (int r = 0; r < item_.rows(); ++r) item_.reports[r].selected -= dropped[r];
    } else if (sample_ != nullptr) {
      for (int r = 0; r < item_.rows(); ++r) list.row_bias[r] = sample_->bias[item_.set_of(r)];
    }
    item_.plan.attention.attend_list(item_.problem, list, item_.state);
  }

  StepItem& item_;
  const SampledKeys* const sample_;
  ListBuffers buffers_;
  float* const bias_;  // [rows, kListKeys] where the sample has weights
  uint64_t* bits_[kMostGroup] = {};
  int64_t first_word_, words_;
};

void AttendRange(StepItem& item, int64_t begin, int64_t end) {
  if (begin >= end) return;
  item.plan.attention.attend_range(item.problem, begin, end, nullptr, nullptr, item.state);
  for (int r = 0; r < item.rows(); ++r) {
    item.reports[r].selected += end - begin;
    item.reports[r].rows_read += end - begin;
  }
}

}  // namespace

RowBlock::RowBlock(const StepPlan& plan, const StepInputs& inputs, int64_t sequence,
                   int64_t kv_head, int64_t first_query, int64_t queries, Arena& arena)
    : sequence(sequence), kv_head(kv_head), first_query(first_query), queries(queries) {
  const LayerShape& shape = plan.shape;
  const SequenceKv& kv = inputs.kv(sequence);
  const int64_t row_bytes = shape.dim * ElementBytes(shape.element);
  const int group = shape.group();
  problem.element = shape.element;
  problem.dim = shape.dim;
  problem.value_dim = shape.value_dim;
  problem.rows = static_cast<int32_t>(group * queries);
  char* const q = arena.Take<char>(problem.rows * row_bytes);
  problem.q = q;
  problem.q_stride = row_bytes;
  problem.k = kv.Keys(kv_head);
  problem.v = kv.Values(kv_head);
  problem.scale = inputs.scale;
  problem.softcap = inputs.softcap;
  for (int row = 0; row < problem.rows; ++row) {
    std::memcpy(q + row * row_bytes,
                inputs.q + sequence * inputs.q_sequence_stride +
                    (kv_head * group + head_of(row)) * inputs.q_head_stride +
                    query_of(row) * inputs.q_query_stride,
                static_cast<size_t>(row_bytes));
  }
  state.max = arena.Take<float>(problem.rows);
  state.sum = arena.Take<float>(problem.rows);
  state.out = arena.Take<float>(problem.rows * shape.value_dim);
  state.out_stride = shape.value_dim;
  InitState(problem.rows, shape.value_dim, state);
}

int64_t RowBlock::row_index(const StepPlan& plan, const StepInputs& inputs, int row) const {
  const int64_t head = kv_head * plan.shape.group() + head_of(row);
  return (sequence * plan.shape.query_heads + head) * inputs.queries + query_of(row);
}

void RowBlock::Finish(const StepPlan& plan, const StepInputs& inputs, const StepOutputs& outputs,
                      uint32_t heads) const {
  const LayerShape& shape = plan.shape;
  for (int row = 0; row < problem.rows; ++row) {
    if ((heads >> head_of(row) & 1) == 0) continue;
    const int64_t head = kv_head * shape.group() + head_of(row);
    char* const out = outputs.out + sequence * outputs.sequence_stride +
                      head * outputs.head_stride + query_of(row) * outputs.query_stride;
    const RunningState of_row = {state.max + row, state.sum + row,
                                 state.out + row * state.out_stride, state.out_stride};
    float lse;
    plan.attention.finish(1, shape.value_dim, of_row,
                          inputs.sink_logits == nullptr ? nullptr : inputs.sink_logits + head,
                          shape.element, out, 0, &lse);
    if (outputs.lse != nullptr) outputs.lse[row_index(plan, inputs, row)] = lse;
  }
}

void AttendHeld(StepItem& item) {
  if (item.attended) return;
  item.attended = true;
  const HeldKeys& held = item.held;
  if (held.holds_all()) return AttendRange(item, held.first(), held.end());
  AttendRange(item, held.first(), held.open_begin());
  if (held.bits(0) != nullptr) {
    ArenaScope scope(item.arena);
    uint64_t* bits[kMostGroup];
    for (int set = 0; set < held.sets(); ++set) bits[set] = item.held.MutableBits(set, item.arena);
    BitmapAttention(item, bits, nullptr).Run();
  }
  AttendRange(item, held.open_end(), held.end());
}

void AttendSampled(StepItem& item) {
  if (!item.sampled.any || item.held.holds_all()) return;
  ArenaScope scope(item.arena);
  BitmapAttention(item, item.sampled.bits, &item.sampled).Run();
}

size_t AttendScratchBytes(const StepPlan& plan) {
  const LayerShape& shape = plan.shape;
  return Arena::Bytes<char>(kMaxRows * shape.dim * ElementBytes(shape.element)) +
         2 * Arena::Bytes<float>(kMaxRows) + Arena::Bytes<float>(kMaxRows * shape.value_dim) +
         Arena::Bytes<uint32_t>(kListKeys) + Arena::Bytes<uint16_t>(kListKeys);
}

size_t SampleWeightScratchBytes(const StepPlan& plan) {
  return Arena::Bytes<float>(plan.shape.group() * kListKeys);
}

}  // namespace sparse_attention::cpu
