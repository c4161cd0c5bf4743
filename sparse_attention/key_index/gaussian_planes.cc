#include "sparse_attention/key_index/gaussian_planes.h"

#include "sparse_attention/base/normal.h"
#include "sparse_attention/base/philox.h"

namespace sparse_attention {

FloatArray GaussianPlanes(uint64_t seed, int64_t layer, int64_t tables, int64_t bits, int64_t dim) {
  FloatArray planes = {{tables, bits, dim},
                       std::vector<float>(static_cast<size_t>(tables * bits * dim))};
  float* out = planes.values.data();
  for (int64_t table = 0; table < tables; ++table) {
    PhiloxStream stream(seed, RandomPurpose::kHashPlanes, static_cast<uint32_t>(layer),
                        static_cast<uint32_t>(table), 0);
    for (int64_t i = 0; i < bits * dim; i += 2) {
      const auto [x, y] = NormalPair(stream);
      *out++ = static_cast<float>(x);
      if (i + 1 < bits * dim) *out++ = static_cast<float>(y);
    }
  }
  return planes;
}

}  // namespace sparse_attention
