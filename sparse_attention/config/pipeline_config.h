// A pipeline: which engine runs, and which maskers each layer and head uses.
//
//   {"type": "research", "seed": 42, "maskers": [{"type": "sink", "sink_size": 128}, ...]}
//   {"type": "research", "layers": [{"layers": "0-1", "dense": true}, {"layers": "2-", "maskers":
//   [...]}]}
//
// Exactly one of "maskers" and "layers". In "layers" the first rule that matches a layer and query
// head decides; where none matches attention is dense, as it is with an empty list of maskers.
// Entries of maskers stay JSON here: the masker registry reads them.
//
// Also read, and rewritten in this form: the Python hub's dumped configs (hub_config.h).
#ifndef SPARSE_ATTENTION_CONFIG_PIPELINE_CONFIG_H_
#define SPARSE_ATTENTION_CONFIG_PIPELINE_CONFIG_H_

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/index_ranges.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

enum class EngineType { kResearch, kEfficient };
// Who selects keys: every query head for itself, or the query heads that share a KV head together.
enum class Selection { kQueryHead, kKvGroup };
// With kKvGroup: how the scores of a group's query heads become one.
enum class GroupReduce { kMax, kMean, kSum };

template <>
struct EnumNames<EngineType> {
  static constexpr std::pair<EngineType, const char*> kTable[] = {
      {EngineType::kResearch, "research"}, {EngineType::kEfficient, "efficient"}};
};
template <>
struct EnumNames<Selection> {
  static constexpr std::pair<Selection, const char*> kTable[] = {
      {Selection::kQueryHead, "query_head"}, {Selection::kKvGroup, "kv_group"}};
};
template <>
struct EnumNames<GroupReduce> {
  static constexpr std::pair<GroupReduce, const char*> kTable[] = {
      {GroupReduce::kMax, "max"}, {GroupReduce::kMean, "mean"}, {GroupReduce::kSum, "sum"}};
};

// What the layers and query heads of one rule do. Without maskers: dense attention.
struct PipelineRule {
  IndexRanges layers;         // default: every layer
  IndexRanges heads;          // query heads; default: every head
  std::vector<Json> maskers;  // objects with a string "type"

  bool dense() const { return maskers.empty(); }
  bool matches_everything() const { return layers.IsAll() && heads.IsAll(); }
};

struct PipelineConfig {
  EngineType type = EngineType::kResearch;
  uint64_t seed = 42;
  Selection selection = Selection::kQueryHead;
  GroupReduce group_reduce = GroupReduce::kMax;
  bool batch_invariant = false;
  std::string name;                 // for reports, may be empty
  std::string description;          // for reports, may be empty
  std::vector<PipelineRule> rules;  // the first match decides; empty: dense

  // The rule for one layer and query head; null: dense.
  const PipelineRule* RuleFor(int64_t layer, int64_t head) const;
};

bool operator==(const PipelineConfig& a, const PipelineConfig& b);
inline bool operator!=(const PipelineConfig& a, const PipelineConfig& b) { return !(a == b); }

// InvalidArgument:
//   pipeline has no field "masker" (did you mean "maskers"? fields: type, seed, ...)
//   pipeline.maskers[2]: type is required
//   pipeline.layers[1].layers must be ranges such as "0-3,8-", got "x"
//   pipeline: needs exactly one of maskers and layers, has both
absl::StatusOr<PipelineConfig> PipelineFromJson(const Json& json);
// Messages begin with the path.
absl::StatusOr<PipelineConfig> PipelineFromFile(const std::string& path);
// One rule for everything is written as "maskers", otherwise "layers". Gives back an equal pipeline
// when read.
Json PipelineToJson(const PipelineConfig& config);

// The pipeline with "{model}/" at the beginning of a masker's text fields replaced by the folder of
// the model that it runs with: how presets name weights that lie beside a model's own.
PipelineConfig ResolveModelPaths(const PipelineConfig& config, absl::string_view model_folder);

// Where an entry stands, to begin messages with: "pipeline.maskers[2]",
// "pipeline.layers[1].maskers[0]".
std::string MaskerPath(const PipelineConfig& config, size_t rule, size_t masker);

// Calls visit(entry) for the entries of every rule in order and stops at the first error, which
// comes back with the entry's path before it: "pipeline.maskers[2]: oracle_top_k.heavy_size must be
// > 0, got 0".
absl::Status ForEachMasker(const PipelineConfig& config,
                           const std::function<absl::Status(const Json& entry)>& visit);

// JSON Schema 2020-12 of a whole pipeline. `masker_schemas` are ConfigSchema of every masker; an
// entry is the one that its "type" names.
Json PipelineSchema(const std::vector<Json>& masker_schemas);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_PIPELINE_CONFIG_H_
