#include "metric_logging/metric.h"

#include <algorithm>
#include <mutex>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sparse_attention {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<const Metric*> metrics = {
      &kResearchAttentionDensity,
      &kResearchAttentionOutputError,
      &kKvRowsFraction,
      &kIndexBytesFraction,
      &kSampleBudget,
      &kGuaranteeMetFraction,
      &kGuaranteeUnknownFraction,
      &kEmptyRows,
      &kNanRows,
  };
};

// Never destroyed: threads may still measure while the process exits.
Registry& GlobalRegistry() {
  static Registry& registry = *new Registry;
  return registry;
}

const Metric* Find(const std::vector<const Metric*>& metrics, absl::string_view name) {
  const auto it = std::find_if(metrics.begin(), metrics.end(),
                               [&](const Metric* metric) { return metric->name == name; });
  return it == metrics.end() ? nullptr : *it;
}

bool IsLowerSnakeCase(absl::string_view name) {
  return !name.empty() && absl::ascii_islower(name[0]) &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_';
         });
}

}  // namespace

std::vector<const Metric*> AllMetrics() {
  Registry& registry = GlobalRegistry();
  std::lock_guard lock(registry.mutex);
  return registry.metrics;
}

const Metric* FindMetric(absl::string_view name) {
  Registry& registry = GlobalRegistry();
  std::lock_guard lock(registry.mutex);
  return Find(registry.metrics, name);
}

absl::Status RegisterMetric(const Metric& metric) {
  if (!IsLowerSnakeCase(metric.name)) {
    return absl::InvalidArgumentError(absl::StrCat("metric name must be lower_snake_case, got \"",
                                                   absl::CEscape(metric.name), "\""));
  }
  Registry& registry = GlobalRegistry();
  std::lock_guard lock(registry.mutex);
  if (Find(registry.metrics, metric.name) != nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("metric \"", metric.name, "\" is already registered"));
  }
  registry.metrics.push_back(&metric);
  return absl::OkStatus();
}

}  // namespace sparse_attention
