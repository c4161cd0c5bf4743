// The config of MagicPig, without LibTorch.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_CONFIG_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_CONFIG_H_

#include <cstdint>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/research_attention/maskers/sampling/estimator.h"

namespace sparse_attention {

enum class HashPacking { kInt64, kFloat32 };

template <>
struct EnumNames<HashPacking> {
  static constexpr std::pair<HashPacking, const char*> kTable[] = {
      {HashPacking::kInt64, "int64"}, {HashPacking::kFloat32, "float32"}};
};

struct MagicPigConfig {
  static constexpr char kName[] = "magic_pig";
  int64_t lsh_l = 75;
  int64_t lsh_k = 10;
  bool center = true;
  HashPacking packing = HashPacking::kInt64;
  uint64_t seed = 42;
  Estimator estimator = Estimator::kUnbiased;
  static auto Fields() {
    return std::tuple(
        Field{"lsh_l", &MagicPigConfig::lsh_l, "Tables.", Positive().Says("must be positive"),
              Required()},
        Field{"lsh_k", &MagicPigConfig::lsh_k, "Planes of a table, 64 at most.",
              Positive().Says("must be positive"), Required()},
        Field{"center", &MagicPigConfig::center, "Subtract the mean of the keys first."},
        Field{"packing", &MagicPigConfig::packing,
              "How the Python hub keeps signatures; here they are always packed."},
        Field{"seed", &MagicPigConfig::seed, "Of the planes, together with the pipeline's seed."},
        Field{"estimator", &MagicPigConfig::estimator,
              "unbiased: among visible keys not yet kept, with a radius a head; hub: the Python "
              "hub's rule."},
        IgnoredField{"search_space"});
  }
  absl::Status Validate() const {
    constexpr int64_t kMostBits = 64;
    if (lsh_k > kMostBits) {
      return RuleError("lsh_k", absl::StrCat("must be <= ", kMostBits), absl::StrCat(lsh_k));
    }
    return absl::OkStatus();
  }
};

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_SAMPLING_MAGIC_PIG_CONFIG_H_
