// The example of the README: sparse attention over a cache that a host model owns.
//
//   bazel run //examples/five_lines -- configs/oracle_top_k_2.json
#include <ATen/ATen.h>

#include <iostream>

#include "adapters/host_attention.h"
#include "sparse_attention/config/pipeline_config.h"

using namespace sparse_attention;  // NOLINT: short, for the README

absl::Status Run(const std::string& path, const at::Tensor& q, const at::Tensor& k,
                 const at::Tensor& v) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, PipelineFromFile(path));
  SA_ASSIGN_OR_RETURN(const auto attention, HostAttention::Create(config));
  AttentionSession session;  // one for each sequence
  const AttentionInputs inputs{.q = q, .k = k, .v = v, .causal = true, .layer = 0};
  SA_ASSIGN_OR_RETURN(const at::Tensor out, attention->Attend(inputs, &session));
  std::cout << "attended: " << out.sizes() << "\n";
  return absl::OkStatus();
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: five_lines PIPELINE.json\n";
    return 2;
  }
  // One new token, 8 query heads that share 2 KV heads, 4,096 cached tokens, head dim 64.
  const absl::Status status = Run(argv[1], at::randn({1, 8, 1, 64}), at::randn({1, 2, 4096, 64}),
                                  at::randn({1, 2, 4096, 64}));
  if (!status.ok()) std::cerr << status.message() << "\n";
  return status.ok() ? 0 : 1;
}
