#include "sparse_attention/key_index/key_ledger.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace sparse_attention {
namespace {

constexpr int64_t kConstants = 1024;  // 32-bit words after which the constants repeat

constexpr uint64_t SplitMix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

constexpr std::array<uint32_t, kConstants> MakeConstants() {
  std::array<uint32_t, kConstants> constants = {};
  for (size_t i = 0; i < constants.size(); ++i) {
    constants[i] = static_cast<uint32_t>(SplitMix(i) >> 32);
  }
  return constants;
}
constexpr std::array<uint32_t, kConstants> kNh = MakeConstants();

// Tells the rows of different sequences and heads apart: odd, so that nothing is lost.
constexpr uint64_t RowFactor(int64_t row) { return SplitMix(static_cast<uint64_t>(row) + 77) | 1; }

uint64_t NhOfBytes(const char* bytes, int64_t count) {
  uint64_t sum = 0;
  int64_t word = 0;
  for (; count >= 8; count -= 8, bytes += 8, word = (word + 2) % kConstants) {
    uint32_t pair[2];
    std::memcpy(pair, bytes, 8);
    sum += uint64_t{pair[0] + kNh[word]} * uint64_t{pair[1] + kNh[word + 1]};
  }
  if (count > 0) {
    uint32_t pair[2] = {0, 0};
    std::memcpy(pair, bytes, count);
    sum += uint64_t{pair[0] + kNh[word]} * uint64_t{pair[1] + kNh[word + 1]};
  }
  return sum;
}

std::vector<uint64_t> OnHost(const at::Tensor& x) {
  const int64_t n = x.size(2), bytes = x.size(3) * static_cast<int64_t>(x.element_size());
  const int64_t row_bytes = x.stride(2) * static_cast<int64_t>(x.element_size());
  std::vector<uint64_t> rows(n, 0);
  at::parallel_for(0, n, /*grain_size=*/512, [&](int64_t begin, int64_t end) {
    for (int64_t b = 0; b < x.size(0); ++b) {
      for (int64_t h = 0; h < x.size(1); ++h) {
        const char* const data =
            static_cast<const char*>(x.const_data_ptr()) +
            (b * x.stride(0) + h * x.stride(1)) * static_cast<int64_t>(x.element_size());
        const uint64_t factor = RowFactor(b * x.size(1) + h);
        for (int64_t j = begin; j < end; ++j) {
          rows[j] += factor * NhOfBytes(data + j * row_bytes, bytes);
        }
      }
    }
  });
  return rows;
}

// int64 with the value of a 64-bit word; arithmetic wraps alike.
at::Tensor Words(const std::vector<int64_t>& words, at::Device device) {
  return at::tensor(at::ArrayRef<int64_t>(words), at::kLong).to(device);
}

std::vector<uint64_t> OnDevice(const at::Tensor& x) {
  constexpr int64_t kPiece = 4096;  // positions; their words take eight times the keys' memory
  const int64_t bytes = x.size(3) * static_cast<int64_t>(x.element_size());
  const int64_t pairs = (bytes + 7) / 8;
  std::vector<int64_t> constants, factors;
  for (int64_t word = 0; word < 2 * pairs; ++word) constants.push_back(kNh[word % kConstants]);
  for (int64_t row = 0; row < x.size(0) * x.size(1); ++row) {
    factors.push_back(static_cast<int64_t>(RowFactor(row)));
  }
  const at::Tensor nh = Words(constants, x.device()).view({pairs, 2});
  const at::Tensor factor = Words(factors, x.device()).view({x.size(0), x.size(1), 1});
  std::vector<uint64_t> rows(x.size(2));
  for (int64_t begin = 0; begin < x.size(2); begin += kPiece) {
    const int64_t length = std::min(kPiece, x.size(2) - begin);
    at::Tensor piece = x.narrow(2, begin, length).contiguous().view(at::kByte);
    if (bytes % 8 != 0) piece = at::constant_pad_nd(piece, {0, 8 - bytes % 8});
    const at::Tensor words = piece.view(at::kInt)
                                 .to(at::kLong)
                                 .view({x.size(0), x.size(1), length, pairs, 2})
                                 .add(nh)
                                 .bitwise_and(0xFFFFFFFF);
    const at::Tensor sums = words.select(4, 0).mul(words.select(4, 1)).sum(3);
    const at::Tensor host = sums.mul(factor).sum(at::IntArrayRef({0, 1})).to(at::kCPU);
    std::memcpy(rows.data() + begin, host.const_data_ptr<int64_t>(), sizeof(uint64_t) * length);
  }
  return rows;
}

}  // namespace

std::vector<uint64_t> RowFingerprints(const at::Tensor& x) {
  if (x.size(0) * x.size(1) * x.size(3) == 0) return std::vector<uint64_t>(x.size(2), 0);
  if (!x.device().is_cpu()) return OnDevice(x);
  return OnHost(x.stride(3) == 1 ? x : x.contiguous());
}

int64_t KeyLedger::Update(const at::Tensor& x) {
  const at::Tensor shape_and_type =
      x.narrow(2, 0, 0).new_empty({x.size(0), x.size(1), 0, x.size(3)});
  const bool same_kind =
      shape_and_type_.defined() && shape_and_type_.sizes() == shape_and_type.sizes() &&
      shape_and_type_.scalar_type() == x.scalar_type() && shape_and_type_.device() == x.device();
  std::vector<uint64_t> rows = RowFingerprints(x);
  int64_t agree = 0;
  if (same_kind) {
    const auto shorter = std::min(rows.size(), rows_.size());
    agree = std::mismatch(rows.begin(), rows.begin() + static_cast<int64_t>(shorter), rows_.begin())
                .first -
            rows.begin();
  }
  rows_ = std::move(rows);
  shape_and_type_ = shape_and_type;
  return agree;
}

}  // namespace sparse_attention
