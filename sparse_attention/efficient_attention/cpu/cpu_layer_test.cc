// Steps of a layer, without LibTorch: the same result whatever the threads, the batch and the way
// that keys lie in memory, and nothing allocated on the way. What the results are is tested against
// the research engine.
#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"

#include <limits>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer_testing.h"
#include "sparse_attention/efficient_attention/cpu/kv_cache.h"

namespace sparse_attention::cpu {
namespace {

using ::testing::Each;

constexpr LayerShape kShape = {Element::kBFloat16, 64, 64, 8, 2, 3};
constexpr int64_t kCapacity = 700;

StepPlan ShortPlan(int64_t sequences, bool by_group) {
  return PlanFor(sequences, by_group, kShape, kCapacity);
}

// Tokens of a sequence, the same whoever asks.
std::vector<BFloat16> Rows(uint64_t seed, int64_t count) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<BFloat16> rows(static_cast<size_t>(count * kShape.dim));
  for (BFloat16& x : rows) x = ToBFloat16(normal(random));
  return rows;
}

// A layer with its cache and threads, through a prompt and a few steps.
struct LayerRun {
  LayerRun(const Method& method, std::vector<uint64_t> sequences, int64_t page_size, int threads,
           bool by_group)
      : seeds(std::move(sequences)),
        cache(*KvCache::Create({kShape, static_cast<int64_t>(seeds.size()), kCapacity, page_size})),
        workers(threads) {
    LayerPipeline pipeline;
    if (!method.chain.empty()) pipeline.chains.push_back(method.chain);
    pipeline.chain_of_head.assign(kShape.query_heads,
                                  method.chain.empty() ? LayerPipeline::kDense : 0);
    auto created =
        CpuLayer::Create(ShortPlan(static_cast<int64_t>(seeds.size()), by_group), pipeline);
    SA_CHECK_OK(created.status());
    layer.emplace(*std::move(created));
    for (int t = 0; t < threads; ++t) arenas.emplace_back(layer->ScratchBytes());
  }

  void Append(int64_t tokens) {
    for (size_t s = 0; s < seeds.size(); ++s) {
      const int64_t sequence = static_cast<int64_t>(s);
      const uint64_t seed = seeds[s] * 1000 + static_cast<uint64_t>(cache.length(sequence));
      const std::vector<BFloat16> k = Rows(seed, tokens * kShape.kv_heads);
      const std::vector<BFloat16> v = Rows(seed + 500, tokens * kShape.kv_heads);
      constexpr int64_t kRow = kShape.dim * int64_t{sizeof(BFloat16)};
      SA_CHECK_OK(cache.Append(
          sequence, {reinterpret_cast<const char*>(k.data()), kRow, kRow * kShape.kv_heads},
          {reinterpret_cast<const char*>(v.data()), kRow, kRow * kShape.kv_heads}, tokens));
    }
    layer->Append(cache.sequences(), workers);
  }

  // [sequences][query heads][queries][dim]
  std::vector<BFloat16> Step(int64_t queries) {
    const int64_t per_sequence = kShape.query_heads * queries;
    std::vector<BFloat16> q;
    for (uint64_t seed : seeds) {
      const std::vector<BFloat16> rows = Rows(seed * 77 + 5, per_sequence);
      q.insert(q.end(), rows.begin(), rows.end());
    }
    constexpr int64_t kRow = kShape.dim * int64_t{sizeof(BFloat16)};
    std::vector<BFloat16> out(q.size());
    reports.resize(static_cast<size_t>(per_sequence) * seeds.size());
    StepInputs inputs;
    inputs.q = reinterpret_cast<const char*>(q.data());
    inputs.q_sequence_stride = per_sequence * kRow;
    inputs.q_head_stride = queries * kRow;
    inputs.q_query_stride = kRow;
    inputs.queries = queries;
    inputs.sequences = cache.sequences();
    inputs.scale = 0.3f;
    StepOutputs outputs;
    outputs.out = reinterpret_cast<char*>(out.data());
    outputs.sequence_stride = per_sequence * kRow;
    outputs.head_stride = queries * kRow;
    outputs.query_stride = kRow;
    const int64_t before = Allocations();
    layer->Run(inputs, outputs, workers, arenas, reports.data());
    allocated = Allocations() - before;
    return out;
  }

  // A prompt, one token at a time, then several at once.
  std::vector<BFloat16> Steps() {
    std::vector<BFloat16> all;
    Append(600);
    for (const int64_t queries : {1, 1, 4}) {
      Append(queries);
      const std::vector<BFloat16> out = Step(queries);
      all.insert(all.end(), out.begin(), out.end());
    }
    return all;
  }

  std::vector<uint64_t> seeds;
  KvCache cache;
  Workers workers;
  std::optional<CpuLayer> layer;
  std::vector<Arena> arenas;
  std::vector<RowReport> reports;
  int64_t allocated = 0;
};

std::vector<uint16_t> Bits(const std::vector<BFloat16>& x) {
  std::vector<uint16_t> bits;
  for (BFloat16 v : x) bits.push_back(v.bits);
  return bits;
}

class CpuLayerTest : public ::testing::TestWithParam<std::tuple<size_t, bool>> {
 protected:
  const Method method_ = Methods()[std::get<0>(GetParam())];
  const bool by_group_ = std::get<1>(GetParam());
};

TEST_P(CpuLayerTest, ThreadsDoNotMatter) {
  LayerRun one(method_, {1, 2}, 0, 1, by_group_), two(method_, {1, 2}, 0, 2, by_group_),
      five(method_, {1, 2}, 0, 5, by_group_);
  const std::vector<uint16_t> expected = Bits(one.Steps());
  EXPECT_EQ(Bits(two.Steps()), expected);
  EXPECT_EQ(Bits(five.Steps()), expected);
}

TEST_P(CpuLayerTest, PagesDoNotMatter) {
  LayerRun contiguous(method_, {1, 2}, 0, 2, by_group_);
  const std::vector<uint16_t> expected = Bits(contiguous.Steps());
  for (int64_t page_size : {1, 16, 64}) {
    LayerRun paged(method_, {1, 2}, page_size, 2, by_group_);
    EXPECT_EQ(Bits(paged.Steps()), expected) << page_size;
  }
}

TEST_P(CpuLayerTest, TheBatchDoesNotMatter) {
  LayerRun both(method_, {1, 2}, 16, 2, by_group_), second(method_, {2}, 16, 2, by_group_);
  both.Append(600);
  second.Append(600);
  both.Append(1);
  second.Append(1);
  const std::vector<uint16_t> of_both = Bits(both.Step(1)), of_second = Bits(second.Step(1));
  EXPECT_EQ(std::vector<uint16_t>(of_both.begin() + static_cast<int64_t>(of_second.size()),
                                  of_both.end()),
            of_second);
}

TEST_P(CpuLayerTest, StepsAllocateNothing) {
  LayerRun run(method_, {1, 2}, 16, 2, by_group_);
  run.Append(600);
  for (int step = 0; step < 3; ++step) {
    run.Append(1);
    run.Step(1);
    EXPECT_EQ(run.allocated, 0) << step;
  }
}

TEST_P(CpuLayerTest, ACutSequenceGoesOnAsIfNothingHadBeen) {
  // None of its later keys lies beyond MagicPIG's radius, which would then rest on them.
  constexpr uint64_t kSequence = 4;
  LayerRun straight(method_, {kSequence}, 16, 2, by_group_),
      cut(method_, {kSequence}, 16, 2, by_group_);
  straight.Append(600);
  cut.Append(600);
  cut.Append(30);
  cut.Step(2);
  SA_ASSERT_OK(cut.cache.Truncate(0, 600));
  cut.layer->Truncate(0, 600);
  straight.Append(3);
  cut.Append(3);
  EXPECT_EQ(Bits(cut.Step(3)), Bits(straight.Step(3)));
}

// A key that is not selected is not read into the result, whatever it holds.
TEST_P(CpuLayerTest, PaddingHasNoEffect) {
  LayerRun run(method_, {1}, 0, 2, by_group_);
  run.Append(600);
  SA_ASSERT_OK(run.cache.SetPadding(0, 50));
  const std::vector<uint16_t> expected = Bits(run.Step(1));
  const SequenceKv& kv = run.cache.sequence(0);
  for (int64_t head = 0; head < kShape.kv_heads; ++head) {
    for (int64_t key = 0; key < 50; ++key) {
      for (int64_t c = 0; c < kShape.dim; ++c) {
        SetElement(const_cast<char*>(kv.Values(head).Row(key)), kShape.element, c,
                   std::numeric_limits<float>::quiet_NaN());
      }
    }
  }
  EXPECT_EQ(Bits(run.Step(1)), expected);
  for (const RowReport& report : run.reports) EXPECT_EQ(report.visible, 550);
}

TEST_P(CpuLayerTest, ReportsAreWithinWhatIsVisible) {
  LayerRun run(method_, {1}, 0, 2, by_group_);
  run.Append(600);
  run.Append(1);
  run.Step(1);
  for (const RowReport& report : run.reports) {
    EXPECT_EQ(report.visible, 601);
    EXPECT_GT(report.selected, 0);
    EXPECT_LE(report.selected, report.rows_read);
    EXPECT_LE(report.rows_read, report.visible);
    EXPECT_TRUE(!by_group_ || report.selected == report.rows_read);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, CpuLayerTest,
                         ::testing::Combine(::testing::Range(size_t{0}, Methods().size()),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return Methods()[std::get<0>(info.param)].name +
                                  (std::get<1>(info.param) ? "_group" : "_head");
                         });

TEST(CpuLayer, HeadsOfAGroupMayFollowDifferentRules) {
  const StepPlan plan = ShortPlan(1, false);
  LayerPipeline mixed;
  mixed.chains = {Methods()[1].chain, Methods()[2].chain};
  mixed.chain_of_head = {0, 1, LayerPipeline::kDense, 1, 0, 0, 0, 0};
  LayerRun run(Methods()[0], {1}, 0, 2, false);
  run.Append(600);
  std::vector<std::vector<uint16_t>> outs;
  for (size_t method : {0, 1, 2}) {
    LayerRun alone(Methods()[method], {1}, 0, 2, false);
    alone.Append(600);
    outs.push_back(Bits(alone.Step(1)));
  }
  SA_ASSERT_OK_AND_ASSIGN(CpuLayer layer, CpuLayer::Create(plan, mixed));
  run.layer.emplace(std::move(layer));
  for (Arena& arena : run.arenas) arena = Arena(run.layer->ScratchBytes());
  run.layer->Append(run.cache.sequences(), run.workers);
  const std::vector<uint16_t> out = Bits(run.Step(1));
  const size_t method_of_head[] = {1, 2, 0, 2, 1, 1, 1, 1};
  for (int64_t head = 0; head < kShape.query_heads; ++head) {
    for (int64_t c = 0; c < kShape.dim; ++c) {
      const size_t at = static_cast<size_t>(head * kShape.dim + c);
      EXPECT_EQ(out[at], outs[method_of_head[head]][at]) << head;
    }
  }
}

// Memory of a key and KV head is what docs/performance.md says.
TEST(CpuLayer, IndexesTakeTheirBytes) {
  const auto bytes_of_key = [](const std::string& name) {
    for (const Method& method : Methods()) {
      if (method.name != name) continue;
      const LayerRun run(method, {1}, 0, 1, false);
      return static_cast<double>(run.layer->IndexBytes()) / (kCapacity * kShape.kv_heads);
    }
    return -1.0;
  };
  EXPECT_EQ(bytes_of_key("oracle"), 0);
  EXPECT_EQ(bytes_of_key("random"), 0);
  // 2 * dim elements a page of 16 keys; as floats where they are quantised.
  EXPECT_NEAR(bytes_of_key("quest"), 2 * 64 * 2 / 16.0, 0.1);
  EXPECT_NEAR(bytes_of_key("quest4bits"), 2 * 64 * 4 / 16.0, 0.2);
  EXPECT_EQ(bytes_of_key("socket"), 7 + 4);
  // A bucket a table, and a head's centre.
  EXPECT_DOUBLE_EQ(bytes_of_key("magic_pig") * kCapacity, 9 * kCapacity + 4 * 64);
  // A bit a query head, in whole words.
  EXPECT_DOUBLE_EQ(bytes_of_key("snap_kv") * kCapacity, 4 * 8 * ((kCapacity + 63) / 64));
  // 2 codes, and a head's codebook of 2 x 16 centroids of 32 channels: once as it is, once as it is
  // searched, 64 at a time with their lengths.
  EXPECT_EQ(bytes_of_key("pq") * kCapacity, 2 * kCapacity + 4 * 2 * (16 * 32 + 64 * (32 + 1)));
}

TEST(CpuLayer, AnEmptyCacheGivesZeros) {
  LayerRun run(Methods()[2], {1}, 0, 2, false);
  run.Append(2);
  SA_ASSERT_OK(run.cache.SetPadding(0, 2));
  EXPECT_THAT(Bits(run.Step(1)), Each(0));
}

TEST(CpuLayer, WhatDoesNotFitIsRefused) {
  LayerPipeline pipeline;
  pipeline.chain_of_head.assign(7, LayerPipeline::kDense);
  EXPECT_THAT(CpuLayer::Create(ShortPlan(1, false), pipeline),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("8 query and 2 KV heads with a pipeline for 7")));
  StepPlan plan = ShortPlan(1, false);
  plan.shape.query_heads = 34;
  pipeline.chain_of_head.assign(34, LayerPipeline::kDense);
  EXPECT_THAT(CpuLayer::Create(plan, pipeline),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::HasSubstr("at most 16 query heads may share a KV head, got 17")));
}

}  // namespace
}  // namespace sparse_attention::cpu
