// The research engine against outputs of the Python hub: research_attention.json says which, how
// they were made and how they are written.
#include <ATen/Context.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <cmath>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/masked_attention.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/key_index/layer_file_testing.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/research_attention/maskers/fixed/top_p_masker.h"
#include "sparse_attention/research_attention/maskers/sampling/sample_size.h"
#include "sparse_attention/research_attention/research_attention.h"
#include "tests/golden/golden_testing.h"

namespace sparse_attention {
namespace {

const Json& Golden() {
  static const Json* const golden = new Json(GoldenFile("tests/golden/research_attention.json"));
  return *golden;
}

// float64 [4, 2, 24] from texts such as "0 5 7:0.25", a text a row.
at::Tensor ParseMask(const Json& rows) {
  at::Tensor weights = at::zeros({8, 24}, at::kDouble);
  for (size_t row = 0; row < rows.size(); ++row) {
    const std::string text = rows[row].get<std::string>();
    for (absl::string_view entry : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
      const std::vector<absl::string_view> parts = absl::StrSplit(entry, ':');
      int64_t key = -1;
      double weight = 1;
      SA_CHECK(absl::SimpleAtoi(parts[0], &key));
      if (parts.size() == 2) {
        SA_CHECK(absl::SimpleAtod(parts[1], &weight));
      }
      weights[static_cast<int64_t>(row)][key].fill_(weight);
    }
  }
  return weights.view({4, 2, 24});
}

// The folder with channels.json and hash_attention.safetensors, written at the first call.
const std::string& FolderOfWeights() {
  static const std::string* const folder = [] {
    const std::string path = ::testing::TempDir();
    std::ofstream(path + "/channels.json") << DumpJson(Golden()["double_sparsity_channels"]);
    LayerTensors layers;
    for (const auto& [side, a] : {std::pair{"query", std::array{.31, .43, .17, .19}},
                                  std::pair{"key", std::array{.29, .41, .23, .27}}}) {
      const bool key = side[0] == 'k';
      const std::string prefix = absl::StrCat("layers.0.", side, ".");
      layers[prefix + "0.weight"] = Generate({4, 8, 6}, a[0], key ? .45 : .05, 1);
      layers[prefix + "1.weight"] = Generate({4, 6, 5}, a[1], key ? .55 : .15, 1);
      layers[prefix + "0.bias"] = Generate({4, 6}, a[2], key ? .65 : .25, .1);
      layers[prefix + "1.bias"] = Generate({4, 5}, a[3], key ? .75 : .35, .1);
    }
    WriteLayerFile(path + "/hash_attention.safetensors", layers,
                   {{"format", "sah.hash_attention.v1"}, {"activation", "silu"}});
    return new std::string(path);
  }();
  return *folder;
}

Json PipelineOf(const Json& golden_case) {
  Json pipeline = {{"type", "research"}, {"maskers", golden_case["maskers"]}};
  for (Json& masker : pipeline["maskers"]) {
    for (Json& value : masker) {
      if (!value.is_string()) continue;
      value = absl::StrReplaceAll(value.get<std::string>(), {{"{folder}", FolderOfWeights()}});
    }
  }
  return pipeline;
}

absl::StatusOr<AttentionResult> RunCase(const Json& golden_case, const Json& pipeline) {
  SA_ASSIGN_OR_RETURN(const PipelineConfig config, PipelineFromJson(pipeline));
  SA_ASSIGN_OR_RETURN(const auto attention, ResearchAttention::Create(config));
  AttentionInputs in = GoldenInputs(golden_case.contains("causal"));
  in.layer = golden_case.value("layer", 0);
  if (golden_case.contains("sinks")) in.sink_logits = Numbers(golden_case["sinks"]).to(at::kFloat);
  if (golden_case.contains("torch_seed")) {
    at::manual_seed(golden_case["torch_seed"].get<uint64_t>());
  }
  AttentionSession session;
  return attention->Run(in, &session);
}

// The scores of a method whose scores tie, float64 [4, 2, 24]: the hub's where it recorded them.
at::Tensor TiedScores(const Json& golden_case) {
  const Json& masker = golden_case["maskers"].back();
  if (masker["type"] == "hash_attention_top_k") {
    return Numbers(Golden()["hash_scores"]).view({4, 2, 24});
  }
  const int64_t offset = masker["init_offset"].get<int64_t>();
  PqOptions options;
  options.subvectors = masker["pq_group_factor"].get<int64_t>();
  options.bits = masker["pq_bits"].get<int64_t>();
  options.inner_product = masker["metric"] == "ip";
  options.like_hub = true;
  at::manual_seed(golden_case["torch_seed"].get<uint64_t>());
  const AttentionInputs in = GoldenInputs(false);
  const PqCodebook codebook(in.k.narrow(2, offset, in.keys() - offset), options);
  return at::constant_pad_nd(codebook.Scores(in.q)[0], {offset, 0}).to(at::kDouble);
}

// Of keys whose scores tie the hub keeps others: both choices score the same in every row.
void ExpectMaskOfEqualScores(const Mask& mask, const at::Tensor& expected,
                             const Json& golden_case) {
  const at::Tensor scores = TiedScores(golden_case);
  const at::Tensor ours = mask.ToDense()[0].to(at::kDouble);
  EXPECT_TRUE(ours.sum(-1).equal(expected.sum(-1)));
  ExpectNear(ours.mul(scores).sum(-1), expected.mul(scores).sum(-1).flatten());
}

void ExpectMask(const Mask& mask, const Json& golden_case) {
  const Json& expected = golden_case["mask"];
  if (expected.is_string()) {
    // The hub's empty flag means dense attention.
    EXPECT_TRUE(mask.is_full());
    EXPECT_EQ(mask.Density(), 1);
    if (expected == "full") {
      EXPECT_EQ(golden_case["density"], 1);
    }
    return;
  }
  const at::Tensor weights = ParseMask(expected);
  if (golden_case.contains("ties")) return ExpectMaskOfEqualScores(mask, weights, golden_case);
  EXPECT_TRUE(mask.ToActive().squeeze(0).equal(weights.gt(0)));
  ExpectNear(mask.ToDense(), weights);
  EXPECT_NEAR(mask.Density(), golden_case["density"].get<double>(), 1e-7);
}

TEST(GoldenInputsTest, AreThoseOfTheHub) {
  const AttentionInputs in = GoldenInputs(false);
  const Json& check = Golden()["inputs_check"];
  ExpectNear(in.q.flatten().narrow(0, 0, 8), Numbers(check["q_first8"]), 1e-6);
  ExpectNear(in.k.flatten().narrow(0, 0, 8), Numbers(check["k_first8"]), 1e-6);
  ExpectNear(in.v.flatten().narrow(0, 2 * 24 * 8 - 4, 4), Numbers(check["v_last4"]), 1e-6);
}

TEST(GoldenInputsTest, ExponentialScoresAreThoseOfTheHub) {
  const at::Tensor logits = ComputeLogits(GoldenInputs(false));
  const at::Tensor scores = logits.sub(logits.amax(-1, true)).exp();
  ExpectNear(scores[0][0][0], Numbers(Golden()["exp_scores_h0q0"]));
  ExpectNear(scores[0][3][1], Numbers(Golden()["exp_scores_h3q1"]));
}

TEST(GoldenTopPThresholds, AreThoseOfTheHub) {
  const Json& golden = Golden()["top_p_thresholds"];
  for (size_t row = 0; row < 2; ++row) {
    const at::Tensor scores = Numbers(golden["scores"][row]).to(at::kFloat);
    for (const auto& [share, thresholds] : golden["by_p"].items()) {
      const double top_p = std::stod(share);
      const at::Tensor threshold = TopPThresholds(scores, top_p, ThresholdRule::kGreater);
      EXPECT_NEAR(threshold.item<double>(), thresholds[row].get<double>(), 1e-7) << share;
    }
  }
}

// The hub's one-sided normal quantile at delta is our two-sided one at 2 delta.
TEST(GoldenQuantile, OfTheHubAtDeltaIsOursAtTwiceDelta) {
  int compared = 0;
  for (const auto& [text, quantile] : Golden()["delta_ppf"].items()) {
    const double delta = std::stod(text);
    if (delta >= 0.5) continue;
    ++compared;
    EXPECT_NEAR(std::sqrt(SquaredErrorQuantile(2 * delta, 1)), quantile.get<double>(), 1e-9);
  }
  EXPECT_EQ(compared, 5);
}

class GoldenCase : public ::testing::TestWithParam<Json> {};

TEST_P(GoldenCase, GivesTheMaskOfTheHub) {
  if (!GetParam().contains("mask")) GTEST_SKIP() << "the hub's mask was not recorded";
  SA_ASSERT_OK_AND_ASSIGN(const AttentionResult result,
                          RunCase(GetParam(), PipelineOf(GetParam())));
  ExpectMask(result.mask, GetParam());
}

TEST_P(GoldenCase, GivesTheOutputOfTheHub) {
  if (GetParam().contains("ties")) GTEST_SKIP() << "of equal scores the hub keeps other keys";
  SA_ASSERT_OK_AND_ASSIGN(const AttentionResult result,
                          RunCase(GetParam(), PipelineOf(GetParam())));
  const at::Tensor out = result.state.out.transpose(1, 2);  // [batch, queries, heads, dim]
  for (int64_t row = 0; row < 8; ++row) {
    SCOPED_TRACE(row);
    ExpectNear(out.reshape({8, 8})[row], Numbers(GetParam()["out"][row]));
  }
}

TEST_P(GoldenCase, GivesTheRowSumsAndTheErrorOfTheHub) {
  if (GetParam().contains("ties")) GTEST_SKIP() << "of equal scores the hub keeps other keys";
  SA_ASSERT_OK_AND_ASSIGN(const AttentionResult result,
                          RunCase(GetParam(), PipelineOf(GetParam())));
  AttentionInputs in = GoldenInputs(GetParam().contains("causal"));
  if (GetParam().contains("sinks")) in.sink_logits = Numbers(GetParam()["sinks"]).to(at::kFloat);
  SA_ASSERT_OK_AND_ASSIGN(const at::Tensor weights, MaskedAttentionWeights(in, result.mask));
  ExpectNear(weights.sum(-1), Numbers(GetParam()["w_row_sums"]));
  if (!GetParam().contains("rel_error")) return;
  SA_ASSERT_OK_AND_ASSIGN(const AttentionState dense, DenseAttention(in));
  const double error =
      result.state.out.sub(dense.out).norm().item<double>() / dense.out.norm().item<double>();
  EXPECT_NEAR(error, GetParam()["rel_error"].get<double>(), kTolerance);
}

// The two rules of top-p part only where a sum of masses equals top_p exactly, which no case does.
TEST_P(GoldenCase, TheOtherRuleOfTopPGivesTheSameMask) {
  Json pipeline = PipelineOf(GetParam());
  bool has_top_p = false;
  for (Json& masker : pipeline["maskers"]) {
    if (masker["type"] != "oracle_top_p") continue;
    has_top_p = true;
    masker["threshold_rule"] = "at_least";
  }
  if (!has_top_p) GTEST_SKIP() << "this pipeline has no top-p";
  SA_ASSERT_OK_AND_ASSIGN(const AttentionResult result, RunCase(GetParam(), pipeline));
  ExpectMask(result.mask, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Hub, GoldenCase,
                         ::testing::ValuesIn(Golden()["cases"].begin(), Golden()["cases"].end()),
                         [](const auto& info) {
                           std::string name = info.param["name"].template get<std::string>();
                           for (char& c : name) c = c == '.' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace sparse_attention
