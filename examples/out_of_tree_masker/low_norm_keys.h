// LowNormKeys: keeps the shortest keys. In trained models keys of small norm draw the most
// attention, so that the norm alone, known before any query, says which to keep.
//
// A masker of a project that uses this library: its own namespace, public headers only, and no line
// in the library's lists.
//
// Source: Devoto et al., "A simple and effective L2 norm-based strategy for KV cache compression",
// 2024.
#ifndef EXAMPLES_OUT_OF_TREE_MASKER_LOW_NORM_KEYS_H_
#define EXAMPLES_OUT_OF_TREE_MASKER_LOW_NORM_KEYS_H_

#include <cstdint>
#include <memory>
#include <tuple>

#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

namespace my_project {

namespace sa = sparse_attention;

struct LowNormKeysConfig : sa::TopKConfig {
  static constexpr char kName[] = "my_low_norm_keys";
  bool longest = false;
  static auto Fields() {
    return std::tuple_cat(
        sa::TopKFields<LowNormKeysConfig>(),
        std::tuple(sa::Field{"longest", &LowNormKeysConfig::longest,
                             "Keeps the longest keys instead, as a control experiment."}));
  }
};

class LowNormKeys final : public sa::TopKMasker {
 public:
  using Config = LowNormKeysConfig;
  LowNormKeys(const Config& config, const sa::MaskerOptions& options);
  sa::Json ToJson() const override { return ConfigToJson(config_); }
  std::unique_ptr<sa::MaskerState> NewState() const override;
  int64_t IndexBytes(const sa::AttentionInputs& inputs) const override;

 private:
  absl::StatusOr<at::Tensor> Scores(const sa::AttentionInputs& inputs,
                                    sa::MaskerState* state) const override;
  const Config config_;
};

const sa::MaskerDescriptor& LowNormKeysDescriptor();

}  // namespace my_project

#endif  // EXAMPLES_OUT_OF_TREE_MASKER_LOW_NORM_KEYS_H_
