// `sah doctor`: the machine, what a model folder holds, and what would run where.
#include <ATen/Parallel.h>
#include <torch/version.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/huggingface/huggingface_adapter.h"
#include "sparse_attention/base/cuda_runtime.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "tools/sah/command_line.h"

namespace sparse_attention {
namespace {

// The value of the first line "<name> ... : <value>" of a file, empty without one.
std::string LineOf(const char* path, absl::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (absl::StripAsciiWhitespace(parts.first) == name) {
      return std::string(absl::StripAsciiWhitespace(parts.second));
    }
  }
  return "";
}

std::string InstructionSets() {
  const std::string flags = absl::StrCat(" ", LineOf("/proc/cpuinfo", "flags"), " ");
  std::vector<std::string> found;
  for (const char* name : {"avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni",
                           "avx512_vbmi", "amx_bf16"}) {
    if (flags.find(absl::StrCat(" ", name, " ")) != std::string::npos) found.push_back(name);
  }
  return found.empty() ? "none of those that matter" : absl::StrJoin(found, " ");
}

absl::Status DescribeModel(const std::string& folder) {
  SA_ASSIGN_OR_RETURN(const auto adapter, HuggingFaceAdapter::Load(UserPath(folder)));
  const ModelConfig& config = adapter->model().config();
  std::cout << absl::StrFormat(
      "model     %s: %d layers, %d query heads, %d KV heads, head dim %d, vocabulary %d, %d "
      "positions\n",
      folder, config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim,
      config.vocab_size, config.max_position_embeddings);
  const double kv_bytes = 2.0 * config.num_layers * config.num_kv_heads * config.head_dim *
                          static_cast<double>(adapter->model().type() == at::kFloat ? 4 : 2);
  std::cout << absl::StrFormat("KV cache  %.1f MiB for 32,768 tokens\n",
                               kv_bytes * 32768 / (1 << 20));
  return absl::OkStatus();
}

absl::Status Doctor(const std::string& model) {
  const absl::Status cuda = LoadCuda();
  const std::string processor = LineOf("/proc/cpuinfo", "model name");
  std::cout << "sah       " << kVersion << "\n";
  std::cout << absl::StrFormat("machine   %s, %d processors, %s\n",
                               processor.empty() ? "unknown" : processor,
                               sysconf(_SC_NPROCESSORS_ONLN), LineOf("/proc/meminfo", "MemTotal"));
  std::cout << "ISA       " << InstructionSets() << "\n";
  std::cout << "LibTorch  " << TORCH_VERSION << ", " << at::get_num_threads() << " threads, CUDA "
            << (cuda.ok() ? "available" : cuda.message()) << "\n";
  std::vector<std::string> names;
  for (const MaskerDescriptor* masker : AllMaskers()) names.emplace_back(masker->name);
  std::cout << "engines   research on cpu" << (cuda.ok() ? " and cuda" : "")
            << ", efficient on cpu (" << cpu::IsaName(cpu::BestIsa()) << ")\n";
  std::cout << "maskers   " << absl::StrJoin(names, " ") << "\n";
  std::cout << "presets   " << absl::StrJoin(PresetNames(), " ") << "\n";
  return model.empty() ? absl::OkStatus() : DescribeModel(model);
}

}  // namespace

void AddDoctor(CLI::App& app, absl::Status* status) {
  CLI::App* command = app.add_subcommand("doctor", "What this machine and a model offer");
  auto model = std::make_shared<std::string>();
  command->add_option("--model", *model, "Checkpoint folder to look at");
  command->callback([model, status] { *status = Doctor(*model); });
}

}  // namespace sparse_attention
