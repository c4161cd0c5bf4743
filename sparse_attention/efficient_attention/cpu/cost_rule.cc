#include "sparse_attention/efficient_attention/cpu/cost_rule.h"

#if defined(__linux__)
#include <unistd.h>
#endif

#include <algorithm>
#include <array>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/bandwidth.h"

namespace sparse_attention::cpu {
namespace {

constexpr int64_t kMegabyte = int64_t{1} << 20;
// Of a thread, long enough that a prefetch's distance does not count; and of all.
constexpr int64_t kMostBytes = 2 * kMegabyte, kMostBytesInAll = 48 * kMegabyte;
constexpr int64_t kPageKeys = 16;
constexpr int kRepetitions = 7;
constexpr double kLeastShare = 0.25, kMostShare = 0.7;

int64_t RowBytes(const LayerShape& shape) {
  return (shape.dim + shape.value_dim) * ElementBytes(shape.element);
}

int64_t CacheBytes() {
  int64_t bytes = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  return bytes > 0 ? bytes : 32 * kMegabyte;
}

// What is read: all rows, of which some are wanted, or those alone.
enum Way { kRowsInOrder, kRows, kPagesInOrder, kPages, kWays };

// About `share` of `keys` keys, in runs of `run`.
std::vector<uint32_t> RandomKeys(int64_t keys, int64_t run, double share) {
  std::vector<uint32_t> chosen;
  for (int64_t first = 0; first < keys; first += run) {
    const double draw = Philox4x32({static_cast<uint32_t>(first), 0, 0, 0}, {0, 0})[0] * 0x1p-32;
    if (draw >= share) continue;
    for (int64_t key = first; key < std::min(keys, first + run); ++key) {
      chosen.push_back(static_cast<uint32_t>(key));
    }
  }
  return chosen;
}

// One thread's rows and lists.
class Probe {
 public:
  Probe(const LayerShape& shape, int64_t keys, Isa isa)
      : kernels_(AttentionKernelsFor(isa)), keys_(keys) {
    const int64_t key_bytes = shape.dim * ElementBytes(shape.element);
    const int64_t value_bytes = shape.value_dim * ElementBytes(shape.element);
    rows_ = AlignedBuffer(static_cast<size_t>(keys * (key_bytes + value_bytes)));
    // Pages that were never written are all the same one.
    if (rows_.data() != nullptr) std::memset(rows_.data(), 0, rows_.size());
    query_.resize(static_cast<size_t>(shape.group() * key_bytes));
    state_.resize(static_cast<size_t>(shape.group() * (shape.value_dim + 2)));
    problem_.element = shape.element;
    problem_.dim = shape.dim;
    problem_.value_dim = shape.value_dim;
    problem_.rows = shape.group();
    problem_.q = query_.data();
    problem_.q_stride = key_bytes;
    problem_.k = {.base = rows_.data(), .row_stride = key_bytes};
    problem_.v = {.base = rows_.data() + keys * key_bytes, .row_stride = value_bytes};
    const GatherShares usual;
    all_ = RandomKeys(keys, 1, 1);
    for (const bool pages : {false, true}) {
      List& list = lists_[pages ? kPages : kRows];
      list.keys = RandomKeys(keys, pages ? kPageKeys : 1, pages ? usual.pages : usual.rows);
      List& in_order = lists_[pages ? kPagesInOrder : kRowsInOrder];
      in_order.keys = all_;
      in_order.members.assign(all_.size(), 0);
      for (uint32_t key : list.keys) in_order.members[key] = 0xFFFF;
    }
  }

  bool allocated() const { return rows_.data() != nullptr; }
  double share(Way way) const {
    return static_cast<double>(lists_[way].keys.size()) / static_cast<double>(keys_);
  }

  bool Evict() { return EvictFromCaches(rows_.data(), static_cast<int64_t>(rows_.size())); }

  double Seconds(Way way) {
    const int64_t rows = problem_.rows;
    const RunningState state = {state_.data(), state_.data() + rows, state_.data() + 2 * rows,
                                problem_.value_dim};
    InitState(problem_.rows, problem_.value_dim, state);
    KeyList list;
    list.keys = lists_[way].keys.data();
    list.count = static_cast<int64_t>(lists_[way].keys.size());
    if (!lists_[way].members.empty()) list.members = lists_[way].members.data();
    const auto start = std::chrono::steady_clock::now();
    kernels_.attend_list(problem_, list, state);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  struct List {
    std::vector<uint32_t> keys;
    std::vector<uint16_t> members;
  };

  const AttentionKernels& kernels_;
  const int64_t keys_;
  AlignedBuffer rows_;
  std::vector<char> query_;
  std::vector<float> state_;
  std::vector<uint32_t> all_;
  std::array<List, kWays> lists_;
  AttentionProblem problem_;
};

// At which share of rows `gathered` takes as long as `in_order` does with all.
double Crossing(const std::array<std::array<double, kWays>, kRepetitions>& seconds, double share,
                Way gathered, Way in_order) {
  std::array<double, kRepetitions> ratios;
  for (size_t i = 0; i < kRepetitions; ++i) {
    ratios[i] = seconds[i][in_order] / std::max(seconds[i][gathered], 1e-9);
  }
  std::nth_element(ratios.begin(), ratios.begin() + kRepetitions / 2, ratios.end());
  return std::clamp(share * ratios[kRepetitions / 2], kLeastShare, kMostShare);
}

}  // namespace

GatherShares MeasureGatherShares(const LayerShape& shape, int threads, Isa isa) {
  const int64_t bytes = std::min(kMostBytes, kMostBytesInAll / threads);
  const int64_t keys = std::max<int64_t>(16 * kPageKeys, bytes / RowBytes(shape));
  std::mutex mutex;
  std::array<std::array<double, kWays>, kRepetitions> seconds = {};
  GatherShares shares;
  bool measured = true;
  double share_of[kWays] = {};
  std::barrier together(threads);
  const auto work = [&] {
    Probe probe(shape, keys, isa);
    for (int repetition = -1; repetition < kRepetitions; ++repetition) {
      for (int way = 0; way < kWays; ++way) {
        const bool evicted = probe.allocated() && probe.Evict();
        together.arrive_and_wait();
        const double taken = evicted ? probe.Seconds(static_cast<Way>(way)) : 0;
        const std::lock_guard lock(mutex);
        share_of[way] = probe.share(static_cast<Way>(way));
        measured = measured && evicted;
        // The first is to warm up.
        if (repetition >= 0) {
          seconds[static_cast<size_t>(repetition)][static_cast<size_t>(way)] += taken;
        }
      }
    }
  };
  std::vector<std::thread> pool;
  for (int thread = 1; thread < threads; ++thread) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  if (!measured) return shares;
  shares.rows = Crossing(seconds, share_of[kRows], kRows, kRowsInOrder);
  shares.pages = Crossing(seconds, share_of[kPages], kPages, kPagesInOrder);
  return shares;
}

absl::StatusOr<CostRule> CostRuleFor(const LayerShape& shape, int64_t capacity, int threads,
                                     Isa isa) {
  CostRule rule;
  if (const char* const fixed = std::getenv("SA_GATHER_SHARE"); fixed != nullptr && *fixed != 0) {
    double share;
    if (!absl::SimpleAtod(fixed, &share) || !(share >= 0 && share <= 1)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the environment variable SA_GATHER_SHARE must be a number in [0, 1], got \"", fixed,
          "\""));
    }
    rule.shares = {share, share};
    return rule;
  }
  const int64_t measured_from = CacheBytes() / (RowBytes(shape) * shape.kv_heads) + 1;
  if (capacity < measured_from) return rule;
  using Kind = std::tuple<Element, int32_t, int32_t, int32_t, int, Isa>;
  static std::mutex mutex;
  static auto* const known = new std::map<Kind, GatherShares>;
  const Kind kind = {shape.element, shape.dim, shape.value_dim, shape.group(), threads, isa};
  const std::lock_guard lock(mutex);
  auto found = known->find(kind);
  if (found == known->end()) {
    found = known->emplace(kind, MeasureGatherShares(shape, threads, isa)).first;
  }
  rule.measured = found->second;
  rule.measured_from = measured_from;
  return rule;
}

}  // namespace sparse_attention::cpu
