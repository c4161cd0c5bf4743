// Steps over sequences of several parts: what threads share gives the same bits, and is right.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/cpu/attend.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer_testing.h"
#include "sparse_attention/efficient_attention/cpu/fixed_ranges.h"
#include "sparse_attention/efficient_attention/cpu/kv_cache.h"
#include "sparse_attention/efficient_attention/cpu/oracle_scores.h"
#include "sparse_attention/efficient_attention/cpu/samplers.h"
#include "sparse_attention/efficient_attention/cpu/top_p_selector.h"

namespace sparse_attention::cpu {
namespace {

// Sequences of several parts, where fewer items than threads leave parts to be shared. One layer,
// which any number of threads runs; in float32, so that no rounding of outputs hides a difference.
constexpr LayerShape kLong = {Element::kFloat32, 32, 32, 4, 1, 3};
constexpr int64_t kRowBytes = kLong.dim * int64_t{sizeof(float)};

// Nearly normal, from counters.
std::vector<float> Draws(uint64_t seed, int64_t rows) {
  std::vector<float> x(static_cast<size_t>(rows * kLong.dim));
  for (size_t i = 0; i < x.size(); ++i) {
    double sum = -2;
    for (uint32_t word : Philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, PhiloxKeyFromSeed(seed))) {
      sum += word * 0x1p-32;
    }
    x[i] = static_cast<float>(1.7 * sum);
  }
  return x;
}

constexpr double kUsualShare = 0.44;

struct LongRun {
  LongRun(const MaskerChain& chain, const std::vector<int64_t>& of_lengths, bool by_group,
          double gather_share = kUsualShare, uint64_t first_seed = 1)
      : lengths(of_lengths),
        cache(*KvCache::Create({kLong, static_cast<int64_t>(lengths.size()),
                                *std::max_element(lengths.begin(), lengths.end()), 64})) {
    LayerPipeline pipeline;
    if (!chain.empty()) pipeline.chains.push_back(chain);
    pipeline.chain_of_head.assign(kLong.query_heads, chain.empty() ? LayerPipeline::kDense : 0);
    StepPlan plan =
        PlanFor(static_cast<int64_t>(lengths.size()), by_group, kLong, cache.options().capacity);
    plan.cost.shares = {gather_share, gather_share};
    layer.emplace(*CpuLayer::Create(plan, pipeline));
    for (size_t s = 0; s < lengths.size(); ++s) {
      const auto rows = [&](const std::vector<float>& x) {
        return NewRows{reinterpret_cast<const char*>(x.data()), kRowBytes, kRowBytes};
      };
      const std::vector<float> k = Draws(first_seed + s, lengths[s]);
      const std::vector<float> v = Draws(first_seed + s + 100, lengths[s]);
      SA_CHECK_OK(cache.Append(static_cast<int64_t>(s), rows(k), rows(v), lengths[s]));
      const std::vector<float> of_sequence = Draws(first_seed + s + 200, kLong.query_heads);
      q.insert(q.end(), of_sequence.begin(), of_sequence.end());
    }
    Workers workers(2);
    layer->Append(cache.sequences(), workers);
  }

  // Outputs [sequences][query heads][dim], then log-sum-exps [sequences][query heads].
  std::vector<float> Step(int threads, const StepObserver* observe = nullptr) {
    Workers workers(threads);
    std::vector<Arena> arenas;
    for (int t = 0; t < threads; ++t) arenas.emplace_back(layer->ScratchBytes());
    const size_t rows = lengths.size() * kLong.query_heads;
    std::vector<float> out(q.size() + rows);
    reports.assign(rows, {});
    StepInputs inputs;
    inputs.q = reinterpret_cast<const char*>(q.data());
    inputs.q_sequence_stride = kLong.query_heads * kRowBytes;
    inputs.q_head_stride = inputs.q_query_stride = kRowBytes;
    inputs.sequences = cache.sequences();
    inputs.scale = kScale;
    StepOutputs outputs;
    outputs.out = reinterpret_cast<char*>(out.data());
    outputs.sequence_stride = kLong.query_heads * kRowBytes;
    outputs.head_stride = outputs.query_stride = kRowBytes;
    outputs.lse = out.data() + q.size();
    const int64_t before = Allocations();
    layer->Run(inputs, outputs, workers, arenas, reports.data(), observe);
    allocated = Allocations() - before;
    for (const Arena& arena : arenas) EXPECT_EQ(arena.mark(), 0u);
    return out;
  }

  static constexpr float kScale = 0.35f;
  const std::vector<int64_t> lengths;
  KvCache cache;
  std::optional<CpuLayer> layer;
  std::vector<float> q;
  std::vector<RowReport> reports;
  int64_t allocated = 0;
};

class LongLayerTest : public ::testing::TestWithParam<std::tuple<size_t, bool>> {
 protected:
  const Method method_ = Methods()[std::get<0>(GetParam())];
  const bool by_group_ = std::get<1>(GetParam());
};

TEST_P(LongLayerTest, ThreadsThatShareItemsDoNotMatter) {
  const std::pair<std::vector<int64_t>, double> cases[] = {
      {{2 * kPartKeys + 777}, kUsualShare},
      {{kPartKeys + 1, 300, 3 * kPartKeys}, 0.0}};  // all in order
  for (const auto& [lengths, gather_share] : cases) {
    LongRun run(method_.chain, lengths, by_group_, gather_share);
    const std::vector<float> expected = run.Step(1);
    const std::vector<RowReport> reports = run.reports;
    for (int threads : {2, 3, 5}) {
      EXPECT_EQ(run.Step(threads), expected) << threads;
      EXPECT_EQ(run.allocated, 0) << threads;
      for (size_t row = 0; row < reports.size(); ++row) {
        EXPECT_EQ(run.reports[row].selected, reports[row].selected);
        EXPECT_EQ(run.reports[row].rows_read, reports[row].rows_read);
        EXPECT_EQ(run.reports[row].sample_budget, reports[row].sample_budget);
      }
    }
  }
}

TEST_P(LongLayerTest, TheBatchDoesNotMatter) {
  LongRun both(method_.chain, {900, kPartKeys + 5000}, by_group_);
  LongRun second(method_.chain, {kPartKeys + 5000}, by_group_, kUsualShare, 2);
  const std::vector<float> expected = second.Step(3);
  const size_t floats = second.q.size(), heads = kLong.query_heads;
  for (int threads : {1, 3}) {
    const std::vector<float> of_both = both.Step(threads);
    for (size_t i = 0; i < floats; ++i) EXPECT_EQ(of_both[floats + i], expected[i]) << i;
    for (size_t h = 0; h < heads; ++h) {
      EXPECT_EQ(of_both[2 * floats + heads + h], expected[floats + h]) << h;
    }
  }
}

// What is added to the logit of a sampled key.
double SampleBias(const StepItem& item, int row, int64_t key) {
  if (item.sampled.weights == nullptr) {
    return static_cast<double>(item.sampled.bias[item.set_of(row)]);
  }
  const uint32_t listed = static_cast<uint32_t>(key);
  uint16_t members = static_cast<uint16_t>(1 << row);
  float bias[kMostGroup] = {};
  int64_t dropped[kMostGroup] = {};
  item.sampled.weights->Weigh(item, &listed, 1, nullptr, 0, &members, bias, 1, dropped, item.arena);
  return members == 0 ? -std::numeric_limits<double>::infinity() : static_cast<double>(bias[row]);
}

// What maskers chose, attended to in float64.
TEST_P(LongLayerTest, EveryPartCounts) {
  for (const double gather_share : {0.0, 1.0}) {
    LongRun run(method_.chain, {2 * kPartKeys + 777}, by_group_, gather_share);
    const int64_t keys = run.lengths[0], dim = kLong.dim;
    std::vector<std::vector<double>> bias(static_cast<size_t>(kLong.query_heads),
                                          std::vector<double>(static_cast<size_t>(keys), 0));
    int64_t rows_read = 0;  // once for held keys, once for sampled ones
    const StepObserver observe = [&](const StepItem& item) {
      for (int64_t key = 0; key < keys; ++key) {
        const bool open = key >= item.held.open_begin() && key < item.held.open_end();
        bool held = !open, sampled = false;
        for (int set = 0; open && set < item.held.sets(); ++set) {
          held = held || (item.held.bits(set) != nullptr && TestBit(item.held.bits(set), key));
          sampled = sampled || (item.sampled.any && TestBit(item.sampled.bits[set], key));
        }
        rows_read += (held ? 1 : 0) + (sampled ? 1 : 0);
      }
      for (int row = 0; row < item.rows(); ++row) {
        const int set = item.set_of(row);
        for (int64_t key = 0; key < keys; ++key) {
          const HeldKeys& held = item.held;
          const bool open = key >= held.open_begin() && key < held.open_end();
          double& of_key = bias[static_cast<size_t>(row)][static_cast<size_t>(key)];
          if (!open || (held.bits(set) != nullptr && TestBit(held.bits(set), key))) continue;
          of_key = item.sampled.any && TestBit(item.sampled.bits[set], key)
                       ? SampleBias(item, row, key)
                       : -std::numeric_limits<double>::infinity();
        }
      }
    };
    const std::vector<float> out = run.Step(3, &observe);
    if (!method_.chain.empty()) {
      EXPECT_EQ(run.reports[0].rows_read, rows_read);
    }
    for (int64_t head = 0; head < kLong.query_heads; ++head) {
      std::vector<double> sum(static_cast<size_t>(dim), 0), size(static_cast<size_t>(dim), 0);
      double total = 0;
      for (int64_t key = 0; key < keys; ++key) {
        const double of_key = bias[static_cast<size_t>(head)][static_cast<size_t>(key)];
        if (std::isinf(of_key)) continue;
        const auto element = [&](const char* row, int64_t c) {
          return static_cast<double>(ElementAt(row, kLong.element, c));
        };
        const char* const k = run.cache.sequence(0).Keys(0).Row(key);
        const char* const v = run.cache.sequence(0).Values(0).Row(key);
        double logit = 0;
        for (int64_t c = 0; c < dim; ++c) {
          logit += static_cast<double>(run.q[static_cast<size_t>(head * dim + c)]) * element(k, c);
        }
        const double weight = std::exp(static_cast<double>(LongRun::kScale) * logit + of_key);
        total += weight;
        for (int64_t c = 0; c < dim; ++c) {
          sum[static_cast<size_t>(c)] += weight * element(v, c);
          size[static_cast<size_t>(c)] += weight * std::abs(element(v, c));
        }
      }
      // Logits of up to some 20 are off by a few units in the last place of float32, 2^-19 each, by
      // which their weights are off; sums in blocks of 1,024 keys add less.
      constexpr double kError = 0x1p-17;
      for (int64_t c = 0; c < dim; ++c) {
        const size_t at = static_cast<size_t>(c);
        EXPECT_NEAR(static_cast<double>(out[static_cast<size_t>(head * dim + c)]), sum[at] / total,
                    kError * size[at] / total)
            << "head " << head << ", channel " << c << ", share " << gather_share;
      }
      EXPECT_NEAR(static_cast<double>(out[run.q.size() + static_cast<size_t>(head)]),
                  std::log(total), kError * std::max(1.0, std::log(total)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, LongLayerTest,
                         ::testing::Combine(::testing::Range(size_t{0}, Methods().size()),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return Methods()[std::get<0>(info.param)].name +
                                  (std::get<1>(info.param) ? "_group" : "_head");
                         });

// The arithmetic: a state for each part, merged from the first part to the last.
TEST(LongLayer, PartsAreMergedInOrder) {
  LongRun run({}, {3 * kPartKeys + 100}, false);
  const StepPlan& plan = run.layer->plan();
  const int64_t dim = kLong.dim, heads = kLong.query_heads;
  AttentionProblem problem;
  problem.element = kLong.element;
  problem.dim = problem.value_dim = kLong.dim;
  problem.rows = kLong.query_heads;
  problem.q = run.q.data();
  problem.q_stride = kRowBytes;
  problem.k = run.cache.sequence(0).Keys(0);
  problem.v = run.cache.sequence(0).Values(0);
  problem.scale = LongRun::kScale;
  Arena arena(2 * StateBytes(heads, dim));
  const RunningState all = TakeState(arena, heads, dim), part = TakeState(arena, heads, dim);
  InitState(problem.rows, kLong.dim, all);
  for (const int64_t begin : {int64_t{0}, kPartKeys, 2 * kPartKeys, 3 * kPartKeys}) {
    InitState(problem.rows, kLong.dim, part);
    plan.attention.attend_range(problem, begin, std::min(begin + kPartKeys, run.lengths[0]),
                                nullptr, nullptr, part);
    plan.attention.merge(problem.rows, kLong.dim, part, all);
  }
  std::vector<float> expected(run.q.size() + kLong.query_heads);
  plan.attention.finish(problem.rows, kLong.dim, all, nullptr, kLong.element, expected.data(),
                        kRowBytes, expected.data() + run.q.size());
  for (int threads : {1, 2, 5}) EXPECT_EQ(run.Step(threads), expected) << threads;
}

// A share of all visible mass, of the visible keys alone.
TEST(LongLayer, PaddingHasNoMass) {
  constexpr int64_t kPadding = 50, kKeys = 650;
  const MaskerChain chain = {
      std::make_shared<LocalRange>(Budget::Count(70)),
      std::make_shared<TopPSelector>(TopPOptions{.top_p = 0.6, .of_total = true})};
  LongRun padded(chain, {kPadding + kKeys}, false), bare(chain, {kKeys}, false);
  SA_CHECK_OK(padded.cache.SetPadding(0, kPadding));
  const SequenceKv &from = padded.cache.sequence(0), &to = bare.cache.sequence(0);
  for (int64_t key = 0; key < kKeys; ++key) {
    std::memcpy(const_cast<char*>(to.Keys(0).Row(key)), from.Keys(0).Row(key + kPadding),
                kRowBytes);
    std::memcpy(const_cast<char*>(to.Values(0).Row(key)), from.Values(0).Row(key + kPadding),
                kRowBytes);
  }
  const std::vector<float> expected = bare.Step(1);
  EXPECT_EQ(padded.Step(1), expected);
  EXPECT_EQ(padded.reports[0].selected, bare.reports[0].selected);
}

// Threads that were seen in attend_range; the first waits for another one, for a while.
std::mutex seen_mutex;
std::condition_variable seen_changed;
std::set<std::thread::id> seen;

void AttendRangeTogether(const AttentionProblem& problem, int64_t begin, int64_t end,
                         const int64_t* row_begin, const int64_t* row_end,
                         const RunningState& state) {
  {
    std::unique_lock lock(seen_mutex);
    seen.insert(std::this_thread::get_id());
    seen_changed.notify_all();
    seen_changed.wait_for(lock, std::chrono::seconds(20), [] { return seen.size() > 1; });
  }
  AttentionKernelsFor(BestIsa()).attend_range(problem, begin, end, row_begin, row_end, state);
}

TEST(LongLayer, SeveralThreadsShareAnItem) {
  LongRun run({}, {kPartKeys + 1}, false);
  StepPlan plan = run.layer->plan();
  plan.attention.attend_range = AttendRangeTogether;
  LayerPipeline dense;
  dense.chain_of_head.assign(kLong.query_heads, LayerPipeline::kDense);
  const std::vector<float> expected = run.Step(1);
  run.layer.emplace(*CpuLayer::Create(plan, dense));
  EXPECT_EQ(run.Step(2), expected);
  EXPECT_EQ(seen.size(), 2u);
}

// A chosen set of keys, without their logits.
class GivenKeys final : public CpuMasker {
 public:
  explicit GivenKeys(std::vector<std::vector<uint64_t>> bits) : bits_(std::move(bits)) {}
  void Select(StepItem& item, const KeyIndex*) const override {
    for (int set = 0; set < item.held.sets(); ++set) {
      const std::vector<uint64_t>& words = bits_[static_cast<size_t>(set)];
      std::copy(words.begin(), words.end(), item.held.MutableBits(set, item.arena));
    }
  }

 private:
  const std::vector<std::vector<uint64_t>> bits_;
};

// Logits that chose keys give the same bits as logits that are computed of the chosen ones.
TEST(LongLayer, KnownLogitsChangeNothing) {
  const auto sink = std::make_shared<SinkRange>(Budget::Count(70));
  const auto local = std::make_shared<LocalRange>(Budget::Count(90));
  AdaptiveSamplerOptions options;
  options.base_rate = Budget::Fraction(0.02);
  options.epsilon = 0.1;
  const auto sampler = std::make_shared<AdaptiveSampler>(options);
  const MaskerChain oracles = {
      std::make_shared<OracleTopKSelector>(TopKRule{.heavy_size = Budget::Fraction(0.05)}),
      std::make_shared<TopPSelector>(TopPOptions{.top_p = 0.3})};
  for (const auto& oracle : oracles) {
    for (const bool by_group : {false, true}) {
      for (const double gather_share : {0.0, 1.0}) {
        LongRun known({sink, local, oracle, sampler}, {kPartKeys + 4000}, by_group, gather_share);
        std::vector<std::vector<uint64_t>> bits;
        const StepObserver observe = [&](const StepItem& item) {
          for (int set = 0; set < item.held.sets(); ++set) {
            const uint64_t* const words = item.held.bits(set);
            bits.emplace_back(words, words + BitmapWords(item.held.end()));
          }
        };
        const std::vector<float> expected = known.Step(2, &observe);
        LongRun given({sink, local, std::make_shared<GivenKeys>(bits), sampler}, {kPartKeys + 4000},
                      by_group, gather_share);
        EXPECT_EQ(given.Step(2), expected);
        EXPECT_EQ(given.reports[0].sample_budget, known.reports[0].sample_budget);
        EXPECT_EQ(given.reports[0].rows_read, known.reports[0].rows_read);
      }
    }
  }
}

}  // namespace
}  // namespace sparse_attention::cpu
