// Generated problems through both engines. What the efficient engine selects is what the research
// engine selects, but for keys that rounding decides; what it computes over that selection is what
// the float64 reference does, within bounds of its roundings and by the numeric law.
//
// A failure prints the case's seed; SA_SEED=123 runs that case alone. At the end the program prints
// how many cases ran on each instruction set, and with each masker, and fails where none did.
#include "sparse_attention/efficient_attention/generated_cases.h"

#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/attention/numeric_law.h"
#include "sparse_attention/attention/random_attention.h"
#include "sparse_attention/attention/reference_attention.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/efficient_attention/engine_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"
#include "sparse_attention/efficient_attention/method_scores.h"
#include "sparse_attention/efficient_attention/method_testing.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "sparse_attention/research_attention/maskers/selection.h"

namespace sparse_attention {
namespace {

constexpr uint64_t kCases = 5000, kCasesATest = 100;

const char* OneSeed() { return std::getenv("SA_SEED"); }

// What the tests of this process ran.
struct Tally {
  std::map<std::string, int64_t> cases_of_masker;
  int64_t cases = 0, steps = 0, rounding_decided = 0;
};
Tally tally;

class PrintTally : public ::testing::Environment {
 public:
  void TearDown() override {
    const bool all = ::testing::GTEST_FLAG(filter) == "*" && OneSeed() == nullptr;
    for (const MaskerDescriptor* masker : AllMaskers()) {
      const int64_t count = tally.cases_of_masker[masker->name];
      std::printf("cases with %s: %lld\n", masker->name, static_cast<long long>(count));
      EXPECT_TRUE(count > 0 || !all) << "no case ran with " << masker->name;
    }
    std::printf("%lld cases, %lld steps, rounding decided %lld\n",
                static_cast<long long>(tally.cases), static_cast<long long>(tally.steps),
                static_cast<long long>(tally.rounding_decided));
    EXPECT_TRUE(!all || tally.rounding_decided <= tally.steps / 20) << "more than rounding can";
  }
};
const ::testing::Environment* const environment =
    ::testing::AddGlobalTestEnvironment(new PrintTally);

at::Tensor Finite(const at::Tensor& x) { return x.nan_to_num(0, 0, 0); }

double LargestNorm(const at::Tensor& x) {
  return x.numel() == 0 ? 0
                        : Finite(x.to(at::kDouble)).square().sum(-1).max().sqrt().item<double>();
}

// One case in both engines, step by step.
class CaseRun {
 public:
  explicit CaseRun(const GeneratedCase& problem) : problem_(problem) {}

  absl::Status Start(const Json& pipeline) {
    SA_ASSIGN_OR_RETURN(research_, ResearchFromJson(pipeline));
    const AttentionInputs prefix = problem_.Prefix();
    if (problem_.prepared) {
      SA_RETURN_IF_ERROR(research_->Prepare(prefix, &research_session_));
    }
    if (problem_.through_engine) {
      SA_ASSIGN_OR_RETURN(engine_, EfficientFromJson(pipeline));
      if (problem_.prepared) SA_RETURN_IF_ERROR(engine_->Prepare(prefix, &session_));
      return absl::OkStatus();
    }
    SA_ASSIGN_OR_RETURN(layer_,
                        LayerUnderTest::Create(pipeline, problem_.steps.back(), problem_.options));
    if (problem_.prepared) layer_->Append(prefix);
    return absl::OkStatus();
  }

  absl::StatusOr<EfficientResult> Efficient(const AttentionInputs& step) {
    if (engine_ != nullptr) return RunEfficient(*engine_, step, &session_);
    return layer_->Run(step);
  }

  absl::StatusOr<Mask> Research(const AttentionInputs& step) {
    return research_->BuildMask(WithPadding(step, problem_.options.padding), &research_session_);
  }

 private:
  const GeneratedCase& problem_;
  std::unique_ptr<const ResearchAttention> research_;
  std::unique_ptr<const EfficientAttention> engine_;
  std::unique_ptr<LayerUnderTest> layer_;
  AttentionSession research_session_, session_;
};

class GeneratedCases : public ::testing::TestWithParam<uint64_t> {
 protected:
  void RunCase(uint64_t seed);

  // The numeric law, over all cases of a type and instruction set.
  static void TearDownTestSuite() {
    if (OneSeed() != nullptr) return;  // too few numbers
    for (const auto& [name, law] : Laws()) {
      SCOPED_TRACE(name);
      EXPECT_THAT(at::cat(law.outs),
                  ObeysNumericLaw(at::cat(law.references), at::cat(law.baselines)));
    }
  }

 private:
  struct Law {
    std::vector<at::Tensor> outs, references, baselines;
  };
  static std::map<std::string, Law>& Laws() {
    static auto* const laws = new std::map<std::string, Law>;
    return *laws;
  }

  void ExpectSameSelection(size_t step, const Mask& chosen, const at::Tensor& wanted);
  void JudgeChain(const Json& pipeline, const at::Tensor& heads, size_t step, const Mask& chosen);
  void JudgeMasker(const Json& pipeline, const Json& masker, size_t step, const at::Tensor& before,
                   const at::Tensor& after, const at::Tensor& wanted);
  void ExpectProbabilities(const Json& masker, const Json& pipeline, size_t step,
                           const at::Tensor& weights);
  void ExpectReferenceOutput(const AttentionInputs& step, const EfficientResult& result);

  std::vector<AttentionInputs> History(size_t step) const {
    std::vector<AttentionInputs> steps;
    if (problem_.prepared) steps.push_back(problem_.Prefix());
    for (size_t s = 0; s <= step; ++s) {
      steps.push_back(WithPadding(problem_.steps[s], problem_.options.padding));
    }
    return steps;
  }

  GeneratedCase problem_;
};

bool Samples(const Json& masker) {
  return masker["type"] == "random_sampling" || masker["type"] == "adaptive_sampling" ||
         masker["type"] == "magic_pig";
}

// Of keys that are all the same the first ones are chosen.
void ExpectFirstOfEqualKeys(const Json& masker, const AttentionInputs& in, const at::Tensor& before,
                            const at::Tensor& selected) {
  const std::string type = masker["type"];
  if (type != "oracle_top_k" && type != "quest_top_k" && type != "double_sparsity_top_k" &&
      type != "lightning_indexer" && type != "hash_attention_top_k") {
    return;
  }
  const at::Tensor open = EligibleKeys(in, Mask::AdoptDense(before.clone()));
  const at::Tensor added = selected.logical_and(open);
  // How many open keys lie before a key.
  const at::Tensor place = open.to(at::kLong).cumsum(-1).sub(1);
  const at::Tensor wanted = place.lt(added.sum(-1, true)).logical_and(open);
  EXPECT_TRUE(added.equal(wanted)) << "of equal keys, not the first";
}

// Every page whose bound is clearly above that of the last page within the budget, and none that is
// clearly below it. `scores` [batch, query heads, queries, keys]: the bounds of the keys' pages.
void ExpectPagesOfHighestScores(const Json& masker, const AttentionInputs& in,
                                const at::Tensor& before, const at::Tensor& selected,
                                const at::Tensor& scores) {
  const int64_t page_size = masker["page_size"], pages = (in.keys() + page_size - 1) / page_size;
  const int64_t keys = HeavySize(masker).Resolve(in.keys());
  const int64_t kept = std::min(pages, std::max<int64_t>(3, keys / page_size));
  const at::Tensor seen = EligibleKeys(in, Mask::MakeEmpty(in.mask_shape()));
  const at::Tensor page_seen = at::constant_pad_nd(seen, {0, pages * page_size - in.keys()})
                                   .unflatten(-1, {pages, page_size})
                                   .any(-1);
  const at::Tensor of_pages =
      scores.slice(3, 0, std::nullopt, page_size)
          .masked_fill(page_seen.logical_not(), -std::numeric_limits<double>::infinity());
  const at::Tensor least = std::get<0>(of_pages.topk(kept)).amin(-1, true);
  const double rounding = 1e-5 * scores.abs().max().item<double>() + 1e-12;
  const at::Tensor open = EligibleKeys(in, Mask::AdoptDense(before.clone()));
  const at::Tensor missing = open.logical_and(selected.logical_not());
  EXPECT_FALSE(missing.logical_and(scores.gt(least.add(rounding))).any().item<bool>())
      << "a page that is clearly better was left out";
  const at::Tensor added = open.logical_and(selected);
  EXPECT_FALSE(added.logical_and(scores.lt(least.sub(rounding))).any().item<bool>())
      << "a page that is clearly worse was taken";
}

// Of a method that spends its budget also on keys that are held: what it adds may differ in number,
// but in keys alone whose score is as good as that of the last within the budget.
void ExpectTiesWithTheLast(const Json& masker, const AttentionInputs& in, const at::Tensor& differs,
                           const at::Tensor& scores) {
  const at::Tensor seen = EligibleKeys(in, Mask::MakeEmpty(in.mask_shape()));
  const int64_t kept = std::clamp<int64_t>(HeavySize(masker).Resolve(in.keys()), 1, in.keys());
  const at::Tensor last =
      std::get<0>(scores.masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity())
                      .topk(kept))
          .amin(-1, true);
  const double rounding = 1e-5 * scores.abs().max().item<double>() + 1e-12;
  EXPECT_FALSE(scores.sub(last).abs().gt(rounding).logical_and(differs).any().item<bool>())
      << "keys that are clearly better or worse than the last differ";
}

// The choice of one masker on top of what was held before it, in both engines. `before` holds keys
// that no query sees too, `after` and `wanted` do not.
void GeneratedCases::JudgeMasker(const Json& pipeline, const Json& masker, size_t step,
                                 const at::Tensor& before, const at::Tensor& after,
                                 const at::Tensor& wanted) {
  const std::string type = masker["type"];
  SCOPED_TRACE(absl::StrCat("masker ", masker.dump(), ", step ", step));
  const at::Tensor selected = after.gt(0), expected = wanted.gt(0);
  const std::vector<AttentionInputs> history = History(step);
  if (problem_.values == Values::kConstant)
    ExpectFirstOfEqualKeys(masker, history.back(), before, selected);
  if (selected.equal(expected)) {
    EXPECT_TRUE(type == "magic_pig" || at::allclose(after, wanted, 1e-5, 0)) << "weights";
    return;
  }
  ++tally.rounding_decided;
  const int64_t differing = selected.ne(expected).sum().item<int64_t>();
  if (type == "oracle_top_p") {
    const at::Tensor held = before.gt(0);
    const at::Tensor wrong = NotTopP(selected.logical_and(held.logical_not()), held, history.back(),
                                     pipeline, masker, 2e-5);
    EXPECT_FALSE(selected.ne(expected).any(-1).logical_and(wrong).any().item<bool>())
        << differing << " keys differ";
  } else if (type == "snap_kv") {
    const at::Tensor far = FarFromLastVote(pipeline, masker, history);
    EXPECT_FALSE(selected.ne(expected).logical_and(far).any().item<bool>())
        << differing << " keys differ, some of them clearly better or worse than the last";
  } else if (type == "adaptive_sampling") {
    // A budget may differ by a key, and draws come in one order.
    const at::Tensor off = selected.ne(expected).sum(-1);
    EXPECT_LE(off.max().item<int64_t>(), 1)
        << "other keys, or budgets further apart: " << selected.sum(-1).flatten() << " and "
        << expected.sum(-1).flatten();
  } else if (type == "sink" || type == "local" || type == "causal" || Samples(masker) ||
             type == "hash_attention_top_k") {
    ADD_FAILURE() << differing << " keys differ, where nothing is rounded";
  } else {
    const bool exact =
        problem_.values == Values::kWhole && pipeline["group_reduce"] != "mean" &&
        (type == "oracle_top_k" || (type == "quest_top_k" && masker["label_bits"] == 16));
    EXPECT_FALSE(exact) << differing << " keys differ, where scores are exact";
    const at::Tensor scores = Finite(MethodScores(pipeline, masker, history).to(at::kDouble));
    if (type == "socket_top_k") {
      ExpectTiesWithTheLast(masker, history.back(), selected.ne(expected), scores);
    } else if (type == "quest_top_k") {
      ExpectPagesOfHighestScores(masker, history.back(), before, selected, scores);
    } else {
      ExpectSameButForTies(selected, expected, scores);
    }
  }
}

// Masker by masker, each on what the efficient engine held before it. `heads` bool [query heads]:
// those that follow the chain.
void GeneratedCases::JudgeChain(const Json& pipeline, const at::Tensor& heads, size_t step,
                                const Mask& chosen) {
  std::vector<at::Tensor> before;  // by step
  for (const AttentionInputs& in : problem_.steps) {
    before.push_back(at::zeros({in.batch(), in.query_heads(), in.queries(), in.keys()}));
  }
  SA_ASSERT_OK_AND_ASSIGN(const PipelineConfig config, [&] {
    Json research = pipeline;
    research["type"] = "research";
    return PipelineFromJson(research);
  }());
  const MaskerOptions options{config.seed, config.selection, config.group_reduce};
  Json prefix = pipeline;
  prefix["maskers"] = Json::array();
  at::Tensor last = before[step];
  for (const Json& entry : pipeline["maskers"]) {
    prefix["maskers"].push_back(entry);
    CaseRun run(problem_);
    SA_ASSERT_OK(run.Start(prefix));
    SA_ASSERT_OK_AND_ASSIGN(const auto masker, MaskerFromJson(entry, options));
    const auto state = masker->NewState();
    if (problem_.prepared) {
      SA_ASSERT_OK(masker->Prepare(problem_.Prefix(), state.get()));
    }
    for (size_t s = 0; s <= step; ++s) {
      const AttentionInputs in = WithPadding(problem_.steps[s], problem_.options.padding);
      SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, run.Efficient(problem_.steps[s]));
      SA_ASSERT_OK_AND_ASSIGN(
          const Mask wanted, masker->AddMask(in, Mask::AdoptDense(before[s].clone()), state.get()));
      const at::Tensor after = result.mask.ToDense(), visible = VisibleWeights(in, wanted);
      if (s == step) {
        JudgeMasker(pipeline, entry, step, before[s], after, visible);
        if (HasFailure()) return;
        last = after;
      }
      // Whether a key is held that no query sees decides what causal does.
      before[s] = after.add(wanted.ToDense().sub(visible));
    }
  }
  const at::Tensor of_chain = heads.view({1, -1, 1, 1});
  EXPECT_TRUE(chosen.ToDense().mul(of_chain).equal(last.mul(of_chain)))
      << "the chain chose otherwise on its own";
}

void GeneratedCases::ExpectSameSelection(size_t step, const Mask& chosen,
                                         const at::Tensor& wanted) {
  const auto types = problem_.MaskerTypes();
  const bool pig = std::find(types.begin(), types.end(), "magic_pig") != types.end();
  const at::Tensor weights = chosen.ToDense();
  if (problem_.values != Values::kConstant && weights.gt(0).equal(wanted.gt(0)) &&
      (pig || at::allclose(weights, wanted, 1e-5, 0))) {
    return;
  }
  const AttentionInputs& in = problem_.steps[step];
  SA_ASSERT_OK_AND_ASSIGN(const PipelineConfig config, PipelineFromJson([&] {
                            Json pipeline = problem_.pipeline;
                            pipeline["type"] = "research";
                            return pipeline;
                          }()));
  for (const PipelineRule& rule : config.rules) {
    at::Tensor heads = at::zeros({in.query_heads()});
    for (int64_t head = 0; head < in.query_heads(); ++head) {
      if (config.RuleFor(in.layer, head) == &rule) heads[head].fill_(1);
    }
    if (rule.dense()) {
      const at::Tensor differs = chosen.ToActive().ne(wanted.gt(0)).any(-1).any(-1).any(0);
      EXPECT_EQ(differs.mul(heads).sum().item<double>(), 0) << "dense heads";
      continue;
    }
    Json pipeline = problem_.pipeline;
    pipeline.erase("layers");
    pipeline["maskers"] = rule.maskers;
    JudgeChain(pipeline, heads, step, chosen);
    if (HasFailure()) return;
  }
}

// MagicPIG's probabilities, within what the rounding of a cosine makes of them.
void GeneratedCases::ExpectProbabilities(const Json& masker, const Json& pipeline, size_t step,
                                         const at::Tensor& weights) {
  const std::vector<AttentionInputs> history = History(step);
  Spheres spheres(masker["center"]);
  const MipsTransform* sphere = nullptr;
  for (const AttentionInputs& in : history) {
    if (in.keys() > 0) sphere = &spheres.Follow(in.k);
  }
  const AttentionInputs& in = history.back();
  const bool by_group = pipeline["selection"] == "kv_group";
  const at::Tensor cosines = HashedCosines(in, *sphere, by_group);
  const double rounding = CosineRounding(in, by_group);
  const int64_t bits = masker["lsh_k"], tables = masker["lsh_l"];
  const at::Tensor least = CollisionProbability(cosines.sub(rounding), bits, tables);
  const at::Tensor most = CollisionProbability(cosines.add(rounding), bits, tables);
  const at::Tensor wrong = weights.lt(least.mul(1 - 0x1p-21))
                               .logical_or(weights.gt(most.mul(1 + 0x1p-21)))
                               .logical_and(weights.gt(0).logical_and(weights.lt(1)));
  EXPECT_EQ(wrong.sum().item<int64_t>(), 0) << "probabilities";
}

// Entry by entry within what float32 sums can lose, rounded to the type of the output.
void ExpectWithin(const at::Tensor& actual, const at::Tensor& expected, double absolute,
                  double relative, const char* what) {
  const at::Tensor x = actual.to(at::kDouble);
  EXPECT_TRUE(x.isnan().equal(expected.isnan())) << what << ": NaN in other places";
  EXPECT_TRUE(x.isinf().equal(expected.isinf()) &&
              x.sign().mul(x.isinf()).nan_to_num(0).equal(
                  expected.sign().mul(expected.isinf()).nan_to_num(0)))
      << what << ": infinities in other places";
  const at::Tensor finite = expected.isfinite();
  const at::Tensor error = Finite(x).sub(Finite(expected)).abs();
  const at::Tensor allowed = Finite(expected).abs().mul(relative).add(absolute);
  const at::Tensor wrong = error.gt(allowed).logical_and(finite);
  EXPECT_FALSE(wrong.any().item<bool>())
      << what << ": " << wrong.sum().item<int64_t>() << " of " << wrong.numel()
      << " entries off by up to " << error.masked_fill(wrong.logical_not(), 0).max().item<double>()
      << ", allowed " << absolute << " + " << relative << " of the value";
}

void GeneratedCases::ExpectReferenceOutput(const AttentionInputs& step,
                                           const EfficientResult& result) {
  SA_ASSERT_OK_AND_ASSIGN(const ReferenceState reference, ReferenceAttention(step, result.mask));
  constexpr double kEps = 0x1p-23;
  const double keys = static_cast<double>(step.keys());
  const double products =
      std::abs(step.effective_scale()) * LargestNorm(step.q) * LargestNorm(step.k);
  // Of a logit: its product, what softcap and the logarithm of a probability add, and the exponent.
  const double of_logit =
      kEps * (static_cast<double>(step.dim() + 16) * products + 16 * step.softcap.value_or(0) + 64);
  const double of_sum = std::expm1(2 * of_logit) + kEps * (keys + 8);
  const auto type = step.q.scalar_type();
  const double rounding = type == at::kFloat ? kEps : type == at::kHalf ? 0x1p-11 : 0x1p-8;
  const double least = type == at::kHalf ? 0x1p-25 : 1e-37;  // half floats lose small numbers
  const at::Tensor values = Finite(step.v.to(at::kDouble)).abs();
  const double largest = values.numel() == 0 ? 0 : values.max().item<double>();
  ExpectWithin(result.out, reference.out, of_sum * largest + least, rounding, "output");
  ExpectWithin(result.lse, reference.lse, of_logit + kEps * (keys + 8), 2 * kEps, "lse");
  if (!reference.out.isfinite().all().item<bool>() || problem_.values == Values::kBroken) return;
  AttentionInputs finite = step;  // the plain computation multiplies hidden values with 0
  finite.k = Finite(step.k);
  finite.v = Finite(step.v);
  Law& law = Laws()[absl::StrCat(toString(type), " on ", cpu::IsaName(problem_.options.isa))];
  law.outs.push_back(result.out.flatten());
  law.references.push_back(reference.out.flatten());
  law.baselines.push_back(PlainAttention(finite, result.mask).flatten());
}

void GeneratedCases::RunCase(uint64_t seed) {
  problem_ = GenerateCase(seed, ::testing::TempDir());
  SCOPED_TRACE(problem_.text);
  CaseRun run(problem_);
  SA_ASSERT_OK(run.Start(problem_.pipeline));
  for (size_t s = 0; s < problem_.steps.size(); ++s) {
    SCOPED_TRACE(absl::StrCat("step ", s));
    const AttentionInputs& step = problem_.steps[s];
    SA_ASSERT_OK_AND_ASSIGN(const Mask expected, run.Research(step));
    SA_ASSERT_OK_AND_ASSIGN(const EfficientResult result, run.Efficient(step));
    const AttentionInputs padded = WithPadding(step, problem_.options.padding);
    const at::Tensor wanted = VisibleWeights(padded, expected);
    ExpectSameSelection(s, result.mask, wanted);
    if (HasFailure()) return;
    const auto types = problem_.MaskerTypes();
    if (std::find(types.begin(), types.end(), "magic_pig") != types.end() &&
        problem_.pipeline.contains("maskers") && problem_.values != Values::kBroken) {
      ExpectProbabilities(problem_.pipeline["maskers"].back(), problem_.pipeline, s,
                          result.mask.ToDense());
    }
    ExpectReferenceOutput(step, result);
    if (HasFailure()) return;
    ++tally.steps;
  }
  ++tally.cases;
  cpu::CountCase(problem_.options.isa);
  for (const std::string& type : problem_.MaskerTypes()) ++tally.cases_of_masker[type];
}

TEST_P(GeneratedCases, AgreeWithTheResearchEngineAndWithFloat64) {
  if (const char* seed = OneSeed()) return RunCase(std::strtoull(seed, nullptr, 10));
  for (uint64_t i = 0; i < kCasesATest; ++i) {
    RunCase(GetParam() + i);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, GeneratedCases,
                         ::testing::Range<uint64_t>(0, OneSeed() == nullptr ? kCases : 1,
                                                    kCasesATest));

}  // namespace
}  // namespace sparse_attention
