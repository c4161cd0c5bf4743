#include "sparse_attention/research_attention/research_attention.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/torch_status.h"
#include "sparse_attention/mask/mask_ops.h"
#include "sparse_attention/research_attention/maskers/registry.h"

namespace sparse_attention {
namespace {

constexpr int kDenseRule = -1;
constexpr int kEveryRule = -2;

// Bytes that scoring reads over the bytes of K and V. Every oracle reads the same K rows once.
double IndexBytesFraction(const AttentionInputs& in,
                          const std::vector<std::unique_ptr<Masker>>& maskers) {
  const double keys = static_cast<double>(in.batch() * in.kv_heads() * in.keys()) *
                      static_cast<double>(in.k.element_size());
  double bytes = 0;
  bool all_keys = false;
  for (const auto& masker : maskers) {
    all_keys = all_keys || masker->descriptor().scoring_reads == ScoringReads::kAllKeys;
    bytes += static_cast<double>(masker->IndexBytes(in));
  }
  const double k_bytes = keys * static_cast<double>(in.dim());
  if (all_keys) bytes = std::max(bytes, k_bytes);
  return bytes / (k_bytes + keys * static_cast<double>(in.value_dim()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const ResearchAttention>> ResearchAttention::Create(
    const PipelineConfig& config) {
  if (config.type != EngineType::kResearch) {
    return absl::InvalidArgumentError(
        "pipeline.type must be \"research\" for the research engine, got \"efficient\"");
  }
  std::unique_ptr<ResearchAttention> attention(new ResearchAttention(config));
  const MaskerOptions options{config.seed, config.selection, config.group_reduce};
  for (size_t rule = 0; rule < config.rules.size(); ++rule) {
    Maskers maskers;
    const Masker* sampling = nullptr;
    for (size_t i = 0; i < config.rules[rule].maskers.size(); ++i) {
      const std::string path = MaskerPath(config, rule, i);
      absl::StatusOr<std::unique_ptr<Masker>> masker =
          MaskerFromJson(config.rules[rule].maskers[i], options);
      if (!masker.ok()) return Annotate(masker.status(), path);
      if ((*masker)->descriptor().kind == MaskerKind::kSampling) {
        if (sampling != nullptr) {
          return absl::InvalidArgumentError(
              absl::StrCat(path, ": only one sampling masker is supported in a pipeline, got ",
                           sampling->descriptor().name, " and ", (*masker)->descriptor().name));
        }
        sampling = masker->get();
      }
      maskers.push_back(*std::move(masker));
    }
    attention->maskers_of_rules_.push_back(std::move(maskers));
  }
  return attention;
}

std::vector<int> ResearchAttention::RulesOfHeads(int64_t layer, int64_t query_heads) const {
  std::vector<int> rules(query_heads, kDenseRule);
  for (int64_t head = 0; head < query_heads; ++head) {
    const PipelineRule* rule = config_.RuleFor(layer, head);
    if (rule != nullptr && !rule->dense()) rules[head] = static_cast<int>(rule - &config_.rules[0]);
  }
  return rules;
}

bool ResearchAttention::IsDense(int64_t layer, int64_t query_heads) const {
  const std::vector<int> rules = RulesOfHeads(layer, query_heads);
  return std::all_of(rules.begin(), rules.end(), [](int rule) { return rule == kDenseRule; });
}

bool ResearchAttention::IsOracle() const {
  for (const Maskers& maskers : maskers_of_rules_) {
    for (const auto& masker : maskers) {
      if (masker->descriptor().scoring_reads == ScoringReads::kAllKeys) return true;
    }
  }
  return false;
}

absl::StatusOr<Mask> ResearchAttention::RunRule(int rule, const AttentionInputs& inputs,
                                                AttentionSession* session) const {
  if (rule == kDenseRule) return Mask::MakeFull(inputs.mask_shape(), inputs.q.device());
  Mask mask = Mask::MakeEmpty(inputs.mask_shape(), inputs.q.device());
  const Maskers& maskers = maskers_of_rules_[rule];
  for (size_t i = 0; i < maskers.size(); ++i) {
    MaskerState* state =
        session->StateFor(inputs.layer, rule, static_cast<int64_t>(i), *maskers[i]);
    SA_ASSIGN_OR_RETURN(mask, maskers[i]->AddMask(inputs, mask, state));
  }
  return mask;
}

absl::Status ResearchAttention::Prepare(const AttentionInputs& inputs,
                                        AttentionSession* session) const {
  SA_RETURN_IF_ERROR(ValidateInputs(inputs));
  const std::vector<int> rules = RulesOfHeads(inputs.layer, inputs.query_heads());
  for (int rule : std::set<int>(rules.begin(), rules.end())) {
    if (rule == kDenseRule) continue;
    const Maskers& maskers = maskers_of_rules_[rule];
    for (size_t i = 0; i < maskers.size(); ++i) {
      MaskerState* state =
          session->StateFor(inputs.layer, rule, static_cast<int64_t>(i), *maskers[i]);
      SA_RETURN_IF_ERROR(maskers[i]->Prepare(inputs, state));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Mask> ResearchAttention::BuildMask(const AttentionInputs& inputs,
                                                  AttentionSession* session) const {
  SA_RETURN_IF_ERROR(ValidateInputs(inputs));
  const std::vector<int> rules = RulesOfHeads(inputs.layer, inputs.query_heads());
  const std::set<int> distinct(rules.begin(), rules.end());
  if (distinct.empty()) return Mask::MakeEmpty(inputs.mask_shape(), inputs.q.device());
  // A rule runs on all heads, so that groups stay whole; each head then takes its own rule's row.
  std::vector<Mask> masks;
  for (int rule : distinct) {
    SA_ASSIGN_OR_RETURN(Mask mask, RunRule(rule, inputs, session));
    masks.push_back(std::move(mask));
  }
  if (masks.size() == 1) return masks[0];
  std::vector<int> choice;
  for (int rule : rules) {
    choice.push_back(static_cast<int>(std::distance(distinct.begin(), distinct.find(rule))));
  }
  return SelectHeads(masks, choice);
}

absl::StatusOr<AttentionResult> ResearchAttention::Run(const AttentionInputs& inputs,
                                                       AttentionSession* session,
                                                       MetricSink* sink) const {
  AttentionInputs step = inputs;
  if (step.memo == nullptr) step.memo = std::make_shared<LogitsMemo>();
  SA_ASSIGN_OR_RETURN(Mask mask, BuildMask(step, session));
  SA_ASSIGN_OR_RETURN(AttentionState state, MaskedAttention(step, mask));
  AttentionResult result{std::move(state), std::move(mask)};
  if (sink != nullptr) SA_RETURN_IF_ERROR(LogStep(step, result, session, sink));
  return result;
}

absl::Status ResearchAttention::LogStep(const AttentionInputs& in, const AttentionResult& result,
                                        AttentionSession* session, MetricSink* sink) const {
  std::vector<MetricRecord> records;  // one group: readers see which rows a step had
  const auto record = [&](const Metric& metric, double value) {
    if (!sink->Wants(metric)) return;
    MetricRecord entry;
    entry.metric = &metric;
    entry.value = value;
    entry.layer = in.layer;
    records.push_back(entry);
  };
  const std::vector<int> rules = RulesOfHeads(in.layer, in.query_heads());
  // Values of [batch, heads, queries], those of the heads that follow `rule`.
  const auto record_rows = [&](const Metric& metric, const at::Tensor& rows, int rule) {
    if (!sink->Wants(metric)) return;
    const at::Tensor host = rows.to(at::kCPU, at::kDouble).contiguous();
    const double* values = host.const_data_ptr<double>();
    MetricRecord entry;
    entry.metric = &metric;
    entry.layer = in.layer;
    for (int64_t row = 0; row < host.numel(); ++row) {
      entry.value = values[row];
      entry.head = row / in.queries() % in.query_heads();
      if (rule != kEveryRule && rules[entry.head] != rule) continue;
      entry.query_position = in.query_position(row % in.queries());
      records.push_back(entry);
    }
  };
  return CatchTorch([&]() -> absl::Status {
    SA_ASSIGN_OR_RETURN(const MaskCost cost,
                        MeasureMask(result.mask, in.kv_heads(), VisibleKeys(in)));
    record(kResearchAttentionDensity, cost.density);
    record(kKvRowsFraction, cost.kv_rows_fraction);
    record(kEmptyRows, static_cast<double>(cost.empty_rows));
    record(kNanRows, result.state.out.isnan().any(-1).sum().item<double>());
    const std::set<int> distinct(rules.begin(), rules.end());
    double index_bytes = 0;
    for (int rule : distinct) {
      if (rule == kDenseRule) continue;
      const Maskers& maskers = maskers_of_rules_[rule];
      const double heads = static_cast<double>(std::count(rules.begin(), rules.end(), rule));
      index_bytes +=
          IndexBytesFraction(in, maskers) * heads / static_cast<double>(in.query_heads());
      for (size_t i = 0; i < maskers.size(); ++i) {
        const MaskerState* state =
            session->StateFor(in.layer, rule, static_cast<int64_t>(i), *maskers[i]);
        for (const RowMetric& metric : state->step_metrics) {
          record_rows(*metric.metric, metric.values, rule);
        }
      }
    }
    record(kIndexBytesFraction, index_bytes);
    if (sink->Wants(kResearchAttentionOutputError)) {
      SA_ASSIGN_OR_RETURN(const AttentionState dense, DenseAttention(in));
      SA_ASSIGN_OR_RETURN(const at::Tensor error, RelativeOutputError(result.state.out, dense.out));
      record_rows(kResearchAttentionOutputError, error, kEveryRule);
    }
    sink->RecordGroup(records);
    return absl::OkStatus();
  });
}

}  // namespace sparse_attention
