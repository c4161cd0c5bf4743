#include "sparse_attention/efficient_attention/cpu/attend.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kBlockWords = 32;
constexpr int64_t kBlockKeys = 64 * kBlockWords;

// Eight keys: 1 where the bit of a byte is set.
typedef uint16_t Members __attribute__((vector_size(16)));
constexpr auto kSpread = [] {
  std::array<std::array<uint16_t, 8>, 256> spread = {};
  for (size_t byte = 0; byte < 256; ++byte) {
    for (size_t i = 0; i < 8; ++i) spread[byte][i] = static_cast<uint16_t>(byte >> i & 1);
  }
  return spread;
}();

// The keys of a part that are marked in bitmaps.
class PartOfBitmaps {
 public:
  PartOfBitmaps(StepItem& item, const AttendedKeys& keys, const KeySpan& part,
                const RunningState& state, Arena& scratch)
      : item_(item),
        scratch_(scratch),
        keys_(keys),
        part_(part),
        state_(state),
        listed_(scratch.Take<uint32_t>(kListKeys)),
        members_(scratch.Take<uint16_t>(kListKeys)),
        scored_(item.logits.Cover(keys.open)),
        weighed_(keys.sample != nullptr && keys.sample->weights != nullptr),
        logits_(scored_ || weighed_ ? scratch.Take<float>(item.rows() * kListKeys) : nullptr),
        bias_(weighed_ ? scratch.Take<float>(item.rows() * kListKeys) : nullptr) {}

  void Gather() {
    const BitmapKernels& bitmap = item_.plan.bitmap;
    const int64_t end_word = BitmapWords(part_.end);
    int64_t listed = 0;
    for (int64_t word = part_.begin / 64; word < end_word; word += kBlockWords) {
      const int64_t count = std::min(kBlockWords, end_word - word);
      const uint32_t base = static_cast<uint32_t>(word * 64);
      if (sets() == 1) {
        listed +=
            bitmap.to_list(keys_.bits[0] + word, count, base, listed_ + listed, kListKeys - listed);
      } else {
        const uint64_t* rows[kMostGroup];
        for (int set = 0; set < sets(); ++set) rows[set] = keys_.bits[set] + word;
        listed += bitmap.union_to_list(rows, sets(), count, base, listed_ + listed,
                                       members_ + listed, kListKeys - listed);
      }
      if (listed > kListKeys - kBlockKeys) {
        AttendListed(listed);
        listed = 0;
      }
    }
    if (listed > 0) AttendListed(listed);
  }

  void ReadInOrder() {
    const uint16_t all = item_.plan.by_group ? 0xFFFF : 1;  // rows of a set
    for (int64_t first = part_.begin / 64 * 64; first < part_.end; first += kListKeys) {
      const int64_t end = std::min(first + kListKeys, (part_.end + 63) / 64 * 64);
      for (int64_t word = first / 64; word < end / 64; ++word) {
        for (int byte = 0; byte < 8; ++byte) {
          Members members = {};
          for (int set = 0; set < sets(); ++set) {
            Members of_set;
            std::memcpy(&of_set, kSpread[keys_.bits[set][word] >> (8 * byte) & 0xFF].data(),
                        sizeof(of_set));
            members |= of_set * all << set;
          }
          std::memcpy(members_ + (word * 64 - first) + 8 * byte, &members, sizeof(members));
        }
      }
      const KeySpan span = {std::max(first, part_.begin), std::min(end, part_.end)};
      for (int64_t key = span.begin; key < span.end; ++key) {
        listed_[key - first] = static_cast<uint32_t>(key);
      }
      const int64_t skipped = span.begin - first;
      Attend({.keys = listed_ + skipped, .count = span.size()}, members_ + skipped,
             scored_ ? item_.logits.At(0, span.begin) : nullptr, item_.logits.stride);
    }
  }

 private:
  int sets() const { return item_.held.sets(); }

  void AttendListed(int64_t count) {
    for (int row = 0; scored_ && row < item_.rows(); ++row) {
      const float* const known = item_.logits.At(row, item_.logits.first);
      float* const out = logits_ + row * kListKeys;
      for (int64_t i = 0; i < count; ++i) out[i] = known[listed_[i] - item_.logits.first];
    }
    const bool members = sets() > 1;
    if (!members && bias_ != nullptr) std::fill_n(members_, count, uint16_t{0xFFFF});
    Attend({.keys = listed_, .count = count}, members || bias_ != nullptr ? members_ : nullptr,
           scored_ ? logits_ : nullptr, kListKeys);
  }

  // `members` and `logits` of the list, or null.
  void Attend(KeyList list, uint16_t* members, const float* logits, int64_t stride) {
    const AttentionKernels& attention = item_.plan.attention;
    if (weighed_) {
      if (logits == nullptr) {  // keys are read once for both
        attention.logits_list(item_.problem, list.keys, list.count, logits_, kListKeys);
        logits = logits_;
        stride = kListKeys;
      }
      int64_t dropped[kMostGroup] = {};
      keys_.sample->weights->Weigh(item_, list.keys, list.count, logits, stride, members, bias_,
                                   kListKeys, dropped, scratch_);
      list.bias = bias_;
      list.bias_stride = kListKeys;
      for (int r = 0; r < item_.rows(); ++r) {
        // Other parts of the item may be at work.
        std::atomic_ref(item_.reports[r].selected).fetch_sub(dropped[r], std::memory_order_relaxed);
      }
    } else if (keys_.sample != nullptr) {
      for (int r = 0; r < item_.rows(); ++r) list.row_bias[r] = keys_.sample->bias[item_.set_of(r)];
    }
    list.members = members;
    if (logits != nullptr) {
      attention.attend_scored_list(item_.problem, list, logits, stride, state_);
    } else {
      attention.attend_list(item_.problem, list, state_);
    }
  }

  StepItem& item_;
  Arena& scratch_;
  const AttendedKeys& keys_;
  const KeySpan part_;
  const RunningState& state_;
  uint32_t* const listed_;
  uint16_t* const members_;
  const bool scored_;    // only values are read
  const bool weighed_;   // by the sample's weights
  float* const logits_;  // [rows, kListKeys], of the list
  float* const bias_;    // [rows, kListKeys] where the sample has weights
};

void ReportRange(StepItem& item, const KeySpan& keys) {
  for (int r = 0; r < item.rows(); ++r) {
    item.reports[r].selected += keys.size();
    item.reports[r].rows_read += keys.size();
  }
}

// Takes the bitmaps of the open part, and decides how to read it. Returns how many rows are read.
int64_t TakeBitmaps(StepItem& item, uint64_t* const* bits, AttendedKeys& keys) {
  const HeldKeys& held = item.held;
  const BitmapKernels& bitmap = item.plan.bitmap;
  keys.open = {held.open_begin(), held.open_end()};
  const int64_t first_word = keys.open.begin / 64;
  const int64_t end_word = BitmapWords(keys.open.end);
  int64_t selected[kMostGroup] = {};
  for (int set = 0; set < held.sets(); ++set) {
    ClearBits(bits[set], first_word * 64, keys.open.begin);
    ClearBits(bits[set], keys.open.end, end_word * 64);
    selected[set] = bitmap.count(bits[set] + first_word, end_word - first_word);
    keys.bits[set] = bits[set];
  }
  // Rows that any set wants, and runs of neighbours among them.
  int64_t rows = 0, runs = 0;
  uint64_t before = 0;
  for (int64_t word = first_word; word < end_word; word += kBlockWords) {
    const int64_t count = std::min(kBlockWords, end_word - word);
    uint64_t wanted[kBlockWords], starts[kBlockWords];
    for (int64_t w = 0; w < count; ++w) wanted[w] = bits[0][word + w];
    for (int set = 1; set < held.sets(); ++set) {
      for (int64_t w = 0; w < count; ++w) wanted[w] |= bits[set][word + w];
    }
    for (int64_t w = 0; w < count; ++w) {
      starts[w] = wanted[w] & ~(wanted[w] << 1 | (w == 0 ? before : wanted[w - 1]) >> 63);
    }
    before = wanted[count - 1];
    rows += bitmap.count(wanted, count);
    runs += bitmap.count(starts, count);
  }
  for (int r = 0; r < item.rows(); ++r) {
    item.reports[r].selected += selected[item.set_of(r)];
    item.reports[r].rows_read += rows;
  }
  keys.in_order = item.plan.cost.ReadsInOrder(rows, runs, keys.open.size(), item.keys);
  if (rows == 0) keys.bits[0] = nullptr;
  return keys.in_order ? keys.open.size() : rows;
}

// `rows` of them are read.
void Cut(int64_t rows, AttendedKeys& keys) {
  KeySpan& all = keys.parts.keys;
  for (const KeySpan& span :
       {keys.before, keys.bits[0] == nullptr ? KeySpan() : keys.open, keys.after}) {
    if (span.empty()) continue;
    all = all.empty() ? span : KeySpan{all.begin, span.end};
  }
  keys.parts.part_keys = PartKeys(rows, all.size(), all.end);
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
  state = TakeState(arena, problem.rows, shape.value_dim);
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

RunningState TakeState(Arena& arena, int64_t rows, int64_t value_dim) {
  RunningState state;
  state.max = arena.Take<float>(rows);
  state.sum = arena.Take<float>(rows);
  state.out = arena.Take<float>(rows * value_dim);
  state.out_stride = value_dim;
  return state;
}

size_t StateBytes(int64_t rows, int64_t value_dim) {
  return 2 * Arena::Bytes<float>(rows) + Arena::Bytes<float>(rows * value_dim);
}

AttendedKeys HeldToAttend(StepItem& item) {
  HeldKeys& held = item.held;
  AttendedKeys keys;
  int64_t rows = 0;
  if (held.holds_all()) {
    keys.before = {held.first(), held.end()};
  } else {
    keys.before = {held.first(), held.open_begin()};
    keys.after = {held.open_end(), held.end()};
    if (held.bits(0) != nullptr) {
      uint64_t* bits[kMostGroup];
      for (int set = 0; set < held.sets(); ++set) bits[set] = held.MutableBits(set, item.arena);
      rows = TakeBitmaps(item, bits, keys);
    }
  }
  ReportRange(item, keys.before);
  ReportRange(item, keys.after);
  Cut(rows + keys.before.size() + keys.after.size(), keys);
  return keys;
}

AttendedKeys SampledToAttend(StepItem& item) {
  AttendedKeys keys;
  keys.sample = &item.sampled;
  Cut(TakeBitmaps(item, item.sampled.bits, keys), keys);
  return keys;
}

void AttendPart(StepItem& item, const AttendedKeys& keys, int64_t part, const RunningState& state,
                Arena& scratch) {
  const auto attend_range = [&](const KeySpan& range) {
    const KeySpan in_part = InPart(range, keys.parts, part);
    if (in_part.empty()) return;
    item.plan.attention.attend_range(item.problem, in_part.begin, in_part.end, nullptr, nullptr,
                                     state);
  };
  attend_range(keys.before);
  const KeySpan open = InPart(keys.open, keys.parts, part);
  if (keys.bits[0] != nullptr && !open.empty()) {
    ArenaScope scope(scratch);
    PartOfBitmaps bitmaps(item, keys, open, state, scratch);
    if (keys.in_order) {
      bitmaps.ReadInOrder();
    } else {
      bitmaps.Gather();
    }
  }
  attend_range(keys.after);
}

size_t AttendScratchBytes(const StepPlan& plan, bool logits_known) {
  return Arena::Bytes<uint32_t>(kListKeys) + Arena::Bytes<uint16_t>(kListKeys) +
         (logits_known ? Arena::Bytes<float>(plan.shape.group() * kListKeys) : 0);
}

size_t RowBlockBytes(const StepPlan& plan) {
  const LayerShape& shape = plan.shape;
  return Arena::Bytes<char>(kMaxRows * shape.dim * ElementBytes(shape.element)) +
         StateBytes(kMaxRows, shape.value_dim);
}

}  // namespace sparse_attention::cpu
