// Socket in the efficient engine: soft hash collisions times the norms of values, see
// research_attention/maskers/fixed/socket_top_k.h.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SOCKET_INDEX_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SOCKET_INDEX_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "sparse_attention/efficient_attention/cpu/top_k_selector.h"

namespace sparse_attention::cpu {

struct SocketOptions {
  int64_t bits = 4;  // planes of a table
  int64_t tables = 1;
  double tau = 0.3;
  // float32 [tables, bits, dim].
  std::function<std::vector<float>(int64_t dim)> planes;
};

class SocketSelector final : public TopKSelector {
 public:
  SocketSelector(const Budget& heavy_size, SocketOptions options)
      : TopKSelector({.heavy_size = heavy_size, .spends_beside_held = false}),
        options_(std::move(options)) {}
  absl::StatusOr<std::unique_ptr<KeyIndex>> NewIndex(const StepPlan& plan) const override;

 private:
  const SocketOptions options_;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_SOCKET_INDEX_H_
