// A host model of its own with sparse attention: a small decoder with random weights that knows
// nothing of this library but HostAttention.
//
//   bazel run //examples/embed_host -- examples/embed_host/pipeline.json
//
// It reads a prompt densely, then continues it twice from the same key-value cache, once densely
// and once through the pipeline, and prints what each layer read and how far its output was from
// dense attention.
#include <ATen/ATen.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "adapters/host_attention.h"
#include "metric_logging/memory_sink.h"
#include "sparse_attention/config/pipeline_config.h"

namespace {

using sparse_attention::AttentionFunction;
using sparse_attention::AttentionInputs;
using sparse_attention::AttentionSession;
using sparse_attention::HostAttention;
using sparse_attention::MemorySink;
using sparse_attention::PipelineConfig;
using sparse_attention::PipelineFromFile;

constexpr int64_t kVocab = 100, kHidden = 64, kLayers = 4;
constexpr int64_t kHeads = 8, kKvHeads = 2, kDim = 16, kCapacity = 2048;

// The host's own cache: preallocated, and cut back by its length.
struct Cache {
  at::Tensor k = at::zeros({kLayers, 1, kKvHeads, kCapacity, kDim});
  at::Tensor v = at::zeros({kLayers, 1, kKvHeads, kCapacity, kDim});
  int64_t length = 0;
};

class TinyModel {
 public:
  TinyModel() {
    at::manual_seed(0);
    const auto matrix = [](int64_t in, int64_t out) {
      return at::randn({in, out}) / std::sqrt(in);
    };
    embedding_ = at::randn({kVocab, kHidden});
    head_ = at::randn({kHidden, kVocab});
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      // Keys are the queries' own projections, so that like looks at like.
      const at::Tensor shared = matrix(kHidden, kKvHeads * kDim) * 3;
      wq_.push_back(shared.repeat({1, kHeads / kKvHeads}));
      wk_.push_back(shared);
      wv_.push_back(matrix(kHidden, kKvHeads * kDim));
      wo_.push_back(matrix(kHeads * kDim, kHidden));
    }
  }

  // Appends `tokens` to the cache; the logits of the last one.
  absl::StatusOr<at::Tensor> Forward(const std::vector<int64_t>& tokens, Cache* cache,
                                     const AttentionFunction& attention) const {
    const int64_t count = static_cast<int64_t>(tokens.size());
    const int64_t total = cache->length + count;
    at::Tensor x = embedding_.index_select(0, at::tensor(tokens));
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const at::Tensor normed = at::layer_norm(x, {kHidden});
      const auto heads = [&](const at::Tensor& w) {  // [1, heads, tokens, dim]
        return normed.matmul(w).view({1, count, -1, kDim}).transpose(1, 2);
      };
      cache->k[layer].slice(2, cache->length, total).copy_(heads(wk_[layer]));
      cache->v[layer].slice(2, cache->length, total).copy_(heads(wv_[layer]));

      AttentionInputs inputs;
      inputs.q = heads(wq_[layer]);
      inputs.k = cache->k[layer].slice(2, 0, total);
      inputs.v = cache->v[layer].slice(2, 0, total);
      inputs.causal = true;
      inputs.layer = layer;
      inputs.first_query_position = cache->length;
      SA_ASSIGN_OR_RETURN(const at::Tensor out, attention(inputs));

      x = x + out.transpose(1, 2).reshape({count, kHeads * kDim}).matmul(wo_[layer]);
    }
    cache->length = total;
    return x[count - 1].matmul(head_);
  }

 private:
  at::Tensor embedding_, head_;
  std::vector<at::Tensor> wq_, wk_, wv_, wo_;
};

// Greedy tokens after `last`; the cache is left as it was found.
absl::StatusOr<std::vector<int64_t>> Continue(const TinyModel& model, int64_t last, int steps,
                                              Cache* cache, const AttentionFunction& attention) {
  const int64_t before = cache->length;
  std::vector<int64_t> tokens = {last};
  for (int step = 0; step < steps; ++step) {
    SA_ASSIGN_OR_RETURN(const at::Tensor logits, model.Forward({tokens.back()}, cache, attention));
    tokens.push_back(logits.argmax().item<int64_t>());
  }
  cache->length = before;
  return tokens;
}

void Print(const char* name, const std::vector<int64_t>& tokens) {
  std::printf("%-7s", name);
  for (size_t i = 1; i < tokens.size(); ++i)
    std::printf(" %3lld", static_cast<long long>(tokens[i]));
  std::printf("\n");
}

absl::Status Run(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig pipeline, PipelineFromFile(path));
  SA_ASSIGN_OR_RETURN(const auto dense, HostAttention::Create());
  SA_ASSIGN_OR_RETURN(const auto sparse, HostAttention::Create(pipeline));

  const TinyModel model;
  Cache cache;
  std::vector<int64_t> prompt;
  for (int64_t i = 0; i < 1000; ++i) prompt.push_back((i * i + 7 * i) % kVocab);
  AttentionSession dense_session;
  SA_RETURN_IF_ERROR(model.Forward(prompt, &cache, dense->Bind(&dense_session)).status());

  constexpr int kSteps = 12;
  SA_ASSIGN_OR_RETURN(const std::vector<int64_t> expected,
                      Continue(model, 5, kSteps, &cache, dense->Bind(&dense_session)));
  MemorySink sink;
  AttentionSession session;  // one for each sequence
  SA_ASSIGN_OR_RETURN(const std::vector<int64_t> tokens,
                      Continue(model, 5, kSteps, &cache, sparse->Bind(&session, &sink)));

  std::printf("%zu tokens read, then %d decoded twice:\n", prompt.size(), kSteps);
  Print("dense", expected);
  Print("sparse", tokens);
  SA_ASSIGN_OR_RETURN(const auto density,
                      sink.MeanPerLayer(sparse_attention::kResearchAttentionDensity));
  SA_ASSIGN_OR_RETURN(const auto rows, sink.MeanPerLayer(sparse_attention::kKvRowsFraction));
  SA_ASSIGN_OR_RETURN(const auto error,
                      sink.MeanPerLayer(sparse_attention::kResearchAttentionOutputError));
  std::printf("\nlayer  keys attended  KV rows read  output error\n");
  for (const auto& [layer, value] : density) {
    std::printf("%5lld  %12.1f%%  %11.1f%%  %12.4f\n", static_cast<long long>(layer), 100 * value,
                100 * rows.at(layer), error.at(layer));
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: embed_host PIPELINE.json\n");
    return 2;
  }
  const absl::Status status = Run(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
