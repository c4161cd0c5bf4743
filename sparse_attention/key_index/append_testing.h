// The promise of every index whose state does not rest on the keys that it was built from: after
// any sequence of appends, cuts and changes behind the unchanged keys it equals a fresh build.
#ifndef SPARSE_ATTENTION_KEY_INDEX_APPEND_TESTING_H_
#define SPARSE_ATTENTION_KEY_INDEX_APPEND_TESTING_H_

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "sparse_attention/base/random_tensors.h"

namespace sparse_attention {

// build(keys) gives an index, extend(index, keys, unchanged) brings it up to date, contents(index)
// gives the tensors that must be equal bit for bit.
template <typename Build, typename Extend, typename Contents>
void ExpectAppendsEqualAFreshBuild(const Build& build, const Extend& extend,
                                   const Contents& contents) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    RandomTensors random(seed);
    int64_t length = random.Integer(1, 60);
    at::Tensor keys = random.Normal({2, 2, 200, 8}, at::kBFloat16);
    auto index = build(keys.narrow(2, 0, length));
    for (int step = 0; step < 12; ++step) {
      const int64_t next = random.Chance(0.8)
                               ? std::min<int64_t>(200, length + random.Integer(0, 20))
                               : random.Integer(1, length);
      const int64_t unchanged =
          random.Chance(0.7) ? std::min(length, next) : random.Integer(0, std::min(length, next));
      keys = keys.clone();
      keys.narrow(2, unchanged, 200 - unchanged)
          .copy_(random.Normal({2, 2, 200 - unchanged, 8}, at::kBFloat16));
      length = next;
      const at::Tensor held = keys.narrow(2, 0, length);
      extend(index, held, unchanged);
      const std::vector<at::Tensor> appended = contents(index), fresh = contents(build(held));
      ASSERT_EQ(appended.size(), fresh.size());
      for (size_t i = 0; i < fresh.size(); ++i) {
        ASSERT_TRUE(appended[i].equal(fresh[i]))
            << "seed " << seed << ", step " << step << ", tensor " << i << ", " << length
            << " keys, " << unchanged << " unchanged";
      }
    }
  }
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_APPEND_TESTING_H_
