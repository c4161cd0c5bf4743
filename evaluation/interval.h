// The Wilson score interval of a proportion.
// Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
#ifndef EVALUATION_INTERVAL_H_
#define EVALUATION_INTERVAL_H_

#include <cstdint>

namespace sparse_attention {

struct Interval {
  double low = 0;
  double high = 1;
};

// 95 %. [0, 1] without trials. 0 <= successes <= trials.
Interval WilsonInterval(int64_t successes, int64_t trials);

}  // namespace sparse_attention

#endif  // EVALUATION_INTERVAL_H_
