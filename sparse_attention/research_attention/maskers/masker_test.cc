#include "sparse_attention/research_attention/maskers/masker.h"

#include <ATen/ops/zeros.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

struct ProbeConfig {
  static constexpr char kName[] = "probe";
  int64_t size = 3;
  bool throws = false;
  static auto Fields() {
    return std::tuple(Field{"size", &ProbeConfig::size, "A size.", Positive()},
                      Field{"throws", &ProbeConfig::throws, "Whether LibTorch is misused."});
  }
};

// Counts what reaches Select.
class Probe final : public Masker {
 public:
  using Config = ProbeConfig;
  Probe(const ProbeConfig& config, const MaskerOptions& options)
      : Masker(Descriptor(), options), config_(config) {}
  Json ToJson() const override { return ConfigToJson(config_); }
  static const MaskerDescriptor& Descriptor() {
    static const MaskerDescriptor descriptor =
        MakeDescriptor<Probe>({.kind = MaskerKind::kSampling,
                               .summary = "A probe.",
                               .source = "this test",
                               .scoring_reads = ScoringReads::kAllKeys,
                               .only_adds = false});
    return descriptor;
  }
  mutable int selects = 0;

 private:
  absl::StatusOr<Mask> Select(const AttentionInputs&, const Mask& previous,
                              MaskerState* state) const override {
    ++selects;
    if (config_.throws) at::zeros({2, 3}).view({5});
    if (state != nullptr) state->step_metrics.push_back({&kSampleBudget, at::zeros({1})});
    return previous;
  }
  const ProbeConfig config_;
};

TEST(Masker, ChecksInputsBeforeTheMethodSeesThem) {
  const Probe probe({}, {});
  AttentionInputs in = RandomInputs({});
  const Mask previous = Mask::MakeEmpty(in.mask_shape());
  AttentionInputs wrong = in;
  wrong.k = in.k.narrow(1, 0, 1).expand({1, 3, 24, 8});
  EXPECT_THAT(probe.AddMask(wrong, previous, nullptr).status(), StatusIs(kInvalid));
  wrong = in;
  wrong.softcap = 0;
  EXPECT_THAT(probe.AddMask(wrong, previous, nullptr), StatusIs(kInvalid, HasSubstr("softcap")));
  EXPECT_THAT(probe.AddMask(AttentionInputs(), previous, nullptr),
              StatusIs(kInvalid, HasSubstr("q ")));
  EXPECT_EQ(probe.selects, 0);
  SA_EXPECT_OK(probe.AddMask(in, previous, nullptr));
  EXPECT_EQ(probe.selects, 1);
}

TEST(Masker, RefusesAPreviousMaskOfAnotherShape) {
  const Probe probe({}, {});
  const AttentionInputs in = RandomInputs({});
  EXPECT_THAT(probe.AddMask(in, Mask::MakeEmpty({1, 4, 2, 25}), nullptr),
              StatusIs(kInvalid,
                       "probe: the previous mask must have shape [1, 4, 2, 24] on cpu, got "
                       "Mask([1, 4, 2, 25], empty) on cpu"));
  EXPECT_EQ(probe.selects, 0);
}

TEST(Masker, AFullMaskAndNoElementsDoNotReachTheMethod) {
  const Probe probe({}, {});
  const AttentionInputs in = RandomInputs({});
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          probe.AddMask(in, Mask::MakeFull(in.mask_shape()), nullptr));
  EXPECT_TRUE(mask.is_full());
  const AttentionInputs nothing = RandomInputs({.keys = 0});
  SA_EXPECT_OK(probe.AddMask(nothing, Mask::MakeEmpty(nothing.mask_shape()), nullptr));
  EXPECT_EQ(probe.selects, 0);
}

TEST(Masker, LibTorchsExceptionsBecomeAStatusThatNamesTheMethod) {
  const Probe probe({.throws = true}, {});
  const AttentionInputs in = RandomInputs({});
  const auto mask = probe.AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr);
  ASSERT_FALSE(mask.ok());
  EXPECT_THAT(std::string(mask.status().message()), ::testing::StartsWith("probe: "));
}

TEST(Masker, MetricsAreOfTheLatestStepAlone) {
  const Probe probe({}, {});
  const AttentionInputs in = RandomInputs({});
  const std::unique_ptr<MaskerState> state = probe.NewState();
  for (int step = 0; step < 2; ++step) {
    SA_ASSERT_OK(probe.AddMask(in, Mask::MakeEmpty(in.mask_shape()), state.get()));
    EXPECT_EQ(state->step_metrics.size(), 1u);
  }
  SA_ASSERT_OK(probe.AddMask(in, Mask::MakeFull(in.mask_shape()), state.get()));
  EXPECT_TRUE(state->step_metrics.empty());
}

TEST(Masker, DescribesItself) {
  const MaskerDescriptor& descriptor = Probe::Descriptor();
  EXPECT_STREQ(descriptor.name, "probe");
  EXPECT_EQ(descriptor.kind, MaskerKind::kSampling);
  EXPECT_EQ(descriptor.scoring_reads, ScoringReads::kAllKeys);
  EXPECT_FALSE(descriptor.only_adds);
  ASSERT_EQ(descriptor.fields().size(), 2u);
  EXPECT_EQ(descriptor.fields()[0].name, "size");
  EXPECT_EQ(descriptor.schema()["title"], "probe");
  SA_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Masker> masker,
                          descriptor.create(ParsedJson(R"({"size": 5})"), {.seed = 9}));
  EXPECT_EQ(&masker->descriptor(), &descriptor);
  EXPECT_EQ(masker->options().seed, 9u);
  EXPECT_EQ(DumpJson(masker->ToJson()), R"({"type":"probe","size":5,"throws":false})");
  EXPECT_EQ(masker->IndexBytes(RandomInputs({})), 0);
  EXPECT_THAT(descriptor.create(ParsedJson(R"({"size": 0})"), {}),
              StatusIs(kInvalid, "probe.size must be > 0, got 0"));
}

}  // namespace
}  // namespace sparse_attention
