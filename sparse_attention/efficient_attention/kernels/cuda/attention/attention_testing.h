// Random problems for tests of the CUDA attention kernels, and what they must give, in float64.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_ATTENTION_TESTING_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_ATTENTION_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"
#include "sparse_attention/efficient_attention/kernels/cuda/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cuda/common/device_buffer.h"

namespace sparse_attention::cuda {

using cpu::Element;
using Random = std::mt19937_64;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kUnit = 0x1p-23;  // of fp32; matrix products cut rather than round

inline int Draw(Random& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}

struct Shape {
  Element element = Element::kBFloat16;
  int dim = 128, batch = 1, kv_heads = 1, group = 4, queries = 1, capacity = 100;
  bool paged = false;
  float softcap = 0;
  int window = 0, splits = 0;
  bool sinks = false;
  bool sparse = false;
  int sink = 0, local = 0, stride = 0;
  bool members = false, weights = false, head_weights = false;
};

// A cache on the host: rows of [batch, kv_heads, capacity], in pages where the shape says so.
class Cache {
 public:
  Cache(Random& random, const Shape& shape, const std::vector<int32_t>& pages, int page_shift,
        int num_pages, int pad, bool heads_first)
      : shape_(shape), pages_(pages), shift_(page_shift), num_pages_(num_pages) {
    const int64_t row = 2 * shape.dim + 16 * pad;
    view_.row_stride = row;
    int64_t bytes = 0;
    if (shape.paged) {
      // [pages, heads, rows] or [pages, rows, heads].
      const int64_t rows = int64_t{1} << page_shift;
      view_.head_stride = heads_first ? row * rows : row;
      view_.row_stride = heads_first ? row : row * shape.kv_heads;
      view_.page_stride = row * rows * shape.kv_heads;
      bytes = view_.page_stride * num_pages;
    } else {
      view_.head_stride = row * shape.capacity;
      view_.batch_stride = view_.head_stride * shape.kv_heads;
      bytes = view_.batch_stride * shape.batch;
    }
    memory_.resize(static_cast<size_t>(std::max<int64_t>(bytes / 2, 8)));
    for (size_t i = 0; i < memory_.size(); ++i) {
      cpu::SetElement(memory_.data(), shape.element, static_cast<int64_t>(i), kNan);
    }
    std::normal_distribution<float> normal;
    for (int b = 0; b < shape.batch; ++b) {
      for (int h = 0; h < shape.kv_heads; ++h) {
        for (int j = 0; j < shape.capacity; ++j) {
          for (int i = 0; i < shape.dim; ++i) Set(b, h, j, i, normal(random));
        }
      }
    }
  }
  float At(int b, int h, int key, int i) const {
    return cpu::ElementAt(Row(b, h, key), shape_.element, i);
  }
  void Set(int b, int h, int key, int i, float x) {
    cpu::SetElement(const_cast<char*>(Row(b, h, key)), shape_.element, i, x);
  }
  void Fill(int b, int h, int key, float x) {
    for (int i = 0; i < shape_.dim; ++i) Set(b, h, key, i, x);
  }
  // A row as it was when the cache was last copied.
  const float* Floats(int b, int h, int key) const {
    return floats_.data() +
           ((int64_t{b} * shape_.kv_heads + h) * shape_.capacity + key) * shape_.dim;
  }
  CacheView OnDevice() {
    floats_.clear();
    for (int b = 0; b < shape_.batch; ++b) {
      for (int h = 0; h < shape_.kv_heads; ++h) {
        for (int j = 0; j < shape_.capacity; ++j) {
          const bool exists = Exists(b, j);
          for (int i = 0; i < shape_.dim; ++i) floats_.push_back(exists ? At(b, h, j, i) : kNan);
        }
      }
    }
    device_ = DeviceBuffer<uint16_t>(memory_);
    view_.k = device_.get();
    return view_;
  }

 private:
  bool Exists(int b, int key) const {
    const int64_t per_sequence = static_cast<int64_t>(pages_.size()) / shape_.batch;
    return !shape_.paged || (pages_[b * per_sequence + (key >> shift_)] >= 0 &&
                             pages_[b * per_sequence + (key >> shift_)] < num_pages_);
  }
  const char* Row(int b, int h, int key) const {
    const char* base = reinterpret_cast<const char*>(memory_.data()) + h * view_.head_stride;
    if (!shape_.paged) return base + b * view_.batch_stride + key * view_.row_stride;
    const int per_sequence = static_cast<int>(pages_.size()) / shape_.batch;
    const int64_t page = pages_[b * per_sequence + (key >> shift_)];
    return base + page * view_.page_stride + (key & ((1 << shift_) - 1)) * view_.row_stride;
  }

  const Shape shape_;
  const std::vector<int32_t>& pages_;
  const int shift_, num_pages_;
  CacheView view_;
  std::vector<uint16_t> memory_;
  std::vector<float> floats_;
  DeviceBuffer<uint16_t> device_;
};

struct Output {
  std::vector<float> out;  // [batch, queries, heads, dim]
  std::vector<float> lse;  // [batch, queries, heads]
  bool operator==(const Output&) const = default;
};

// A problem with random content. Change what is public, then Run or Check.
class Problem {
 public:
  Problem(const Shape& shape, uint64_t seed)
      : shape(shape),
        random(seed),
        heads(shape.kv_heads * shape.group),
        page_shift(Draw(random, 0, 6)),
        pages(MakePages()),
        num_pages(static_cast<int>(pages.size()) + Draw(random, 0, 2)),
        pad(Draw(random, 0, 2)),
        heads_first(Draw(random, 0, 1) == 0),
        k(random, shape, pages, page_shift, num_pages, pad, heads_first),
        v(random, shape, pages, page_shift, num_pages, pad, heads_first) {
    std::normal_distribution<float> normal;
    q.resize(static_cast<size_t>(shape.batch) * shape.queries * heads * shape.dim);
    for (int64_t i = 0; i < static_cast<int64_t>(q.size()); ++i) {
      cpu::SetElement(q.data(), shape.element, i, 1.5f * normal(random));
    }
    for (int b = 0; b < shape.batch; ++b) lengths.push_back(Draw(random, 0, shape.capacity));
    if (shape.sinks) {
      for (int h = 0; h < heads; ++h) sinks.push_back(2 * normal(random));
    }
    if (shape.sparse) FillLists();
  }

  float Q(int64_t row, int i) const {
    return cpu::ElementAt(q.data(), shape.element, row * shape.dim + i);
  }

  // With guards around the output.
  Output Run(cudaStream_t stream = nullptr, int replays = 0) {
    const DeviceBuffer<uint16_t> q_device(q);
    const DeviceBuffer<int32_t> length_device(lengths), page_device(pages), count_device(counts);
    const DeviceBuffer<float> sink_device(sinks), weight_device(weights);
    const DeviceBuffer<uint32_t> key_device(keys);
    const DeviceBuffer<uint16_t> member_device(members);
    SparseDecodeParams params;
    DecodeParams& p = params.attention;
    p.element = shape.element;
    p.dim = shape.dim;
    p.batch = shape.batch;
    p.kv_heads = shape.kv_heads;
    p.group = shape.group;
    p.queries = shape.queries;
    p.capacity = shape.capacity;
    p.lengths = length_device.get();
    p.q = q_device.get();
    p.q_strides = {int64_t{shape.queries} * heads * shape.dim, int64_t{heads} * shape.dim,
                   shape.dim};
    p.cache = k.OnDevice();
    p.cache.v = v.OnDevice().k;
    if (shape.paged) {
      p.table = {page_device.get(), static_cast<int64_t>(pages.size()) / shape.batch, page_shift,
                 num_pages};
    }
    p.scale = scale();
    p.softcap = shape.softcap;
    p.window = shape.window;
    p.sinks = shape.sinks ? sink_device.get() : nullptr;
    p.splits = shape.splits;
    const int64_t row = shape.dim + 2;  // a guard behind each
    const int64_t rows = int64_t{shape.batch} * shape.queries * heads;
    constexpr uint16_t kGuard = 0x7ABC;
    DeviceBuffer<uint16_t> out_device(
        std::vector<uint16_t>(static_cast<size_t>(rows * row), kGuard));
    DeviceBuffer<float> lse_device(std::vector<float>(static_cast<size_t>(rows) + 1, 12345));
    p.out = out_device.get();
    p.out_strides = {row * shape.queries * heads, row * heads, row};
    p.lse = lse_device.get();
    p.workspace_bytes = DecodeWorkspaceBytes(p);
    DeviceBuffer<char>& workspace = SharedWorkspace(p.workspace_bytes);
    p.workspace = workspace.get();
    KeySelection& s = params.selection;
    s.sink = shape.sink;
    s.local = shape.local;
    if (shape.stride > 0) {
      s.keys = key_device.get();
      s.counts = count_device.get();
      s.stride = shape.stride;
      s.members = shape.members ? member_device.get() : nullptr;
      s.inverse_probabilities = shape.weights ? weight_device.get() : nullptr;
      s.head_weights = shape.head_weights;
    }
    const auto launch = [&] {
      return shape.sparse ? LaunchSparseDecode(params, stream) : LaunchDenseDecode(p, stream);
    };
    if (replays == 0) {
      EXPECT_EQ(launch(), cudaSuccess);
    } else {
      cudaGraph_t graph;
      cudaGraphExec_t exec;
      EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
      EXPECT_EQ(launch(), cudaSuccess);
      EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
      EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
      for (int i = 0; i < replays; ++i) EXPECT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
      EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
      EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<uint16_t> out = out_device.ToHost();
    Output output;
    output.lse = lse_device.ToHost();
    EXPECT_EQ(output.lse.back(), 12345) << "behind lse";
    output.lse.pop_back();
    for (int64_t r = 0; r < rows; ++r) {
      for (int i = 0; i < shape.dim; ++i) {
        output.out.push_back(cpu::ElementAt(out.data(), shape.element, r * row + i));
      }
      for (int64_t i = shape.dim; i < row; ++i) {
        EXPECT_EQ(out[static_cast<size_t>(r * row + i)], kGuard) << "behind row " << r;
      }
    }
    return output;
  }

  struct Seen {
    int key;
    double weight;
  };
  // What a query head attends to.
  std::vector<Seen> SeenBy(int b, int query, int head) const {
    const int length = std::clamp(lengths[b], 0, shape.capacity);
    const int end = length - (shape.queries - 1 - query);
    const int begin = shape.window > 0 ? std::max(end - shape.window, 0) : 0;
    std::vector<Seen> seen;
    for (int j = begin; j < end; ++j) {
      if (!shape.sparse || j < shape.sink || j >= end - shape.local) seen.push_back({j, 1});
    }
    if (shape.stride == 0) return seen;
    const int kv_head = head / shape.group, g = head % shape.group;
    const int64_t list = (int64_t{b} * shape.queries + query) * shape.kv_heads + kv_head;
    for (int64_t i = 0; i < std::clamp(counts[list], 0, shape.stride); ++i) {
      const int64_t key = keys[list * shape.stride + i];
      if (key < begin || key >= end) continue;
      if (shape.members && !(members[list * shape.stride + i] >> g & 1)) continue;
      const int64_t row = shape.head_weights ? list * shape.group + g : list;
      seen.push_back(
          {static_cast<int>(key), shape.weights ? double{weights[row * shape.stride + i]} : 1.0});
    }
    return seen;
  }

  // Keys that no head attends to hold what must have no effect.
  void PoisonTheUnseen(float poison) {
    for (int b = 0; b < shape.batch; ++b) {
      for (int h = 0; h < shape.kv_heads; ++h) {
        std::vector<bool> used(shape.capacity);
        for (int query = 0; query < shape.queries; ++query) {
          for (int g = 0; g < shape.group; ++g) {
            for (const Seen& s : SeenBy(b, query, h * shape.group + g)) used[s.key] = true;
          }
        }
        for (int j = 0; j < shape.capacity; ++j) {
          if (used[j]) continue;
          k.Fill(b, h, j, poison);
          v.Fill(b, h, j, poison);
        }
      }
    }
  }

  // Compares with the float64 softmax; returns the largest error as a share of what is allowed.
  double Check(const Output& output) const {
    double worst = 0;
    for (int b = 0; b < shape.batch; ++b) {
      for (int query = 0; query < shape.queries; ++query) {
        for (int h = 0; h < heads; ++h) worst = std::max(worst, CheckRow(output, b, query, h));
      }
    }
    return worst;
  }

  float scale() const { return 1 / std::sqrt(static_cast<float>(shape.dim)); }

  const Shape shape;
  Random random;
  const int heads;
  const int page_shift;
  std::vector<int32_t> pages;  // [batch, pages a sequence]
  const int num_pages;
  const int pad;  // behind a row, in 16 bytes
  const bool heads_first;
  Cache k, v;
  std::vector<uint16_t> q;
  std::vector<int32_t> lengths, counts;
  std::vector<float> sinks, weights;
  std::vector<uint32_t> keys;
  std::vector<uint16_t> members;

 private:
  std::vector<int32_t> MakePages() {
    const int rows = 1 << page_shift;
    std::vector<int32_t> all(static_cast<size_t>(shape.batch) *
                             ((shape.capacity + rows - 1) / rows));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    return all;
  }

  void FillLists() {
    const int64_t lists = int64_t{shape.batch} * shape.queries * shape.kv_heads;
    const int64_t rows = lists * (shape.head_weights ? shape.group : 1);
    for (int64_t i = 0; i < lists; ++i) counts.push_back(Draw(random, 0, shape.stride));
    keys.resize(static_cast<size_t>(lists * shape.stride));
    for (uint32_t& key : keys) {
      // Some are out of reach.
      key = static_cast<uint32_t>(Draw(random, 0, shape.capacity + shape.capacity / 8));
      if (Draw(random, 0, 50) == 0) key = static_cast<uint32_t>(random());
    }
    members.resize(keys.size());
    for (uint16_t& m : members) m = static_cast<uint16_t>(random());
    weights.resize(static_cast<size_t>(rows * shape.stride));
    for (float& w : weights) w = std::exp(static_cast<float>(Draw(random, 0, 1000)) / 250);
  }

  // One workspace for problems of all shapes, filled only before the first.
  static DeviceBuffer<char>& SharedWorkspace(int64_t bytes) {
    static auto* const workspace = new DeviceBuffer<char>;
    if (workspace->size() < bytes) {
      *workspace = DeviceBuffer<char>(std::vector<char>(static_cast<size_t>(bytes), '\xFF'));
    }
    return *workspace;
  }

  double CheckRow(const Output& output, int b, int query, int head) const {
    const int64_t row = (int64_t{b} * shape.queries + query) * heads + head;
    const int kv_head = head / shape.group;
    const std::vector<Seen> seen = SeenBy(b, query, head);
    const float* const actual = output.out.data() + row * shape.dim;
    const double sink = shape.sinks ? sinks[head] : -kInfinity;
    std::vector<double> logits;
    std::vector<float> q_row(shape.dim);
    for (int i = 0; i < shape.dim; ++i) q_row[i] = Q(row, i);
    double max = sink, error = 0, largest = 0;
    for (const Seen& s : seen) {
      double dot = 0, size = 0;
      const float* const keys_row = k.Floats(b, kv_head, s.key);
      for (int i = 0; i < shape.dim; ++i) {
        const double product = double{q_row[i]} * keys_row[i];
        dot += product;
        size += std::abs(product);
      }
      double x = scale() * dot;
      if (shape.softcap > 0) x = shape.softcap * std::tanh(x / shape.softcap);
      // Sixteen products are added at a time.
      error = std::max(error, kUnit * ((shape.dim / 16 + 4) * scale() * size + 4 * std::abs(x)));
      x += std::log(s.weight);
      logits.push_back(x);
      max = std::max(max, x);
    }
    double sum = shape.sinks ? std::exp(sink - max) : 0;
    std::vector<double> out(shape.dim);
    for (size_t j = 0; j < seen.size(); ++j) {
      const double weight = std::exp(logits[j] - max);
      sum += weight;
      const float* const values = v.Floats(b, kv_head, seen[j].key);
      for (int i = 0; i < shape.dim; ++i) {
        const double value = values[i];
        out[i] += weight * value;
        largest = std::max(largest, std::abs(value));
      }
    }
    const bool half = shape.element == Element::kFloat16;
    // Of logits twice (denominator, output), their differences and exponentials, the weights' two
    // parts, and the sums: a rounding a product of tiles, at most this many in a warp.
    const double relative = 2 * error + kUnit * (16 + 4 * (seen.empty() ? 0 : std::abs(max))) +
                            (half ? 0x1p-21 : 0x1p-17) +
                            kUnit * 2 * (2 + static_cast<double>(seen.size()) / 64);
    const double rounding = half ? 0x1p-11 : 0x1p-8;
    double worst = 0;
    for (int i = 0; i < shape.dim; ++i) {
      const double exact = seen.empty() ? 0 : out[i] / sum;
      const double allowed = relative * largest + rounding * 1.01 * std::abs(exact) + 0x1p-25;
      const double share = std::abs(actual[i] - exact) / allowed;
      EXPECT_LE(share, 1) << "sequence " << b << ", query " << query << ", head " << head
                          << ", element " << i << ": " << actual[i] << " for " << exact;
      if (!(share <= 1)) return share;
      worst = std::max(worst, share);
    }
    if (seen.empty() && !shape.sinks) {
      EXPECT_EQ(output.lse[row], -kInfinity);
      return worst;
    }
    const double lse = max + std::log(sum);
    EXPECT_LE(std::abs(output.lse[row] - lse), relative + 4 * kUnit * std::abs(lse))
        << output.lse[row] << " for " << lse;
    return worst;
  }
};

}  // namespace sparse_attention::cuda

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_KERNELS_CUDA_ATTENTION_ATTENTION_TESTING_H_
