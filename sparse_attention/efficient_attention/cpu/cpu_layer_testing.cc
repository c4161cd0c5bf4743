#include "sparse_attention/efficient_attention/cpu/cpu_layer_testing.h"

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>

#include "sparse_attention/efficient_attention/cpu/fixed_ranges.h"
#include "sparse_attention/efficient_attention/cpu/magic_pig_sampler.h"
#include "sparse_attention/efficient_attention/cpu/oracle_scores.h"
#include "sparse_attention/efficient_attention/cpu/pq_index.h"
#include "sparse_attention/efficient_attention/cpu/quest_index.h"
#include "sparse_attention/efficient_attention/cpu/samplers.h"
#include "sparse_attention/efficient_attention/cpu/snap_kv_selector.h"
#include "sparse_attention/efficient_attention/cpu/socket_index.h"
#include "sparse_attention/efficient_attention/cpu/top_p_selector.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Counts what the whole program allocates.
void* operator new(size_t size) {
  ++allocations;
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace sparse_attention::cpu {
namespace {

std::vector<float> Normals(int64_t count) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& x : values) x = normal(random);
  return values;
}

}  // namespace

int64_t Allocations() { return allocations; }

std::vector<Method> Methods() {
  const auto sink = std::make_shared<SinkRange>(Budget::Count(5));
  const auto local = std::make_shared<LocalRange>(Budget::Count(9));
  const auto oracle =
      std::make_shared<OracleTopKSelector>(TopKRule{.heavy_size = Budget::Fraction(0.05)});
  SocketOptions socket;
  socket.bits = 5;
  socket.tables = 7;
  socket.planes = [](int64_t dim) { return Normals(7 * 5 * dim); };
  MagicPigOptions pig;
  pig.tables = 9;
  pig.bits = 6;
  pig.planes = [](const StepPlan& plan) { return Normals(9 * 6 * (plan.shape.dim + 1)); };
  AdaptiveSamplerOptions adaptive;
  adaptive.base_rate = Budget::Fraction(0.05);
  adaptive.epsilon = 0.2;
  AdaptiveSamplerOptions output = adaptive;
  output.output_guarantee = true;
  return {
      {"dense", {}},
      {"ranges", {sink, local}},
      {"oracle", {sink, local, oracle}},
      {"top_p", {sink, local, std::make_shared<TopPSelector>(TopPOptions{.top_p = 0.4})}},
      {"oracles",
       {sink, oracle, local,
        std::make_shared<TopPSelector>(TopPOptions{.top_p = 0.6, .of_total = true})}},
      {"quest", {sink, std::make_shared<QuestSelector>(Budget::Fraction(0.1), 16, 16)}},
      {"quest4bits", {std::make_shared<QuestSelector>(Budget::Fraction(0.1), 16, 4)}},
      {"pq",
       {local, std::make_shared<PqCacheSelector>(Budget::Count(40),
                                                 PqIndexOptions{.bits = 4, .iterations = 2})}},
      {"socket", {sink, std::make_shared<SocketSelector>(Budget::Count(40), socket)}},
      {"snap_kv", {sink, std::make_shared<SnapKvSelector>(SnapKvOptions{Budget::Count(40), 7, 5})}},
      {"magic_pig", {sink, local, oracle, std::make_shared<MagicPigSampler>(pig)}},
      {"random", {sink, local, std::make_shared<RandomSampler>(0.2)}},
      {"adaptive", {sink, local, oracle, std::make_shared<AdaptiveSampler>(adaptive)}},
      {"adaptive_output", {sink, local, std::make_shared<AdaptiveSampler>(output)}},
  };
}

StepPlan PlanFor(int64_t sequences, bool by_group, const LayerShape& shape, int64_t capacity) {
  StepPlan plan;
  plan.shape = shape;
  plan.sequences = sequences;
  plan.capacity = capacity;
  plan.by_group = by_group;
  plan.reduce = StepPlan::Reduce::kSum;
  plan.isa = BestIsa();
  plan.attention = AttentionKernelsFor(plan.isa);
  plan.bitmap = BitmapKernelsFor(plan.isa);
  plan.cost.shares = {0.44, 0.55};  // methods on both sides of them
  return plan;
}

}  // namespace sparse_attention::cpu
