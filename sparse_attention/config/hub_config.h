// Reads the configs that the Python hub dumps and rewrites them as our pipelines.
//
// Accepted: {"type": "ResearchAttentionConfig", "masker_configs": [...]}, where an entry is
// {"type": CLASS, "params": {...}}, or {"type" or "name": CLASS, ...fields}, or only the fields
// (the class then follows from them); {"type": "HashAttentionConfig" or "DoubleSparsityConfig",
// "params": {...}}, or the fields beside "type", which become configs of methods (method_config.h);
// a result file that holds such an object under "sparse_attention_config" or "sparse_config"; null
// for dense attention. Class names become our types, null parameters (absent values in Python) and
// search spaces are dropped, and entries of FixedMaskerConfig (the causal masker, which passes
// every mask through) disappear. Field names are the same. Samplers get our defaults: the hub's own
// sampling rule is "estimator": "hub", which a caller adds.
#ifndef SPARSE_ATTENTION_CONFIG_HUB_CONFIG_H_
#define SPARSE_ATTENTION_CONFIG_HUB_CONFIG_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

// Whether `json` looks like a Python hub's dump rather than one of our pipelines.
bool IsHubConfig(const Json& json);

// {"type": "research", "maskers": [{"type": "sink", "sink_size": 128}, ...]}. InvalidArgument:
//   masker_configs[1]: unknown class "SinkMasker" (did you mean "SinkMaskerConfig"?)
absl::StatusOr<Json> PipelineJsonFromHubConfig(const Json& json);

// "SinkMaskerConfig" -> "sink"; "" for FixedMaskerConfig; nothing for an unknown class.
std::optional<std::string> MaskerTypeOfHubClass(absl::string_view class_name);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_HUB_CONFIG_H_
