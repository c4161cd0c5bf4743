#include "sparse_attention/research_attention/maskers/fixed/snap_kv.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

Mask AddSnapKv(const Masker& masker, const AttentionInputs& in, MaskerState* state) {
  const auto mask = masker.AddMask(in, Mask::MakeEmpty(in.mask_shape()), state);
  SA_CHECK_OK(mask);
  return *mask;
}

Mask AddSnapKv(absl::string_view json, const AttentionInputs& in) {
  return AddSnapKv(*MakeMasker<SnapKv>(json), in, nullptr);
}

TEST(SnapKv, TheLastQueriesChooseForAll) {
  const AttentionInputs in =
      InputsWithLogits({{9, 0, 0, 0, 0, 0}, {0, 0, 9, 0, 0, 0}, {0, 0, 9, 1, 0, 0}});
  // The window's own keys, 4 and 5, are kept beside the budget.
  const Mask mask = AddSnapKv(R"({"heavy_size": 1, "window_size": 2, "kernel_size": 1})", in);
  for (int64_t query = 0; query < 3; ++query) EXPECT_EQ(MaskRow(mask, 0, 0, query), "..1.11");
  const Mask last = AddSnapKv(R"({"heavy_size": 2, "window_size": 1, "kernel_size": 1})", in);
  EXPECT_EQ(MaskRow(last, 0, 0, 0), "..11.1");
}

TEST(SnapKv, TheBudgetIsSpentBesideTheWindow) {
  const AttentionInputs in = InputsWithLogits({{1, 0, 0, 0, 9}});
  const Mask mask = AddSnapKv(R"({"heavy_size": 1, "window_size": 1, "kernel_size": 1})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1...1");
}

TEST(SnapKv, AQueryThatSeesNothingHasNoVote) {
  AttentionInputs in = InputsWithLogits({{9, 0, 0, 0, 0, 0}, {0, 0, 9, 0, 0, 0}});
  in.bias = at::zeros({1, 1, 2, 6});
  in.bias->select(2, 0).fill_(-INFINITY);
  const Mask mask = AddSnapKv(R"({"heavy_size": 1, "window_size": 2, "kernel_size": 1})", in);
  EXPECT_EQ(MaskRow(mask, 0, 0, 1), "..1.11");
}

TEST(SnapKv, NeighboursSupportOneAnother) {
  const AttentionInputs in = InputsWithLogits({{2, 0, 0, 0, 1.7f, 1.7f, 1.7f, 0}});
  EXPECT_EQ(
      MaskRow(AddSnapKv(R"({"heavy_size": 1, "window_size": 1, "kernel_size": 1})", in), 0, 0, 0),
      "1......1");
  EXPECT_EQ(
      MaskRow(AddSnapKv(R"({"heavy_size": 1, "window_size": 1, "kernel_size": 3})", in), 0, 0, 0),
      ".....1.1");
}

TEST(SnapKv, TheChoiceIsKeptAndLaterKeysAreAdded) {
  const auto masker =
      MakeMasker<SnapKv>(R"({"heavy_size": 2, "window_size": 2, "kernel_size": 1})");
  const auto state = masker->NewState();
  const AttentionInputs prompt = RandomInputs({.queries = 3, .keys = 20});
  const at::Tensor chosen = AddSnapKv(*masker, prompt, state.get()).ToDense().narrow(2, 2, 1);
  for (int64_t step = 1; step < 4; ++step) {
    const AttentionInputs more = RandomInputs({.queries = 1, .keys = step}, 7);
    AttentionInputs in = prompt;
    in.q = more.q;
    in.k = at::cat({prompt.k, more.k}, 2);
    in.v = at::cat({prompt.v, more.v}, 2);
    const at::Tensor mask = AddSnapKv(*masker, in, state.get()).ToDense();
    EXPECT_TRUE(mask.narrow(3, 0, 20).equal(chosen));
    EXPECT_TRUE(mask.narrow(3, 20, step).eq(1).all().item<bool>());
  }
}

TEST(SnapKv, AnotherQuestionChoosesAnew) {
  const auto masker =
      MakeMasker<SnapKv>(R"({"heavy_size": 2, "window_size": 2, "kernel_size": 1})");
  const auto state = masker->NewState();
  const AttentionInputs one = RandomInputs({.queries = 3, .keys = 20}, 1);
  const AttentionInputs two = RandomInputs({.queries = 3, .keys = 20}, 2);
  AddSnapKv(*masker, one, state.get());
  const at::Tensor expected = AddSnapKv(*masker, two, nullptr).ToDense();
  EXPECT_TRUE(AddSnapKv(*masker, two, state.get()).ToDense().equal(expected));
  // A single query after a rewind is the end of a prompt, too; also one without a key of its own.
  AttentionInputs single = two;
  single.q = two.q.narrow(2, 0, 1);
  const at::Tensor of_single = AddSnapKv(*masker, single, nullptr).ToDense();
  for (const bool rewind : {true, false}) {
    AddSnapKv(*masker, one, state.get());
    if (rewind) state->Rewind();
    EXPECT_TRUE(AddSnapKv(*masker, single, state.get()).ToDense().equal(of_single)) << rewind;
  }
}

TEST(SnapKv, APromptChoosesThoughAllOfItIsHeld) {
  const auto masker =
      MakeMasker<SnapKv>(R"({"heavy_size": 2, "window_size": 2, "kernel_size": 1})");
  const auto state = masker->NewState(), of_full = masker->NewState();
  const AttentionInputs prompt = RandomInputs({.queries = 3, .keys = 20});
  AddSnapKv(*masker, prompt, state.get());
  SA_ASSERT_OK_AND_ASSIGN(
      const Mask full, masker->AddMask(prompt, Mask::MakeFull(prompt.mask_shape()), of_full.get()));
  EXPECT_TRUE(full.is_full());
  const AttentionInputs more = RandomInputs({.queries = 1, .keys = 1}, 7);
  AttentionInputs in = prompt;
  in.q = more.q;
  in.k = at::cat({prompt.k, more.k}, 2);
  in.v = at::cat({prompt.v, more.v}, 2);
  EXPECT_TRUE(AddSnapKv(*masker, in, of_full.get())
                  .ToDense()
                  .equal(AddSnapKv(*masker, in, state.get()).ToDense()));
}

TEST(SnapKv, ConfigErrorsNameFieldRuleAndValue) {
  const auto create = [](const char* json) {
    return SnapKvDescriptor().create(ParsedJson(json), MaskerOptions());
  };
  EXPECT_THAT(create(R"({"heavy_size": 1, "window_size": 0})"),
              StatusIs(kInvalid, "snap_kv.window_size must be > 0, got 0"));
  EXPECT_THAT(create(R"({"heavy_size": 1, "kernel_size": 4})"),
              StatusIs(kInvalid, "snap_kv: kernel_size must be odd, got 4"));
}

}  // namespace
}  // namespace sparse_attention
