#include "sparse_attention/efficient_attention/cpu/samplers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "sparse_attention/base/philox.h"
#include "sparse_attention/efficient_attention/kernels/cpu/moments/moments.h"
#include "sparse_attention/efficient_attention/kernels/cpu/sample/without_replacement.h"
#include "sparse_attention/research_attention/maskers/sampling/base_sample.h"
#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"

namespace sparse_attention::cpu {
namespace {

// Keys [begin, end) of the open part that a set does not hold, as a bitmap from key 0 on.
int64_t OpenKeys(const StepItem& item, int set, int64_t begin, int64_t end, uint64_t* open) {
  const HeldKeys& held = item.held;
  const int64_t words = BitmapWords(held.end());
  std::memset(open, 0, sizeof(uint64_t) * static_cast<size_t>(words));
  SetBits(open, std::max(begin, held.open_begin()), std::min(end, held.open_end()));
  if (held.bits(set) != nullptr) item.plan.bitmap.and_not(held.bits(set), words, open);
  return item.plan.bitmap.count(open, words);
}

// `count` of the keys in `open`, without replacement, from the set's stream for `purpose`: their
// bits are set in `drawn`.
void DrawKeys(const StepItem& item, RandomPurpose purpose, int set, const uint64_t* open,
              int64_t population, int64_t count, uint64_t* scratch, uint64_t* drawn) {
  const int64_t head =
      item.plan.by_group ? item.kv_head : item.kv_head * item.plan.shape.group() + set;
  const PhiloxStart start = PhiloxStartOf(
      item.plan.seed, static_cast<uint32_t>(purpose), static_cast<uint32_t>(item.plan.shape.layer),
      static_cast<uint32_t>(head), static_cast<uint32_t>(item.position));
  SampleKernelsFor(item.plan.isa)
      .sample_keys(start, population, count, open, BitmapWords(item.held.end()), scratch, drawn);
}

uint64_t* ZeroBits(StepItem& item) {
  const int64_t words = BitmapWords(item.held.end());
  uint64_t* const bits = item.arena.Take<uint64_t>(words);
  std::memset(bits, 0, sizeof(uint64_t) * static_cast<size_t>(words));
  return bits;
}

void SetSample(StepItem& item, int set, int64_t count, int64_t population) {
  const float weight = static_cast<float>(count) / static_cast<float>(population);
  item.sampled.bias[set] = -std::log(weight);
  item.sampled.any = true;
}

// Bitmaps of one set's open keys, of ranks, and of all sets' samples.
size_t BitmapBytes(const StepPlan& plan) {
  return static_cast<size_t>(plan.sets() + 2) *
         Arena::Bytes<uint64_t>(SampleScratchWords(plan.capacity));
}

}  // namespace

size_t RandomSampler::ScratchBytes(const StepPlan& plan) const { return BitmapBytes(plan); }

void RandomSampler::Select(StepItem& item, const KeyIndex*) const {
  for (int set = 0; set < item.held.sets(); ++set) item.sampled.bits[set] = ZeroBits(item);
  ArenaScope scope(item.arena);
  uint64_t* const open = item.arena.Take<uint64_t>(BitmapWords(item.held.end()));
  uint64_t* const scratch = item.arena.Take<uint64_t>(SampleScratchWords(item.held.end()));
  for (int set = 0; set < item.held.sets(); ++set) {
    const int64_t population = OpenKeys(item, set, 0, item.held.end(), open);
    if (population == 0) continue;
    const int64_t count =
        std::max<int64_t>(1, static_cast<int64_t>(rate_ * static_cast<double>(population)));
    DrawKeys(item, RandomPurpose::kRandomSampling, set, open, population, count, scratch,
             item.sampled.bits[set]);
    SetSample(item, set, count, population);
  }
}

int64_t AdaptiveSampler::ScoringBytes(const StepPlan& plan, int64_t keys) const {
  const int64_t sets = plan.by_group ? plan.shape.kv_heads : plan.shape.query_heads;
  const int64_t rows =
      std::min(sets * options_.base_rate.Resolve(keys), plan.shape.kv_heads * keys);
  return rows * plan.shape.dim * ElementBytes(plan.shape.element);
}

int64_t AdaptiveSampler::MostBaseKeys(const StepPlan& plan) const {
  return std::min(plan.capacity, std::max<int64_t>(2, options_.base_rate.Resolve(plan.capacity)));
}

size_t AdaptiveSampler::ScratchBytes(const StepPlan& plan) const {
  const int64_t keys = MostBaseKeys(plan);
  size_t bytes = BitmapBytes(plan) + Arena::Bytes<uint64_t>(BitmapWords(plan.capacity)) +
                 Arena::Bytes<uint32_t>(keys) + Arena::Bytes<float>(keys * plan.shape.group());
  if (options_.output_guarantee) {
    const int64_t dim = plan.shape.value_dim;
    bytes += Arena::Bytes<double>(keys) + Arena::Bytes<double>(keys * dim) +
             Arena::Bytes<double>(OutputScratchDoubles(keys, dim));
  }
  return bytes;
}

void AdaptiveSampler::Select(StepItem& item, const KeyIndex*) const {
  // Without a base sample there is no sampling.
  if (options_.base_rate == Budget::Count(0) || options_.base_rate == Budget::Fraction(0)) return;
  const int64_t visible = std::clamp<int64_t>(item.position + 1, 0, item.keys);
  const int64_t begin = options_.init_offset.Resolve(visible);
  const int64_t end = visible - options_.local_offset.Resolve(visible);
  for (int set = 0; set < item.held.sets(); ++set) item.sampled.bits[set] = ZeroBits(item);
  ArenaScope scope(item.arena);
  uint64_t* const open = item.arena.Take<uint64_t>(BitmapWords(item.held.end()));
  uint64_t* const scratch = item.arena.Take<uint64_t>(SampleScratchWords(item.held.end()));
  for (int set = 0; set < item.held.sets(); ++set) {
    const int64_t population = OpenKeys(item, set, begin, end, open);
    if (population == 0) continue;
    const int64_t base_count = std::max<int64_t>(2, options_.base_rate.Resolve(population));
    int64_t budget = population;
    if (population > base_count) {
      budget = ChooseBudget(item, set, open, population, base_count, scratch);
    }
    DrawKeys(item, RandomPurpose::kAdaptiveSample, set, open, population, budget, scratch,
             item.sampled.bits[set]);
    SetSample(item, set, budget, population);
    for (int r = 0; r < item.rows(); ++r) {
      if (item.set_of(r) != set) continue;
      item.reports[r].sample_budget = budget;
      item.reports[r].promised = true;
    }
  }
}

int64_t AdaptiveSampler::ChooseBudget(StepItem& item, int set, const uint64_t* open,
                                      int64_t population, int64_t base_count,
                                      uint64_t* scratch) const {
  ArenaScope scope(item.arena);
  uint64_t* const drawn = ZeroBits(item);
  DrawKeys(item, RandomPurpose::kAdaptiveBaseSample, set, open, population, base_count, scratch,
           drawn);
  uint32_t* const keys = item.arena.Take<uint32_t>(base_count);
  item.plan.bitmap.to_list(drawn, BitmapWords(item.held.end()), 0, keys, base_count);

  // One query head, or those of the group.
  const int first_row = item.plan.by_group ? 0 : set;
  const int rows = item.plan.by_group ? item.rows() : 1;
  float* const logits = item.arena.Take<float>(rows * base_count);
  if (item.logits.Cover({item.held.open_begin(), item.held.open_end()})) {
    for (int row = 0; row < rows; ++row) {
      const float* const known = item.logits.At(first_row + row, item.logits.first);
      for (int64_t s = 0; s < base_count; ++s) {
        logits[row * base_count + s] = known[keys[s] - item.logits.first];
      }
    }
  } else {
    AttentionProblem problem = item.problem;
    problem.q = static_cast<const char*>(problem.q) + first_row * problem.q_stride;
    problem.rows = rows;
    item.plan.attention.logits_list(problem, keys, base_count, logits, base_count);
  }

  const MomentKernels moments = MomentKernelsFor(item.plan.isa);
  const int64_t dim = item.plan.shape.value_dim;
  double* values = nullptr;
  if (options_.output_guarantee) {
    values = item.arena.Take<double>(base_count * dim);
    for (int64_t s = 0; s < base_count; ++s) {
      const char* const row = item.problem.v.Row(keys[s]);
      for (int64_t c = 0; c < dim; ++c) {
        values[s * dim + c] = ElementAt(row, item.plan.shape.element, c);
      }
    }
  }
  int64_t budget = 0;
  for (int row = 0; row < rows; ++row) {
    float* const mass = logits + row * base_count;
    const int r = first_row + row;
    const float heaviest = moments.most(mass, base_count);
    float top = std::max(heaviest, item.state.max[r]);
    if (!std::isfinite(top)) top = 0;
    moments.masses(mass, base_count, top);
    // What is held, relative to the same number.
    const double factor =
        item.state.max[r] == -std::numeric_limits<float>::infinity()
            ? 0
            : std::exp(static_cast<double>(item.state.max[r]) - static_cast<double>(top));
    const Moments m = moments.moments(mass, base_count);
    const BaseSample sample = {{base_count, m.sum, m.squares, m.fourth},
                               population,
                               factor == 0 ? 0 : factor * static_cast<double>(item.state.sum[r]),
                               std::exp(static_cast<double>(heaviest) - static_cast<double>(top))};
    RowStatistics statistics;
    if (!options_.output_guarantee) {
      statistics = DenominatorStatistics(sample, options_.epsilon);
    } else {
      ArenaScope of_row(item.arena);
      double* const masses = item.arena.Take<double>(base_count);
      std::copy(mass, mass + base_count, masses);
      float* const certain = item.state.out + r * item.state.out_stride;
      double* const residuals = item.arena.Take<double>(OutputScratchDoubles(base_count, dim));
      float held[kMaxDim];
      for (int64_t c = 0; c < dim; ++c) {
        held[c] = factor == 0 ? 0 : static_cast<float>(factor * static_cast<double>(certain[c]));
      }
      statistics =
          OutputStatistics(sample, {masses, values, held, dim}, options_.epsilon, residuals);
    }
    const SampleSize size = ComputeSampleSize(
        statistics.spread,
        {population, statistics.allowed_error, options_.delta, statistics.heaviest});
    budget = std::max(budget, size.budget);
    item.reports[r].guarantee_met = size.guarantee_met;
  }
  return budget;
}

}  // namespace sparse_attention::cpu
