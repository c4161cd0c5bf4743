// The memory that one step takes beside its inputs, alone in its program so that nothing else
// counts. K and V are never repeated for the query heads of a group and never converted whole.
#include <ATen/ops/ones.h>

#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/research_attention/research_attention.h"

namespace sparse_attention {
namespace {

// A line of /proc/self/status such as "VmHWM:   123 kB", in bytes.
int64_t StatusBytes(const std::string& name) {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind(name + ":", 0) == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return -1;
}

// Makes VmHWM, the peak of the resident memory, start again at what is resident now.
bool ResetPeak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5";
  file.flush();
  return file.good();
}

AttentionInputs LlamaInputs(int64_t keys) {
  AttentionInputs in;
  in.q = at::ones({1, 32, 1, 128}, at::kBFloat16).normal_();
  // The same 1024 keys again and again: random numbers take longer than the step.
  in.k = at::ones({1, 8, 1024, 128}, at::kBFloat16).normal_().repeat({1, 1, keys / 1024, 1});
  in.v = at::ones({1, 8, 1024, 128}, at::kBFloat16).normal_().repeat({1, 1, keys / 1024, 1});
  return in;
}

TEST(ResearchAttentionMemory, AStepAt131072KeysStaysUnder150Megabytes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "a sanitizer's own memory would be measured";
#endif
  constexpr int64_t kKeys = 131072;
  SA_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(R"({"type": "research", "maskers": [
      {"type": "sink", "sink_size": 128}, {"type": "local", "window_size": 128},
      {"type": "oracle_top_k", "heavy_size": 0.02}]})"));
  SA_ASSERT_OK_AND_ASSIGN(const PipelineConfig config, PipelineFromJson(json));
  SA_ASSERT_OK_AND_ASSIGN(const auto attention, ResearchAttention::Create(config));
  AttentionSession session;
  // The first use of LibTorch reads its code and starts its threads: not what a step takes.
  SA_ASSERT_OK(attention->Run(LlamaInputs(1024), &session));
  const AttentionInputs in = LlamaInputs(kKeys);

  if (!ResetPeak()) GTEST_SKIP() << "/proc/self/clear_refs cannot be written here";
  const int64_t before = StatusBytes("VmHWM");
  ASSERT_GT(before, 2 * in.k.numel() * 2);  // K and V are resident
  SA_ASSERT_OK_AND_ASSIGN(const AttentionResult result, attention->Run(in, &session));
  const int64_t extra = StatusBytes("VmHWM") - before;

  EXPECT_NEAR(result.mask.Density(), 0.02 + 256. / kKeys, 1e-4);
  std::printf("peak extra memory: %.1f MB\n", static_cast<double>(extra) / 1e6);
  EXPECT_LT(extra, 150'000'000);
  EXPECT_GT(extra, 32 * kKeys * 4);  // the logits alone: the measurement measures
}

}  // namespace
}  // namespace sparse_attention
