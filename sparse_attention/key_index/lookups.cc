#include "sparse_attention/key_index/lookups.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace sparse_attention {
namespace {

// Keys of one block: their codes and a row's sums stay in the first-level cache.
constexpr int64_t kBlockKeys = 2048;

template <typename Code>
void AddOnHost(const at::Tensor& tables, const at::Tensor& codes, at::Tensor& sums) {
  const int64_t sets = codes.size(1), rows = tables.size(2), count = tables.size(3);
  const int64_t entries = tables.size(4), n = codes.size(3);
  const float* const table_data = tables.const_data_ptr<float>();
  const Code* const code_data = codes.const_data_ptr<Code>();
  float* const out = sums.data_ptr<float>();
  at::parallel_for(0, tables.size(0) * sets * rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t set = row / rows % sets, sequence = row / rows / sets;
      const Code* const row_codes = code_data + sequence * codes.stride(0) + set * codes.stride(1);
      const float* const row_tables = table_data + row * count * entries;
      for (int64_t first = 0; first < n; first += kBlockKeys) {
        const int64_t last = std::min(n, first + kBlockKeys);
        for (int64_t t = 0; t < count; ++t) {
          const float* const table = row_tables + t * entries;
          const Code* const code = row_codes + t * codes.stride(2);
          float* const sum = out + row * n;
          for (int64_t j = first; j < last; ++j) sum[j] += table[code[j]];
        }
      }
    }
  });
}

}  // namespace

void AddLookups(const at::Tensor& tables, const at::Tensor& codes, at::Tensor& sums) {
  if (sums.device().is_cpu() && codes.stride(3) == 1) {
    const at::Tensor dense_tables = tables.contiguous();
    AT_DISPATCH_INTEGRAL_TYPES(codes.scalar_type(), "AddLookups",
                               [&] { AddOnHost<scalar_t>(dense_tables, codes, sums); });
    return;
  }
  for (int64_t t = 0; t < codes.size(2); ++t) {
    const at::Tensor index = codes.select(2, t).to(at::kLong).unsqueeze(2).expand_as(sums);
    sums.add_(tables.select(3, t).gather(3, index));
  }
}

}  // namespace sparse_attention
