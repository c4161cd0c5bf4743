#include "sparse_attention/research_attention/maskers/sampling/row_sampler.h"

#include <limits>

#include "sparse_attention/base/status.h"

namespace sparse_attention {

std::vector<int64_t> SampleWithoutReplacement(PhiloxStream& stream, int64_t population,
                                              int64_t count) {
  SA_CHECK(0 <= count && count <= population);
  SA_CHECK(population <= std::numeric_limits<uint32_t>::max());
  const bool draw_rest = count > population / 2;
  int64_t missing = draw_rest ? population - count : count;
  std::vector<bool> drawn(population);
  while (missing > 0) {
    const uint32_t rank = stream.Below(static_cast<uint32_t>(population));
    if (drawn[rank]) continue;
    drawn[rank] = true;
    --missing;
  }
  std::vector<int64_t> ranks;
  ranks.reserve(count);
  for (int64_t rank = 0; rank < population; ++rank) {
    if (drawn[rank] != draw_rest) ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace sparse_attention
