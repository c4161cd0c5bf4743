// A GPU gives the masks of the CPU, with every masker.
#include <ATen/Context.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/base/tensor_near.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"
#include "sparse_attention/research_attention/research_attention.h"
#include "tests/conformance/masker_cases.h"

namespace sparse_attention {
namespace {

class CudaConformance : public ::testing::TestWithParam<MaskerCase> {
 protected:
  void SetUp() override {
    if (!at::globalContext().hasCUDA()) GTEST_SKIP() << "there is no CUDA device";
    if (GetParam().like_hub()) GTEST_SKIP() << "LibTorch's generators differ between devices";
  }
};

AttentionInputs ToCuda(AttentionInputs in) {
  in.q = in.q.to(at::kCUDA);
  in.k = in.k.to(at::kCUDA);
  in.v = in.v.to(at::kCUDA);
  return in;
}

TEST_P(CudaConformance, GivesTheMaskAndOutputOfTheCpu) {
  for (const char* selection : {"query_head", "kv_group"}) {
    const Json pipeline = {
        {"type", "research"},
        {"selection", selection},
        {"maskers", Json::array({{{"type", "sink"}, {"sink_size", 2}}, GetParam().config})}};
    SA_ASSERT_OK_AND_ASSIGN(const PipelineConfig config, PipelineFromJson(pipeline));
    SA_ASSERT_OK_AND_ASSIGN(const auto attention, ResearchAttention::Create(config));
    for (bool causal : {false, true}) {
      AttentionInputs in = LayeredInputs({.batch = 2, .heads = 8, .queries = 3, .keys = 300});
      in.causal = causal;
      AttentionSession host_session, device_session;
      SA_ASSERT_OK_AND_ASSIGN(const AttentionResult host, attention->Run(in, &host_session));
      SA_ASSERT_OK_AND_ASSIGN(const AttentionResult device,
                              attention->Run(ToCuda(in), &device_session));
      EXPECT_TRUE(device.state.out.is_cuda());
      // The same keys; probabilities that are computed may be rounded differently.
      EXPECT_TRUE(device.mask.ToActive().cpu().equal(host.mask.ToActive()));
      EXPECT_THAT(device.mask.ToDense().cpu(),
                  TensorNear(host.mask.ToDense(), {.relative_eps = 16}));
      EXPECT_THAT(device.state.out.cpu(),
                  TensorNear(host.state.out, {.relative_eps = 64, .absolute_eps = 64}));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllMaskers, CudaConformance, ::testing::ValuesIn(AllMaskerCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace sparse_attention
