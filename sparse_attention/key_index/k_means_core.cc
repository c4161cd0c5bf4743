#include "sparse_attention/key_index/k_means_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace sparse_attention::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kShareRows = 256;  // rows between two remembered cumulative shares
// Draws that are refused one after the other before the shares are brought up to date.
constexpr int kRefusals = 16;

int64_t PackOf(int64_t cluster) { return cluster / kPackedCentroids * kPackedCentroids; }

void SetCentroid(const float* centroid, int64_t dim, int64_t cluster, float* packed) {
  float* const pack = packed + PackOf(cluster) * (dim + 1);
  const int64_t lane = cluster % kPackedCentroids;
  float norm = 0;
  for (int64_t i = 0; i < dim; ++i) {
    norm += centroid[i] * centroid[i];
    pack[(i + 1) * kPackedCentroids + lane] = -2 * centroid[i];
  }
  pack[lane] = norm;
}

// No centroids at all.
void ClearPacks(int64_t clusters, int64_t dim, float* packed) {
  std::fill_n(packed, PackedCentroidFloats(clusters, dim), 0.f);
  for (int64_t first = 0; first < clusters; first += kPackedCentroids) {
    std::fill_n(packed + first * (dim + 1), kPackedCentroids, kInfinity);
  }
}

// Takes pieces of the caller's scratch at 64-byte steps; without scratch it counts them.
class Arena {
 public:
  explicit Arena(void* scratch) : next_(static_cast<char*>(scratch)) {}
  template <typename T>
  T* Take(int64_t count) {
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    char* const piece = next_;
    if (next_ != nullptr) next_ += bytes;
    bytes_ += bytes;
    return reinterpret_cast<T*>(piece);
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* next_;
  int64_t bytes_ = 0;
};

struct Scratch {
  Scratch(int64_t rows, int64_t dim, int64_t clusters, Arena arena)
      : norms(arena.Take<float>(rows)),
        values(arena.Take<float>(rows)),
        shares(arena.Take<double>(rows / kShareRows + 2)),
        block(arena.Take<float>(RowBlockFloats(dim))),
        packed(arena.Take<float>(PackedCentroidFloats(clusters, dim))),
        pending(arena.Take<float>(PackedCentroidFloats(kPackedCentroids, dim))),
        sums(arena.Take<double>(clusters * dim)),
        counts(arena.Take<int64_t>(clusters)),
        bytes(arena.bytes()) {}

  float *norms, *values;  // [rows]: |x|^2, and the least |c|^2 - 2 x . c so far
  double* shares;         // cumulative before each kShareRows rows, and of all
  float *block, *packed, *pending;
  double* sums;
  int64_t* counts;
  int64_t bytes;
};

class GroupKMeans {
 public:
  GroupKMeans(const KMeansProblem& problem, Isa isa, const Scratch& scratch)
      : p_(problem), s_(scratch), kernels_(KMeansKernelsFor(isa)), dim_(problem.x.dim()) {}

  void Run() {
    PlusPlusStart();
    float* const lengths = s_.norms;
    for (int64_t j = 0; j < p_.x.rows; ++j) lengths[j] = std::sqrt(s_.norms[j]);
    for (int64_t i = 0; i < p_.iterations; ++i) {
      MoveCentroids();
      const bool last = i + 1 == p_.iterations;
      NearestParams search = Search(s_.packed, p_.clusters);
      search.lengths = lengths;
      if (!last) WithSums(&search);
      if (kernels_.nearest(search) == 0) break;
    }
  }

 private:
  NearestParams Search(const float* packed, int64_t clusters) const {
    NearestParams search;
    search.x = p_.x;
    search.packed = packed;
    search.clusters = clusters;
    search.codes = p_.codes;
    search.block = s_.block;
    return search;
  }

  void WithSums(NearestParams* search) {
    std::fill_n(s_.sums, p_.clusters * dim_, 0.);
    std::fill_n(s_.counts, p_.clusters, 0);
    search->sums = s_.sums;
    search->counts = s_.counts;
    search->counted = p_.counted;
  }

  void MoveCentroids() {
    for (int64_t c = 0; c < p_.clusters; ++c) {
      if (s_.counts[c] > 0) {
        const double count = static_cast<double>(s_.counts[c]);
        for (int64_t i = 0; i < dim_; ++i) {
          p_.centroids[c * dim_ + i] = static_cast<float>(s_.sums[c * dim_ + i] / count);
        }
      }
    }
    PackCentroids(p_.centroids, p_.clusters, dim_, s_.packed);
  }

  // Every next centroid is a row drawn with a chance proportional to its squared distance from the
  // nearest so far. Measuring all rows after each draw would read them as often as there are
  // clusters. Instead rows are drawn by the distances of an earlier moment, which are never less,
  // and kept with the chance (distance now) / (distance then): the same distribution. The distances
  // are brought up to date for many new centroids at once.
  void PlusPlusStart() {
    ClearPacks(kPackedCentroids, dim_, s_.pending);
    kernels_.norms(p_.x, s_.block, s_.norms);
    std::fill_n(s_.values, p_.x.rows, 0.f);
    SetShares();
    int64_t pending = 0;
    for (int64_t c = 0; c < p_.clusters;) {
      const int64_t row = pending == 0 ? DrawRow() : DrawRowBeyondPending(pending);
      if (row >= 0) {
        float* const centroid = p_.centroids + c * dim_;
        LoadCentroid(row, centroid);
        SetCentroid(centroid, dim_, pending, s_.pending);
        ++pending;
        ++c;
      }
      // The first draw is uniform and tells nothing of distances.
      if (row < 0 || c == 1 || pending == kPackedCentroids || c == p_.clusters) {
        FoldPending(c - pending, pending, /*last=*/c == p_.clusters);
        pending = 0;
      }
    }
  }

  void FoldPending(int64_t first, int64_t pending, bool last) {
    NearestParams search = Search(s_.pending, pending);
    search.values = s_.values;
    search.keep_nearer = first > 0;
    search.first_code = static_cast<int32_t>(first);
    if (last) WithSums(&search);
    kernels_.nearest(search);
    measured_ = true;
    if (!last) {
      SetShares();
      ClearPacks(kPackedCentroids, dim_, s_.pending);
    }
  }

  double ShareOf(int64_t row, float value) const {
    if (p_.counted != nullptr && p_.counted[row] == 0) return 0;
    if (!measured_) return 1;
    const float distance = s_.norms[row] + value;
    return distance > 0 ? static_cast<double>(distance) : 0;
  }

  void SetShares() {
    double sum = 0;
    last_counted_ = p_.x.rows - 1;
    for (int64_t row = 0; row < p_.x.rows; ++row) {
      if (row % kShareRows == 0) s_.shares[row / kShareRows] = sum;
      sum += ShareOf(row, s_.values[row]);
      if (p_.counted != nullptr && p_.counted[row] != 0) last_counted_ = row;
    }
    pieces_ = (p_.x.rows + kShareRows - 1) / kShareRows;
    s_.shares[pieces_] = sum;
  }

  // The first row whose cumulative share is above the target, so never one without a share. Where
  // no row has one (fewer distinct rows than clusters) the last that counts is taken again.
  int64_t DrawRow() {
    const double target = s_.shares[pieces_] * p_.uniform(p_.stream);
    const double* const ends = s_.shares + 1;
    const int64_t piece = std::upper_bound(ends, ends + pieces_, target) - ends;
    if (piece == pieces_) return last_counted_;
    double sum = s_.shares[piece];
    const int64_t end = std::min(p_.x.rows, (piece + 1) * kShareRows);
    for (int64_t row = piece * kShareRows; row < end; ++row) {
      sum += ShareOf(row, s_.values[row]);
      if (sum > target) return row;
    }
    return last_counted_;
  }

  // -1 after too many refusals.
  int64_t DrawRowBeyondPending(int64_t pending) {
    for (int refused = 0; refused < kRefusals; ++refused) {
      const int64_t row = DrawRow();
      const double then = ShareOf(row, s_.values[row]);
      const double now = ShareOf(row, std::min(s_.values[row], PendingValue(row, pending)));
      if (then == 0 || now >= then) return row;
      if (p_.uniform(p_.stream) * then < now) return row;
    }
    return -1;
  }

  VectorRows OneRow(int64_t row) const {
    VectorRows one = p_.x;
    one.data = static_cast<const char*>(p_.x.data) + row * p_.x.row_stride;
    one.rows = 1;
    if (one.extra != nullptr) one.extra += row;
    return one;
  }

  float PendingValue(int64_t row, int64_t pending) {
    float value = 0;
    int32_t code = 0;
    NearestParams search = Search(s_.pending, pending);
    search.x = OneRow(row);
    search.values = &value;
    search.codes = &code;
    kernels_.nearest(search);
    return value;
  }

  void LoadCentroid(int64_t row, float* centroid) {
    float norm;
    kernels_.norms(OneRow(row), s_.block, &norm);  // leaves the row's floats in the block
    std::memcpy(centroid, s_.block, sizeof(float) * static_cast<size_t>(dim_));
  }

  const KMeansProblem& p_;
  const Scratch& s_;
  KMeansKernels kernels_;
  int64_t dim_;
  int64_t pieces_ = 0, last_counted_ = 0;
  bool measured_ = false;
};

}  // namespace

KMeansKernels KMeansKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeKMeansKernels)(); }

void PackCentroids(const float* centroids, int64_t clusters, int64_t dim, float* packed) {
  ClearPacks(clusters, dim, packed);
  for (int64_t c = 0; c < clusters; ++c) SetCentroid(centroids + c * dim, dim, c, packed);
}

int64_t KMeansScratchBytes(int64_t rows, int64_t dim, int64_t clusters) {
  return Scratch(rows, dim, clusters, Arena(nullptr)).bytes;
}

void KMeansOfGroup(const KMeansProblem& problem, Isa isa, void* scratch) {
  const Scratch pieces(problem.x.rows, problem.x.dim(), problem.clusters, Arena(scratch));
  std::fill_n(problem.codes, problem.x.rows, 0);
  GroupKMeans(problem, isa, pieces).Run();
}

}  // namespace sparse_attention::cpu
