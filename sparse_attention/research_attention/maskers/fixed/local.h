// Local: keeps a window of the most recent keys, the query's own position included.
// Source: Beltagy et al., "Longformer", 2020; the rules at the edges are the Python hub's.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LOCAL_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LOCAL_H_

#include "sparse_attention/research_attention/maskers/fixed/local_config.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

class Local final : public Masker {
 public:
  using Config = LocalConfig;
  Local(const LocalConfig& config, const MaskerOptions& options);
  Json ToJson() const override { return ConfigToJson(config_); }

 private:
  // With window w, the query at position p keeps keys p - w + 1 to p. Keys after p are cleared even
  // if `previous` holds them, and a sequence of at most w + queries keys gets a full mask: the
  // Python hub does both.
  absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                              MaskerState* state) const override;
  const LocalConfig config_;
};

const MaskerDescriptor& LocalDescriptor();

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_FIXED_LOCAL_H_
