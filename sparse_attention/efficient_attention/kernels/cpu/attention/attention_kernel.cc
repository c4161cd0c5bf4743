#include <math.h>

#include <cstdint>
#include <limits>
#include <type_traits>

#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention_tile.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/simd.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Keys between two additions to the caller's state: sums of few numbers first, and what a number
// that is not finite makes to be done again.
constexpr int64_t kBlock = 1024;

// A range or a list. `logits`: they are known, keys are not read.
struct Segment {
  int64_t begin = 0;  // of a range
  int64_t count = 0;
  const uint32_t* keys = nullptr;  // of a list
  const uint16_t* members = nullptr;
  const float* bias = nullptr;
  int64_t bias_stride = 0;
  const float* row_bias = nullptr;
  const int64_t* row_begin = nullptr;
  const int64_t* row_end = nullptr;
  int64_t inner_begin = 0, inner_end = 0;  // keys within the bounds of all rows
  const float* logits = nullptr;
  int64_t logits_stride = 0;

  // Every row attends to all n keys from `first` on, by their logits and its bias alone.
  bool IsPlain(int64_t first, int n) const {
    return members == nullptr && bias == nullptr &&
           (row_begin == nullptr ||
            (inner_begin <= begin + first && begin + first + n <= inner_end));
  }
  int64_t Key(int64_t i) const { return keys != nullptr ? keys[i] : begin + i; }
  float Bias(int r, int64_t i) const {
    return (row_bias != nullptr ? row_bias[r] : 0) +
           (bias != nullptr ? bias[r * bias_stride + i] : 0);
  }
};

// The rows of a segment in memory: addresses of this tile and the next, and how far ahead and how
// much to ask for.
class Rows {
 public:
  Rows(const RowView& view, const Segment& segment, int64_t row_bytes)
      : view_(view), segment_(segment) {
    const bool aligned =
        ((reinterpret_cast<uintptr_t>(view.base) | static_cast<uintptr_t>(view.row_stride) |
          static_cast<uintptr_t>(view.page_stride)) &
         63) == 0;
    lines_ = static_cast<int>((row_bytes + 63) / 64) + (aligned ? 0 : 1);
    // Measured. Keys and values of a tile are read in turn; the first level has room for less than
    // a tile of both.
    const bool list = segment.keys != nullptr;
    const int64_t bytes = near_ ? (list ? 5120 : 6144) : (list ? 16384 : 12288);
    constexpr int64_t kFarthest = Addresses::kTilesAhead * kTile;
    distance_ = bytes / row_bytes;
    distance_ = distance_ > kFarthest ? kFarthest : distance_ < 4 ? 4 : distance_;
    for (int64_t first = 0; first < kFarthest; first += kTile) Fill(first);
    const int64_t at_once = distance_ < segment.count ? distance_ : segment.count;
    for (int64_t i = 0; i < at_once; ++i) PrefetchRow(addresses_.at(i), 0, lines_, near_);
  }

  // Before the tile that begins at key `first` of the segment.
  SA_INLINE void Advance(int64_t first) { Fill(first + Addresses::kTilesAhead * kTile); }
  const Addresses& addresses() const { return addresses_; }
  Ahead At(int64_t first) const { return {first + distance_, lines_, near_}; }

 private:
  // Behind the end stands the last row again.
  SA_INLINE void Fill(int64_t first) {
    for (int64_t i = first; i < first + kTile; ++i) {
      const int64_t key = segment_.Key(i < segment_.count ? i : segment_.count - 1);
      addresses_.rows[i & (Addresses::kSize - 1)] = view_.Row(key);
    }
  }

  const RowView view_;
  const Segment& segment_;
  Addresses addresses_;
  const bool near_ = PrefersNearPrefetch();
  int64_t distance_;
  int lines_;
};

template <typename T, int kRows>
SA_INLINE void DotPartOf(const Query<T>& query, const AttentionProblem& problem, int first_row,
                         const Rows& keys, int64_t first, Ahead ahead, F32 (*x)[kTileVectors],
                         int part) {
  const Addresses& rows = keys.addresses();
#if defined(SA_AVX512_BF16)
  if constexpr (kRows == 4 && std::is_same_v<T, BFloat16>) {
    if (problem.dim == 128) {
      return DotPartOfFour<8>(query, first_row, rows, first, ahead, x, part);
    }
    if (problem.dim == 64) {
      return DotPartOfFour<4>(query, first_row, rows, first, ahead, x, part);
    }
  }
#endif
  if (kRows == 4 && problem.dim == 4 * kChunk) {
    DotPart<T, kRows, 4>(query, first_row, problem.dim, rows, first, ahead, x, part);
  } else {
    DotPart<T, kRows, 0>(query, first_row, problem.dim, rows, first, ahead, x, part);
  }
}

// The logits of the first n keys of a tile, and of what fills their last part.
template <typename T>
SA_INLINE void DotRows(const Query<T>& query, const AttentionProblem& problem, const Rows& keys,
                       int64_t first, int n, F32 (*x)[kTileVectors]) {
  const int parts = (n + kPart - 1) / kPart;
  for (int part = 0; part < parts; ++part) {
    const int64_t key = first + part * kPart;
    Ahead ahead = keys.At(key);
    for (int r = 0; r < problem.rows; r += kRowBlock) {
      const int left = problem.rows - r;
      if (left >= 4) {
        DotPartOf<T, 4>(query, problem, r, keys, key, ahead, x, part);
      } else if (left == 3) {
        DotPartOf<T, 3>(query, problem, r, keys, key, ahead, x, part);
      } else if (left == 2) {
        DotPartOf<T, 2>(query, problem, r, keys, key, ahead, x, part);
      } else {
        DotPartOf<T, 1>(query, problem, r, keys, key, ahead, x, part);
      }
      ahead.lines = 0;  // asked for once
    }
  }
  for (int r = 0; r < problem.rows; ++r) {
    for (int i = 0; i < parts * kPartVectors; ++i) {
      x[r][i] *= problem.scale;
      if (problem.softcap > 0) x[r][i] = Tanh(x[r][i] / problem.softcap) * problem.softcap;
    }
  }
}

template <typename T>
SA_INLINE void AccumulateRows(const AttentionProblem& problem, const Rows& values, int64_t first,
                              int n, const float (*weights)[kTile], const float* decay,
                              float (*out)[kMaxDim]) {
  Ahead ahead = values.At(first);
  const Addresses& rows = values.addresses();
  const int dim = problem.value_dim;
  for (int r = 0; r < problem.rows; r += kRowBlock) {
    const int left = problem.rows - r;
    if (left >= 4) {
      AccumulateTile<T, 4>(rows, first, n, ahead, dim, weights + r, decay + r, out + r);
    } else if (left == 3) {
      AccumulateTile<T, 3>(rows, first, n, ahead, dim, weights + r, decay + r, out + r);
    } else if (left == 2) {
      AccumulateTile<T, 2>(rows, first, n, ahead, dim, weights + r, decay + r, out + r);
    } else {
      AccumulateTile<T, 1>(rows, first, n, ahead, dim, weights + r, decay + r, out + r);
    }
    ahead.lines = 0;
  }
}

SA_INLINE I32 LaneIndex() {
  I32 lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane;
}

// Adds the biases to the logits of a tile with n keys, and makes them -infinity where the row does
// not attend. Vectors without keys are left alone.
SA_INLINE void Restrict(const Segment& segment, int rows, int64_t first, int n,
                        F32 (*x)[kTileVectors]) {
  if (n == kTile && segment.IsPlain(first, n)) {
    if (segment.row_bias == nullptr) return;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < kTileVectors; ++i) x[r][i] += segment.row_bias[r];
    }
    return;
  }
  uint16_t members[kTile] = {};
  if (segment.members != nullptr) {
    std::memcpy(members, segment.members + first, sizeof(uint16_t) * static_cast<size_t>(n));
  }
  for (int i = 0; i * kLanes < n; ++i) {
    const int lanes = n - i * kLanes < kLanes ? n - i * kLanes : kLanes;
    const I32 lane = LaneIndex();
    U16Half half;
    std::memcpy(&half, members + i * kLanes, sizeof(half));
    const U32 member = __builtin_convertvector(half, U32);
    for (int r = 0; r < rows; ++r) {
      F32 logit = x[r][i];
      if (segment.row_bias != nullptr) logit += segment.row_bias[r];
      if (segment.bias != nullptr) {
        const float* bias = segment.bias + r * segment.bias_stride + first + i * kLanes;
        logit += lanes == kLanes ? Load(bias) : LoadFirst(bias, lanes);
      }
      if (segment.members != nullptr) {
        logit = (member & (1u << r)) != 0 ? logit : Set(-kInfinity);
      }
      if (segment.row_begin != nullptr) {
        const int64_t from = segment.begin + first + i * kLanes;
        const int64_t low = segment.row_begin[r] - from, high = segment.row_end[r] - from;
        const int32_t begin = static_cast<int32_t>(low < 0 ? 0 : low > kLanes ? kLanes : low);
        const int32_t end = static_cast<int32_t>(high < 0 ? 0 : high > kLanes ? kLanes : high);
        logit = (lane >= begin) & (lane < end) ? logit : Set(-kInfinity);
      }
      x[r][i] = lanes == kLanes ? logit : (lane < lanes ? logit : Set(-kInfinity));
    }
  }
}

// The softmax over a block, `out` in chunks as they were loaded.
struct Local {
  alignas(64) float out[kMaxRows][kMaxDim];
  F32 sum[kMaxRows];
  float max[kMaxRows];
};

SA_INLINE void Clear(int rows, int value_dim, Local& local) {
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < value_dim; i += kLanes) Store(Set(-0.0f), local.out[r] + i);
    local.sum[r] = F32{};
    local.max[r] = -kInfinity;
  }
  // Chunks are whole here.
  for (int r = 0; r < rows && value_dim % kChunk != 0; ++r) {
    float* last = local.out[r] + value_dim / kChunk * kChunk;
    Store(Set(-0.0f), last);
    Store(Set(-0.0f), last + kLanes);
  }
}

// The logits of a tile with n keys become weights exp(x - max), and `decay` what the sums so far
// are worth.
SA_INLINE void Weigh(int rows, int n, const F32 (*x)[kTileVectors], Local& local,
                     float (*weights)[kTile], float* decay) {
  const int vectors = (n + kLanes - 1) / kLanes;
  // For all rows at once, and without branches: maxima change at random.
  constexpr int kRowVectors = kMaxRows / kLanes;
  float base[kMaxRows] = {}, shift[kMaxRows] = {};
  for (int r = 0; r < rows; ++r) {
    F32 most = x[r][0];
    for (int i = 1; i < vectors; ++i) most = Max(most, x[r][i]);
    const float tile_max = MaxLanes(most);
    const float before = local.max[r];
    const float max = tile_max > before ? tile_max : before;
    base[r] = max == -kInfinity ? 0 : max;
    shift[r] = before == max ? 0 : before - base[r];  // of two infinite maxima too
    local.max[r] = max;
  }
  for (int i = 0; i < kRowVectors; ++i) {
    if (i * kLanes < rows) Store(Exp(Load(shift + i * kLanes)), decay + i * kLanes);
  }
  for (int r = 0; r < rows; ++r) {
    F32 sum = local.sum[r] * decay[r];
    for (int i = 0; i < vectors; ++i) {
      const F32 weight = Exp(x[r][i] - base[r]);
      sum += weight;
      Store(weight, weights[r] + i * kLanes);
    }
    local.sum[r] = sum;
  }
}

// One row's softmax (max, sum, out) added to another's.
SA_INLINE void MergeRow(float max, float sum, const float* out, int value_dim, float& into_max,
                        float& into_sum, float* into_out) {
  if (max == -kInfinity) return;
  if (max != max || into_max != into_max) {
    into_max = into_sum = kNan;
    for (int i = 0; i < value_dim; ++i) into_out[i] = kNan;
    return;
  }
  if (max == kInfinity && into_max == kInfinity) {
    into_sum += sum;
    for (int i = 0; i < value_dim; ++i) into_out[i] += out[i];
    return;
  }
  if (into_max == kInfinity) return;
  if (into_max == -kInfinity || max == kInfinity) {
    into_max = max;
    into_sum = sum;
    for (int i = 0; i < value_dim; ++i) into_out[i] = out[i];
    return;
  }
  const float most = max > into_max ? max : into_max;
  const float weight = Exp(Set(max - most))[0], decay = Exp(Set(into_max - most))[0];
  into_max = most;
  into_sum = into_sum * decay + sum * weight;
  const int whole = value_dim / kLanes * kLanes;
  for (int i = 0; i < whole; i += kLanes) {
    Store(MulAdd(Load(out + i), Set(weight), Load(into_out + i) * decay), into_out + i);
  }
  for (int i = whole; i < value_dim; ++i) {
    into_out[i] = __builtin_fmaf(out[i], weight, into_out[i] * decay);
  }
}

// Row r over keys [begin, end) of the segment, one by one and only those that it attends to:
// correct whatever they hold. `out` has room for kMaxDim floats.
template <typename T>
void AttendCarefully(const AttentionProblem& problem, const Segment& segment, int r, int64_t begin,
                     int64_t end, const float (*logits)[kTile], float& max, float& sum,
                     float* out) {
  const int dim = problem.value_dim;
  for (int64_t i = begin; i < end; ++i) {
    const float x = logits[r][i - begin];
    if (x == -kInfinity || max != max) continue;
    if (x != x) {
      max = sum = kNan;
      for (int c = 0; c < dim; ++c) out[c] = kNan;
      continue;
    }
    if (x < max && max == kInfinity) continue;
    // Infinity swallows the bias, which says how many keys this one stands for.
    float weight = x == kInfinity ? Exp(Set(segment.Bias(r, i)))[0] : 1.0f;
    if (x > max) {
      // What an infinite logit makes worthless is forgotten, NaN or not.
      const bool first = max == -kInfinity || x == kInfinity;
      const float decay = first ? 0.0f : Exp(Set(max - x))[0];
      max = x;
      sum *= decay;
      for (int c = 0; c < dim; ++c) out[c] = first ? -0.0f : out[c] * decay;
    } else if (x < max) {
      weight = Exp(Set(x - max))[0];
    }
    sum += weight;
    const T* v = reinterpret_cast<const T*>(problem.v.Row(segment.Key(i)));
    for (int c = 0; c < dim; c += kLanes) {
      const int count = dim - c < kLanes ? dim - c : kLanes;
      const F32 value = count == kLanes ? LoadFloats(v + c) : LoadFirst(v + c, count);
      const F32 so_far = count == kLanes ? Load(out + c) : LoadFirst(out + c, count);
      const F32 now = MulAdd(value, Set(weight), so_far);
      if (count == kLanes) {
        Store(now, out + c);
      } else {
        StoreFirst(now, out + c, count);
      }
    }
  }
}

template <typename T>
SA_INLINE void KnownLogits(const Segment& segment, int rows, int64_t first, int n,
                           F32 (*x)[kTileVectors]) {
  for (int r = 0; r < rows; ++r) {
    const float* logits = segment.logits + r * segment.logits_stride + first;
    for (int i = 0; i * kLanes < n; ++i) {
      const int count = n - i * kLanes;
      x[r][i] = count >= kLanes ? Load(logits + i * kLanes) : LoadFirst(logits + i * kLanes, count);
    }
  }
}

// A block that brought row r a number that is not finite, once more.
template <typename T>
__attribute__((noinline)) void RepeatRow(const AttentionProblem& problem, const Segment& segment,
                                         const Query<T>& query, int r, int64_t begin, int64_t end,
                                         float& max, float& sum, float* out) {
  max = -kInfinity;
  sum = 0;
  for (int64_t first = begin; first < end; first += kTile) {
    const int n = static_cast<int>(end - first < kTile ? end - first : kTile);
    F32 x[kMaxRows][kTileVectors];
    if (segment.logits != nullptr) {
      KnownLogits<T>(segment, problem.rows, first, n, x);
    } else {
      const Segment tile = {.begin = segment.begin + first,
                            .count = n,
                            .keys = segment.keys == nullptr ? nullptr : segment.keys + first};
      Rows keys(problem.k, tile, problem.dim * static_cast<int64_t>(sizeof(T)));
      keys.Advance(0);
      DotRows<T>(query, problem, keys, 0, n, x);
    }
    Restrict(segment, problem.rows, first, n, x);
    float logits[kMaxRows][kTile];
    for (int i = 0; i * kLanes < n; ++i) Store(x[r][i], logits[r] + i * kLanes);
    AttendCarefully<T>(problem, segment, r, first, first + n, logits, max, sum, out);
  }
}

// Adds a block, keys [begin, end) of the segment, to the caller's state.
template <typename T>
SA_INLINE void Flush(const AttentionProblem& problem, const Segment& segment, const Query<T>& query,
                     int64_t begin, int64_t end, Local& local, const RunningState& state) {
  for (int r = 0; r < problem.rows; ++r) {
    float max = local.max[r], sum = SumLanes(local.sum[r]);
    float* out = local.out[r];
    if (max == -kInfinity && sum == 0) continue;  // the row attends to nothing here
    if (state.max[r] != state.max[r]) continue;   // NaN stays
    F32 probe = Set(max) * 0.0f + sum * 0.0f;
    for (int c = 0; c < problem.value_dim; c += kChunk) {
      const Chunk chunk = {Load(out + c), Load(out + c + kLanes)};
      probe = MulAdd(chunk.a, Set(0), MulAdd(chunk.b, Set(0), probe));
      const Chunk ordered = InOrder<T>(chunk);
      Store(ordered.a, out + c);
      Store(ordered.b, out + c + kLanes);
    }
    if (SumLanes(probe) != 0) {
      RepeatRow(problem, segment, query, r, begin, end, max, sum, out);
    }
    MergeRow(max, sum, out, problem.value_dim, state.max[r], state.sum[r],
             state.out + r * state.out_stride);
  }
}

template <typename T>
void Attend(const AttentionProblem& problem, const Segment& segment, const RunningState& state) {
  if (segment.count <= 0) return;
  const bool known = segment.logits != nullptr;
  Query<T> query;
  if (!known) LoadQuery(problem, query);
  Local local;
  Rows keys(problem.k, segment, problem.dim * static_cast<int64_t>(sizeof(T)));
  Rows values(problem.v, segment, problem.value_dim * static_cast<int64_t>(sizeof(T)));
  for (int64_t begin = 0; begin < segment.count; begin += kBlock) {
    const int64_t end = begin + kBlock < segment.count ? begin + kBlock : segment.count;
    Clear(problem.rows, problem.value_dim, local);
    for (int64_t first = begin; first < end; first += kTile) {
      const int n = static_cast<int>(end - first < kTile ? end - first : kTile);
      F32 x[kMaxRows][kTileVectors];
      if (known) {
        KnownLogits<T>(segment, problem.rows, first, n, x);
      } else {
        keys.Advance(first);
        DotRows<T>(query, problem, keys, first, n, x);
      }
      values.Advance(first);
      Restrict(segment, problem.rows, first, n, x);
      alignas(64) float weights[kMaxRows][kTile];
      float decay[kMaxRows];
      Weigh(problem.rows, n, x, local, weights, decay);
      AccumulateRows<T>(problem, values, first, n, weights, decay, local.out);
    }
    Flush<T>(problem, segment, query, begin, end, local, state);
  }
}

template <typename T>
void Logits(const AttentionProblem& problem, const Segment& segment, float* out,
            int64_t out_stride) {
  if (segment.count <= 0) return;
  Query<T> query;
  LoadQuery(problem, query);
  Rows keys(problem.k, segment, problem.dim * static_cast<int64_t>(sizeof(T)));
  for (int64_t first = 0; first < segment.count; first += kTile) {
    keys.Advance(first);
    F32 x[kMaxRows][kTileVectors];
    const int n = static_cast<int>(segment.count - first < kTile ? segment.count - first : kTile);
    DotRows<T>(query, problem, keys, first, n, x);
    for (int r = 0; r < problem.rows; ++r) {
      for (int i = 0; i * kLanes < n; ++i) {
        float* to = out + r * out_stride + first + i * kLanes;
        if (n - i * kLanes >= kLanes) {
          Store(x[r][i], to);
        } else {
          StoreFirst(x[r][i], to, n - i * kLanes);
        }
      }
    }
  }
}

void AttendAny(const AttentionProblem& problem, const Segment& segment, const RunningState& state) {
  switch (problem.element) {
    case Element::kFloat32:
      return Attend<float>(problem, segment, state);
    case Element::kFloat16:
      return Attend<Float16>(problem, segment, state);
    case Element::kBFloat16:
      return Attend<BFloat16>(problem, segment, state);
  }
}
void LogitsAny(const AttentionProblem& problem, const Segment& segment, float* out,
               int64_t out_stride) {
  switch (problem.element) {
    case Element::kFloat32:
      return Logits<float>(problem, segment, out, out_stride);
    case Element::kFloat16:
      return Logits<Float16>(problem, segment, out, out_stride);
    case Element::kBFloat16:
      return Logits<BFloat16>(problem, segment, out, out_stride);
  }
}

void AttendRange(const AttentionProblem& problem, int64_t begin, int64_t end,
                 const int64_t* row_begin, const int64_t* row_end, const RunningState& state) {
  Segment segment = {.begin = begin, .count = end - begin};
  int64_t begins[kMaxRows], ends[kMaxRows];
  if (row_begin != nullptr || row_end != nullptr) {
    segment.inner_begin = begin;
    segment.inner_end = end;
    for (int r = 0; r < problem.rows; ++r) {
      begins[r] = row_begin != nullptr ? row_begin[r] : begin;
      ends[r] = row_end != nullptr ? row_end[r] : end;
      if (begins[r] > segment.inner_begin) segment.inner_begin = begins[r];
      if (ends[r] < segment.inner_end) segment.inner_end = ends[r];
    }
    segment.row_begin = begins;
    segment.row_end = ends;
  }
  AttendAny(problem, segment, state);
}

Segment SegmentOf(const KeyList& list) {
  return {.count = list.count,
          .keys = list.keys,
          .members = list.members,
          .bias = list.bias,
          .bias_stride = list.bias_stride,
          .row_bias = list.row_bias};
}
void AttendList(const AttentionProblem& problem, const KeyList& list, const RunningState& state) {
  AttendAny(problem, SegmentOf(list), state);
}
void AttendScoredList(const AttentionProblem& problem, const KeyList& list, const float* logits,
                      int64_t logits_stride, const RunningState& state) {
  Segment segment = SegmentOf(list);
  segment.logits = logits;
  segment.logits_stride = logits_stride;
  AttendAny(problem, segment, state);
}

void LogitsRange(const AttentionProblem& problem, int64_t begin, int64_t end, float* out,
                 int64_t out_stride) {
  LogitsAny(problem, {.begin = begin, .count = end - begin}, out, out_stride);
}
void LogitsList(const AttentionProblem& problem, const uint32_t* keys, int64_t count, float* out,
                int64_t out_stride) {
  LogitsAny(problem, {.count = count, .keys = keys}, out, out_stride);
}

void Merge(int rows, int value_dim, const RunningState& from, const RunningState& into) {
  for (int r = 0; r < rows; ++r) {
    MergeRow(from.max[r], from.sum[r], from.out + r * from.out_stride, value_dim, into.max[r],
             into.sum[r], into.out + r * into.out_stride);
  }
}

// out = weight * row / denominator.
template <typename T>
SA_INLINE void WriteRow(const float* row, int value_dim, float weight, float denominator, T* out) {
  for (int i = 0; i < value_dim; i += kLanes) {
    const int count = value_dim - i < kLanes ? value_dim - i : kLanes;
    if (count == kLanes) {
      StoreFloats(Load(row + i) * weight / denominator, out + i);
    } else {
      StoreFloatsFirst(LoadFirst(row + i, count) * weight / denominator, out + i, count);
    }
  }
}

template <typename T>
void FinishAs(int rows, int value_dim, const RunningState& state, const float* sinks, char* out,
              int64_t out_stride, float* lse) {
  for (int r = 0; r < rows; ++r) {
    T* to = reinterpret_cast<T*>(out + r * out_stride);
    const float max = state.max[r], sink = sinks != nullptr ? sinks[r] : -kInfinity;
    if (max == -kInfinity || (sink == kInfinity && max < kInfinity)) {
      std::memset(to, 0, sizeof(T) * static_cast<size_t>(value_dim));
      if (lse != nullptr) lse[r] = sink;
      continue;
    }
    // Of two infinite logits each weighs one.
    const float most = sink > max ? sink : max;
    const float weight = max == most ? 1.0f : Exp(Set(max - most))[0];
    const float extra = sink == most ? 1.0f : Exp(Set(sink - most))[0];
    const float denominator = state.sum[r] * weight + extra;
    WriteRow(state.out + r * state.out_stride, value_dim, weight, denominator, to);
    if (lse != nullptr) lse[r] = static_cast<float>(most + ::log(static_cast<double>(denominator)));
  }
}

void Finish(int rows, int value_dim, const RunningState& state, const float* sinks, Element element,
            void* out, int64_t out_stride, float* lse) {
  char* to = static_cast<char*>(out);
  switch (element) {
    case Element::kFloat32:
      return FinishAs<float>(rows, value_dim, state, sinks, to, out_stride, lse);
    case Element::kFloat16:
      return FinishAs<Float16>(rows, value_dim, state, sinks, to, out_stride, lse);
    case Element::kBFloat16:
      return FinishAs<BFloat16>(rows, value_dim, state, sinks, to, out_stride, lse);
  }
}

}  // namespace

AttentionKernels MakeAttentionKernels() {
  return {AttendRange, AttendList, AttendScoredList, LogitsRange, LogitsList, Merge, Finish};
}

}  // namespace sparse_attention::cpu::SA_ISA
