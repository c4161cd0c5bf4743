#include "sparse_attention/research_attention/maskers/sampling/magic_pig_planes.h"

#include "sparse_attention/base/philox.h"
#include "sparse_attention/key_index/gaussian_planes.h"

namespace sparse_attention {

FloatArray DrawMagicPigPlanes(const MagicPigConfig& config, uint64_t pipeline_seed, int64_t layer,
                              int64_t dim) {
  // Both seeds change the draw, and neither undoes the other.
  const PhiloxCounter mixed = Philox4x32(
      {static_cast<uint32_t>(config.seed), static_cast<uint32_t>(config.seed >> 32), 0, 0},
      PhiloxKeyFromSeed(pipeline_seed));
  return GaussianPlanes(uint64_t{mixed[1]} << 32 | mixed[0], layer, config.lsh_l, config.lsh_k,
                        dim + 1);
}

}  // namespace sparse_attention
