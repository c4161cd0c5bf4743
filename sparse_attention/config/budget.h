// Budget: how many keys, as a count or as a fraction of the keys there are.
//
// In JSON an integer is a count and a float is a fraction: `1` is one key, `1.0` is every key,
// `2.5` two and a half times as many keys as there are. The kind decides, never the magnitude, and
// it survives a round trip. The rule is the Python hub's.
#ifndef SPARSE_ATTENTION_CONFIG_BUDGET_H_
#define SPARSE_ATTENTION_CONFIG_BUDGET_H_

#include <cstdint>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

class Budget {
 public:
  static Budget Count(int64_t count) { return Budget(/*is_fraction=*/false, count, 0.0); }
  static Budget Fraction(double fraction) { return Budget(/*is_fraction=*/true, 0, fraction); }

  // Zero keys.
  Budget() = default;

  bool is_fraction() const { return is_fraction_; }
  // Only for a count.
  int64_t count() const {
    SA_CHECK(!is_fraction_);
    return count_;
  }
  // Only for a fraction.
  double fraction() const {
    SA_CHECK(is_fraction_);
    return fraction_;
  }

  // The number of keys out of `total`: a count as it is, a fraction as the IEEE double product
  // truncated towards zero (0.29 of 100 is 28). Not clamped to [0, total]; a product beyond int64
  // gives the nearest int64, NaN gives 0.
  int64_t Resolve(int64_t total) const;

  // The JSON text: "128", "0.02", "1.0".
  std::string ToString() const;
  Json ToJson() const;
  // Error without a path: "must be an integer (count) or a float (fraction), got \"many\"".
  static absl::StatusOr<Budget> FromJson(const Json& json);

  friend bool operator==(const Budget& a, const Budget& b) {
    return a.is_fraction_ == b.is_fraction_ && a.count_ == b.count_ && a.fraction_ == b.fraction_;
  }
  friend bool operator!=(const Budget& a, const Budget& b) { return !(a == b); }
  friend std::ostream& operator<<(std::ostream& out, const Budget& budget) {
    return out << budget.ToString();
  }

 private:
  Budget(bool is_fraction, int64_t count, double fraction)
      : is_fraction_(is_fraction), count_(count), fraction_(fraction) {}

  bool is_fraction_ = false;
  int64_t count_ = 0;
  double fraction_ = 0.0;
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_BUDGET_H_
