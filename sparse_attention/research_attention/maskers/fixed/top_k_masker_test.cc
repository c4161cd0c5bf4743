#include "sparse_attention/research_attention/maskers/fixed/top_k_masker.h"

#include <ATen/ops/tensor.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

struct StubConfig : TopKConfig {
  static constexpr char kName[] = "stub_top_k";
  static auto Fields() { return TopKFields<StubConfig>(); }
};

// Scores every row with `scores`, or fails.
class Stub final : public TopKMasker {
 public:
  using Config = StubConfig;
  Stub(const StubConfig& config, const MaskerOptions& options)
      : TopKMasker(Descriptor(), options, config.heavy_size), config_(config) {}
  Json ToJson() const override { return ConfigToJson(config_); }
  static const MaskerDescriptor& Descriptor() {
    static const MaskerDescriptor descriptor =
        MakeDescriptor<Stub>({.summary = "A stub.", .scoring_reads = ScoringReads::kIndex});
    return descriptor;
  }

  static inline absl::StatusOr<at::Tensor> scores = at::Tensor();
  static inline int calls = 0;

 private:
  absl::StatusOr<at::Tensor> Scores(const AttentionInputs&, MaskerState*) const override {
    ++calls;
    return scores;
  }
  const StubConfig config_;
};

AttentionInputs FiveKeys() {
  return RandomInputs({.heads = 1, .kv_heads = 1, .queries = 1, .keys = 5});
}

absl::StatusOr<Mask> AddStub(const char* json) {
  const AttentionInputs in = FiveKeys();
  Stub::calls = 0;
  return MakeMasker<Stub>(json)->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
}

TEST(TopKMasker, AMethodSuppliesNothingButScores) {
  Stub::scores = at::tensor({3.f, 1.f, 2.f, 5.f, 4.f}).view({1, 1, 1, 5});
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask, AddStub(R"({"heavy_size": 2})"));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "...11");
  EXPECT_EQ(Stub::calls, 1);
}

TEST(TopKMasker, ScoresAreNotComputedWhereTheyDoNotMatter) {
  SA_ASSERT_OK_AND_ASSIGN(const Mask full, AddStub(R"({"heavy_size": 5})"));
  EXPECT_TRUE(full.is_full());
  EXPECT_EQ(Stub::calls, 0);
  SA_ASSERT_OK_AND_ASSIGN(const Mask none, AddStub(R"({"heavy_size": 0.1})"));
  EXPECT_TRUE(none.is_empty());
  EXPECT_EQ(Stub::calls, 0);
}

TEST(TopKMasker, AnErrorOfTheMethodNamesIt) {
  Stub::scores = absl::FailedPreconditionError("the index is gone");
  EXPECT_THAT(AddStub(R"({"heavy_size": 2})"),
              StatusIs(absl::StatusCode::kFailedPrecondition, "stub_top_k: the index is gone"));
}

TEST(TopKMasker, EveryTopKConfigChecksItsBudget) {
  EXPECT_THAT(CreateMasker<Stub>(ParsedJson(R"({"heavy_size": 0.0})"), {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("stub_top_k.heavy_size must be > 0, got 0.0")));
}

}  // namespace
}  // namespace sparse_attention
