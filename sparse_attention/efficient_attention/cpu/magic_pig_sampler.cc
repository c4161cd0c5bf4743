#include "sparse_attention/efficient_attention/cpu/magic_pig_sampler.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/cpu/lookup_scorer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/bucket_match.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/collision_bias.h"
#include "sparse_attention/key_index/hash_core.h"
#include "sparse_attention/key_index/mips_core.h"

namespace sparse_attention::cpu {
namespace {

// The hashed vector of a set against the keys of its head: cos = (sum of factor[row] q_row . k -
// offset) * inverse, over the rows of the set.
struct SetAngle {
  double offset = 0;   // the product with the centre
  double inverse = 0;  // 1 / (the vector's length * radius)
};

class CollisionWeights final : public SampleWeights {
 public:
  CollisionWeights(Isa isa, int64_t bits, int64_t tables)
      : kernels_(CollisionBiasKernelsFor(isa)), bits_(bits), tables_(tables) {}

  void Weigh(const StepItem& item, const uint32_t* keys, int64_t count, const float* logits,
             int64_t logits_stride, uint16_t* members, float* bias, int64_t stride,
             int64_t* dropped, Arena& scratch) const override {
    ArenaScope scope(scratch);
    List list = {logits, logits_stride, static_cast<double>(item.problem.scale), members, bias,
                 stride, dropped};
    if (logits == nullptr || item.problem.softcap != 0 || item.problem.scale == 0) {
      AttentionProblem plain = item.problem;
      plain.scale = 1;
      plain.softcap = 0;
      float* const products = scratch.Take<float>(item.rows() * kListKeys);
      item.plan.attention.logits_list(plain, keys, count, products, kListKeys);
      list.products = products;
      list.products_stride = kListKeys;
      list.unit = 1;
    }
    for (int64_t first = 0; first < count; first += kPieceKeys) {
      const int64_t piece = std::min(kPieceKeys, count - first);
      if (item.plan.by_group) {
        WeighForGroup(item, list, first, piece);
        continue;
      }
      for (int row = 0; row < item.rows(); ++row) WeighForRow(row, list, first, piece);
    }
  }

  SetAngle angles[kMostGroup];  // by set
  double factor[kMostGroup];    // of a group's rows, 1 / their length

 private:
  static constexpr int64_t kPieceKeys = 256;

  struct List {
    const float* products;  // `unit` times those of queries and keys, [rows, count]
    int64_t products_stride;
    double unit;
    uint16_t* members;
    float* bias;
    int64_t stride;
    int64_t* dropped;
  };

  void WeighForRow(int row, const List& list, int64_t first, int64_t count) const {
    const float* const products = list.products + row * list.products_stride + first;
    uint16_t* const members = list.members + first;
    float* const bias = list.bias + row * list.stride + first;
    // Its members behind one another.
    double of_members[kPieceKeys] = {};
    float of_bias[kPieceKeys];
    int64_t place[kPieceKeys], listed = 0;
    for (int64_t i = 0; i < count; ++i) {
      bias[i] = 0;
      of_members[listed] = static_cast<double>(products[i]);
      place[listed] = i;
      listed += members[i] >> row & 1;
    }
    kernels_.bias(ProblemOf(row, list.unit), of_members, listed, of_bias);
    for (int64_t j = 0; j < listed; ++j) {
      if (std::isfinite(of_bias[j])) {
        bias[place[j]] = of_bias[j];
        continue;
      }
      members[place[j]] = static_cast<uint16_t>(members[place[j]] & ~(1u << row));
      ++list.dropped[row];
    }
  }

  void WeighForGroup(const StepItem& item, const List& list, int64_t first, int64_t count) const {
    double sums[kPieceKeys] = {};
    float of_all[kPieceKeys];
    for (int row = 0; row < item.rows(); ++row) {
      const float* const products = list.products + row * list.products_stride + first;
      for (int64_t i = 0; i < count; ++i) {
        sums[i] += factor[row] * static_cast<double>(products[i]);
      }
    }
    kernels_.bias(ProblemOf(0, list.unit), sums, count, of_all);
    for (int64_t i = 0; i < count; ++i) {
      uint16_t& members = list.members[first + i];
      if (members != 0 && !std::isfinite(of_all[i])) {
        members = 0;
        for (int row = 0; row < item.rows(); ++row) ++list.dropped[row];
      }
      for (int row = 0; row < item.rows(); ++row) {
        list.bias[row * list.stride + first + i] = members == 0 ? 0 : of_all[i];
      }
    }
  }

  CollisionProblem ProblemOf(int set, double unit) const {
    return {angles[set].offset * unit, angles[set].inverse / unit, bits_, tables_};
  }

  const CollisionBiasKernels kernels_;
  const int64_t bits_, tables_;
};

class MagicPigIndex final : public CoveringIndexOf<KeyIndex> {
 public:
  MagicPigIndex(const StepPlan& plan, const MagicPigOptions& options)
      : CoveringIndexOf(plan),
        centred_(options.centred),
        capacity_(plan.capacity),
        isa_(plan.isa),
        kernels_(BucketMatchKernelsFor(plan.isa)),
        packed_(static_cast<size_t>(
            PackedPlaneFloats(options.tables, options.bits, plan.shape.dim + 1))),
        hash_{packed_.data(), options.tables, options.bits, plan.shape.dim + 1},
        code_bytes_(BucketBytes(static_cast<int>(options.bits))),
        codes_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * options.tables *
                                   plan.capacity * code_bytes_)),
        centres_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads * plan.shape.dim)),
        spheres_(static_cast<size_t>(plan.sequences * plan.shape.kv_heads)),
        stale_from_(static_cast<size_t>(plan.shape.kv_heads)) {
    PackPlanes(options.planes(plan).data(), hash_.tables, hash_.bits, hash_.dim,
               /*highest_first=*/false, packed_.data());
  }

  bool allocated() const { return codes_.data() != nullptr; }
  int64_t bytes() const override {
    return static_cast<int64_t>(codes_.size() + centres_.size() * sizeof(float));
  }
  int64_t ScoringBytes(int64_t keys) const override {
    return shape_.kv_heads * keys * hash_.tables * code_bytes_;
  }
  size_t ScratchBytes() const override {
    const int64_t rows = shape_.group();
    return 2 * Arena::Bytes<float>(rows * hash_.dim) +
           Arena::Bytes<float>(HashScratchFloats(hash_)) +
           Arena::Bytes<uint64_t>(rows * hash_.tables);
  }

  void Inherit(const KeyIndex& index) override {
    const auto& earlier = static_cast<const MagicPigIndex&>(index);
    centres_ = earlier.centres_;
    spheres_ = earlier.spheres_;
  }

  // The keys of the item's head that share a bucket with a set, but for those that it holds.
  void Sample(StepItem& item) const {
    HeldKeys& held = item.held;
    const int64_t first_word = held.open_begin() / 64;
    const int64_t words = BitmapWords(held.end()), open_words = BitmapWords(held.open_end());
    uint64_t* const bits = item.arena.Take<uint64_t>(held.sets() * words);
    auto* const weights =
        new (item.arena.Take<CollisionWeights>(1)) CollisionWeights(isa_, hash_.bits, hash_.tables);
    ArenaScope scope(item.arena);
    BucketMatchProblem problem;
    problem.rows = held.sets();
    problem.tables = static_cast<int32_t>(hash_.tables);
    problem.bits = static_cast<int32_t>(hash_.bits);
    problem.queries = HashQueries(item, *weights);
    problem.buckets = codes_.data() + CodeOffset(item.sequence, item.kv_head);
    problem.stride = capacity_;
    kernels_.match(problem, first_word * 64, held.open_end(), bits + first_word, words);
    for (int set = 0; set < held.sets(); ++set) {
      item.sampled.bits[set] = bits + set * words;
      if (held.bits(set) == nullptr) continue;
      item.plan.bitmap.and_not(held.bits(set) + first_word, open_words - first_word,
                               item.sampled.bits[set] + first_word);
    }
    item.sampled.weights = weights;
    item.sampled.any = true;
  }

  static size_t SampleBytes(const StepPlan& plan) {
    return Arena::Bytes<uint64_t>(plan.sets() * BitmapWords(plan.capacity)) +
           Arena::Bytes<CollisionWeights>(1);
  }

 private:
  // Centre and radius of a head.
  struct Sphere {
    float radius = 1;
    int64_t fitted_to = 0;  // keys that they rest on; 0: not yet
  };

  // The buckets [sets, tables] of what is hashed for the item's sets, in the arena.
  const void* HashQueries(const StepItem& item, CollisionWeights& weights) const {
    const int64_t dim = shape_.dim;
    const int sets = item.held.sets();
    float* const q = item.arena.Take<float>(item.rows() * dim);
    float* const hashed = item.arena.Take<float>(sets * hash_.dim);
    float* const scratch = item.arena.Take<float>(HashScratchFloats(hash_));
    for (int row = 0; row < item.rows(); ++row) {
      WidenQuery(item, row, q + row * dim);
      const float length = VectorNorm(q + row * dim, dim);
      weights.factor[row] = 1 / static_cast<double>(length < kLeastNorm ? kLeastNorm : length);
    }
    const int64_t place = item.sequence * shape_.kv_heads + item.kv_head;
    const float* const centre = centres_.data() + place * dim;
    for (int set = 0; set < sets; ++set) {
      float* const x = hashed + set * hash_.dim;
      if (item.plan.by_group) {
        SumOfDirections(q, item.rows(), dim, x);
      } else {
        std::copy_n(q + set * dim, dim, x);
      }
      x[dim] = 0;
      double offset = 0;
      for (int64_t i = 0; i < dim; ++i) {
        offset += static_cast<double>(x[i]) * static_cast<double>(centre[i]);
      }
      const float length = VectorNorm(x, dim);
      weights.angles[set] = {
          offset, 1 / (static_cast<double>(length < kLeastNorm ? kLeastNorm : length) *
                       static_cast<double>(spheres_[static_cast<size_t>(place)].radius))};
    }
    void* const buckets = item.arena.Take<uint64_t>(sets * hash_.tables);
    Hash(hashed, sets, scratch, buckets, 1, hash_.tables);
    return buckets;
  }

  void Hash(const float* x, int64_t rows, float* scratch, void* buckets, int64_t table_stride,
            int64_t row_stride) const {
    const auto as = [&](auto* typed) {
      HashRows(hash_, x, rows, isa_, scratch, typed, table_stride, row_stride);
    };
    switch (code_bytes_) {
      case 1:
        return as(static_cast<uint8_t*>(buckets));
      case 2:
        return as(static_cast<int16_t*>(buckets));
      case 4:
        return as(static_cast<int32_t*>(buckets));
      default:
        return as(static_cast<int64_t*>(buckets));
    }
  }

  void ReserveThreads(int threads) override {
    scratch_.resize(static_cast<size_t>(threads));
    for (std::vector<float>& scratch : scratch_) {
      scratch.resize(static_cast<size_t>(HashScratchFloats(hash_) + kRows * hash_.dim));
    }
  }

  void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered, Workers& workers) override {
    // Where a head's first key to be hashed is: all of them behind a new centre.
    workers.Run(shape_.kv_heads, [&](int64_t head, int thread) {
      const bool fits =
          FollowsSphere(sequence, head, kv, covered, scratch_[static_cast<size_t>(thread)].data());
      stale_from_[static_cast<size_t>(head)] = fits ? covered : 0;
    });
    const int64_t first = *std::min_element(stale_from_.begin(), stale_from_.end());
    this->ForEachPiece(shape_.kv_heads, first, kv.length, workers,
                       [&](int64_t head, int64_t begin, int64_t end, int thread) {
                         begin = std::max(begin, stale_from_[static_cast<size_t>(head)]);
                         HashKeys(sequence, head, kv, begin, end,
                                  scratch_[static_cast<size_t>(thread)].data());
                       });
  }

  int64_t Cut(int64_t sequence, int64_t length) override {
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      Sphere& sphere = SphereOf(sequence, head);
      if (sphere.fitted_to > length) sphere.fitted_to = 0;
    }
    return length;
  }

  // Whether the keys from `covered` on lie within the head's sphere; else it is fitted to all keys.
  bool FollowsSphere(int64_t sequence, int64_t head, const SequenceKv& kv, int64_t covered,
                     float* scratch) {
    const MipsKeys keys = {kv.Keys(head), shape_.element, shape_.dim};
    Sphere& sphere = SphereOf(sequence, head);
    float* const centre = CentreOf(sequence, head);
    const auto distance = [&](int64_t begin) {
      return MipsDistance(keys, std::max(begin, kv.begin), kv.length, centre, isa_, scratch);
    };
    if (sphere.fitted_to > 0 && distance(covered) <= sphere.radius) return true;
    MipsCentre(keys, kv.begin, kv.length, centred_, isa_, scratch, centre);
    sphere = {MipsRadius(distance(0)), kv.length};
    return false;
  }

  void HashKeys(int64_t sequence, int64_t head, const SequenceKv& kv, int64_t begin, int64_t end,
                float* scratch) {
    const MipsKeys keys = {kv.Keys(head), shape_.element, shape_.dim};
    const MipsSphere sphere = {CentreOf(sequence, head), SphereOf(sequence, head).radius};
    float* const rows = scratch + HashScratchFloats(hash_);
    for (; begin < end; begin += kRows) {
      const int64_t last = std::min(end, begin + kRows);
      MipsTransformKeys(keys, begin, last, sphere, isa_, rows);
      Hash(rows, last - begin, scratch,
           codes_.data() + CodeOffset(sequence, head) + begin * code_bytes_, capacity_, 1);
    }
  }

  Sphere& SphereOf(int64_t sequence, int64_t head) {
    return spheres_[static_cast<size_t>(sequence * shape_.kv_heads + head)];
  }
  float* CentreOf(int64_t sequence, int64_t head) {
    return centres_.data() + (sequence * shape_.kv_heads + head) * shape_.dim;
  }
  int64_t CodeOffset(int64_t sequence, int64_t head) const {
    return (sequence * shape_.kv_heads + head) * hash_.tables * capacity_ * code_bytes_;
  }

  static constexpr int64_t kRows = 64;  // hashed at a time

  const bool centred_;
  const int64_t capacity_;
  const Isa isa_;
  const BucketMatchKernels kernels_;
  std::vector<float> packed_;
  const HashPlanes hash_;
  const int64_t code_bytes_;
  AlignedBuffer codes_;                      // [sequences, KV heads, tables, capacity]
  std::vector<float> centres_;               // [sequences, KV heads, dim]
  std::vector<Sphere> spheres_;              // [sequences, KV heads]
  std::vector<int64_t> stale_from_;          // by KV head
  std::vector<std::vector<float>> scratch_;  // by thread
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> MagicPigSampler::NewIndex(const StepPlan& plan) const {
  return IfAllocated(std::make_unique<MagicPigIndex>(plan, options_), plan, "hash tables");
}

size_t MagicPigSampler::ScratchBytes(const StepPlan& plan) const {
  return MagicPigIndex::SampleBytes(plan) + SampleWeights::ListBytes(plan);
}

void MagicPigSampler::Select(StepItem& item, const KeyIndex* index) const {
  static_cast<const MagicPigIndex*>(index)->Sample(item);
}

}  // namespace sparse_attention::cpu
