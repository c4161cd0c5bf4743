// A program with a masker of its own: registers it, decodes with it from JSON, and compares it with
// maskers of the library at the same density.
//
//   bazel run //examples/out_of_tree_masker:main
#include <ATen/ATen.h>

#include <cstdio>
#include <string>

#include "adapters/host_attention.h"
#include "examples/out_of_tree_masker/low_norm_keys.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/research_attention/maskers/registry.h"

namespace my_project {
namespace {

constexpr int64_t kTokens = 1000, kSteps = 16;

// Keys and queries as trained models have them: keys point away from the mean of the queries, and
// the longer they are the less attention they get.
struct Sequence {
  at::Tensor mean = at::randn({64});
  at::Tensor q = mean + 0.5 * at::randn({1, 8, kSteps, 64});
  at::Tensor k = 0.3 * at::randn({1, 2, kTokens, 64}) - at::rand({1, 2, kTokens, 1}) * mean;
  at::Tensor v = 1 + at::randn({1, 2, kTokens, 64});
};

// Decodes the last kSteps tokens, one at a time.
absl::Status Run(const Sequence& sequence, const std::string& masker) {
  SA_ASSIGN_OR_RETURN(const sa::Json entry, sa::ParseJson(masker));
  const sa::Json json = {{"type", "research"}, {"maskers", sa::Json::array({entry})}};
  SA_ASSIGN_OR_RETURN(const sa::PipelineConfig pipeline, sa::PipelineFromJson(json));
  SA_ASSIGN_OR_RETURN(const auto attention, sa::HostAttention::Create(pipeline));
  sa::AttentionSession session;  // owns the masker's state
  sa::MemorySink sink;
  for (int64_t step = 0; step < kSteps; ++step) {
    const int64_t keys = kTokens - kSteps + step + 1;
    const sa::AttentionInputs inputs{.q = sequence.q.slice(2, step, step + 1),
                                     .k = sequence.k.slice(2, 0, keys),
                                     .v = sequence.v.slice(2, 0, keys),
                                     .causal = true};
    SA_RETURN_IF_ERROR(attention->Attend(inputs, &session, &sink).status());
  }
  SA_ASSIGN_OR_RETURN(const double density, sink.Mean(sa::kResearchAttentionDensity));
  SA_ASSIGN_OR_RETURN(const double index, sink.Mean(sa::kIndexBytesFraction));
  SA_ASSIGN_OR_RETURN(const double error, sink.Mean(sa::kResearchAttentionOutputError));
  std::printf("density %.3f, index read %.3f, output error %.3f: %s\n", density, index, error,
              masker.c_str());
  return absl::OkStatus();
}

absl::Status Compare() {
  SA_RETURN_IF_ERROR(sa::RegisterMasker(LowNormKeysDescriptor()));
  at::manual_seed(0);
  const Sequence sequence;
  for (const char* masker : {R"({"type": "oracle_top_k", "heavy_size": 0.05})",
                             R"({"type": "my_low_norm_keys", "heavy_size": 0.05})",
                             R"({"type": "local", "window_size": 0.05})"}) {
    SA_RETURN_IF_ERROR(Run(sequence, masker));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace my_project

int main() {
  const absl::Status status = my_project::Compare();
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
