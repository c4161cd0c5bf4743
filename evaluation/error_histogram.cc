#include "evaluation/error_histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sparse_attention {
namespace {

constexpr double kGrowth = 1.01;
constexpr double kSmallest = 1e-9;  // everything below counts as 0
constexpr int kZeroBin = 0;
constexpr int kInfiniteBin = 1 << 20;

int BinOf(double error) {
  if (!(error < std::numeric_limits<double>::infinity())) return kInfiniteBin;
  if (error < kSmallest) return kZeroBin;
  return 1 + static_cast<int>(std::log(error / kSmallest) / std::log(kGrowth));
}

// The middle of a bin, on the logarithmic scale.
double ValueOf(int bin) {
  if (bin == kZeroBin) return 0;
  if (bin == kInfiniteBin) return std::numeric_limits<double>::infinity();
  return kSmallest * std::pow(kGrowth, bin - 0.5);
}

}  // namespace

void ErrorHistogram::Add(double error, int64_t times) {
  const int bin = BinOf(error);
  bins_[bin] += times;
  count_ += times;
  sum_ += static_cast<double>(times) *
          (bin == kInfiniteBin ? std::numeric_limits<double>::infinity() : error);
}

void ErrorHistogram::Merge(const ErrorHistogram& other) {
  for (const auto& [bin, times] : other.bins_) bins_[bin] += times;
  count_ += other.count_;
  sum_ += other.sum_;
}

double ErrorHistogram::Mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

double ErrorHistogram::Percentile(double percent) const {
  const double rank = std::ceil(percent / 100 * static_cast<double>(count_));
  int64_t seen = 0;
  for (const auto& [bin, times] : bins_) {
    seen += times;
    if (static_cast<double>(seen) >= std::max(1.0, rank)) return ValueOf(bin);
  }
  return 0;
}

Json ErrorHistogram::ToJson() const {
  Json bins = Json::object();
  for (const auto& [bin, times] : bins_) bins[absl::StrCat(bin)] = times;
  // JSON has no infinity; an infinite sum follows from the infinite bin.
  return {{"sum", std::isfinite(sum_) ? Json(sum_) : Json(0.0)}, {"bins", std::move(bins)}};
}

absl::StatusOr<ErrorHistogram> ErrorHistogram::FromJson(const Json& json) {
  const auto invalid = [&json] {
    return absl::InvalidArgumentError(
        absl::StrCat("an error histogram must hold \"sum\" and \"bins\", got ", JsonExcerpt(json)));
  };
  if (!json.is_object() || !json.contains("sum") || !json.contains("bins") ||
      !json["sum"].is_number() || !json["bins"].is_object()) {
    return invalid();
  }
  ErrorHistogram histogram;
  histogram.sum_ = json["sum"].get<double>();
  for (const auto& [name, times] : json["bins"].items()) {
    int bin = 0;
    if (!absl::SimpleAtoi(name, &bin) || bin < 0 || bin > kInfiniteBin ||
        !times.is_number_integer() || times.get<int64_t>() < 1) {
      return invalid();
    }
    histogram.bins_[bin] += times.get<int64_t>();
    histogram.count_ += times.get<int64_t>();
    if (bin == kInfiniteBin) histogram.sum_ = std::numeric_limits<double>::infinity();
  }
  return histogram;
}

}  // namespace sparse_attention
