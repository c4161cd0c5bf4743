// Runs a checkpoint on token ids, for the comparison with transformers and for measurements.
//
//   decoder_dump FOLDER IDS.bin OUT.bin [key=value ...]
// IDS.bin holds int32 token ids. OUT.bin gets the float32 logits of every prompt token [tokens,
// vocab] (unless logits=0), then `greedy` int32 tokens. Prints times and peak memory.
//   dtype=auto device=cpu greedy=0 logits=1 pass=0 context=(all but one) pipeline=FILE
// The first `context` tokens are prefilled, the others read as a question before `greedy` starts.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "adapters/huggingface/decoder_model.h"
#include "adapters/huggingface/prefilled_context.h"
#include "sparse_attention/config/pipeline_config.h"

namespace sparse_attention {
namespace {

void Append(std::ofstream& out, const void* data, size_t bytes) {
  out.write(static_cast<const char*>(data), static_cast<std::streamsize>(bytes));
}

// Of this program; getrusage also counts what the parent held before exec.
int64_t PeakRssKib() {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    int64_t kib = 0;
    absl::string_view rest = line;
    if (absl::ConsumePrefix(&rest, "VmHWM:") && absl::ConsumeSuffix(&rest, "kB") &&
        absl::SimpleAtoi(rest, &kib)) {
      return kib;
    }
  }
  return -1;
}

absl::Status Run(const std::string& folder, const std::string& ids_path,
                 const std::string& out_path, std::map<std::string, std::string> options) {
  std::ifstream in(ids_path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const auto* begin = reinterpret_cast<const int32_t*>(bytes.data());
  const std::vector<int32_t> ids(begin, begin + bytes.size() / sizeof(int32_t));
  if (ids.empty()) return absl::InvalidArgumentError(ids_path + ": no token ids");
  const auto number = [&](const std::string& name, int64_t value) {
    if (options.count(name) == 0) return value;
    SA_CHECK(absl::SimpleAtoi(options[name], &value));
    return value;
  };
  const int64_t greedy = number("greedy", 0);

  PipelineConfig pipeline;
  if (options.count("pipeline") > 0) {
    SA_ASSIGN_OR_RETURN(pipeline, PipelineFromFile(options["pipeline"]));
  }
  SA_ASSIGN_OR_RETURN(const auto attention, HostAttention::Create(pipeline));
  DecoderOptions decoder;
  if (options.count("dtype") > 0) decoder.dtype = options["dtype"];
  if (options.count("device") > 0) decoder.device = options["device"];
  SA_ASSIGN_OR_RETURN(const auto model, DecoderModel::Load(folder, decoder));

  std::ofstream out(out_path, std::ios::binary);
  if (number("logits", 1) != 0) {
    SA_ASSIGN_OR_RETURN(KvCache cache, model->NewCache(static_cast<int64_t>(ids.size())));
    AttentionSession session;
    ForwardOptions forward;
    forward.logits = static_cast<int64_t>(ids.size());
    forward.tokens_per_pass = number("pass", 0);
    SA_ASSIGN_OR_RETURN(at::Tensor logits,
                        model->Forward(ids, &cache, attention->Bind(&session), forward));
    logits = logits.to(at::kCPU).contiguous();
    Append(out, logits.const_data_ptr<float>(), logits.numel() * sizeof(float));
  }
  if (greedy > 0) {
    const int64_t count = static_cast<int64_t>(ids.size());
    const int64_t context_tokens = number("context", count - 1);
    PrefillOptions prefill;
    prefill.room = greedy + count - context_tokens;
    if (number("pass", 0) > 0) prefill.tokens_per_pass = number("pass", 0);
    const absl::Span<const int32_t> all(ids);
    SA_ASSIGN_OR_RETURN(const auto context,
                        PrefilledContext::Create(model.get(), all.first(context_tokens), prefill));
    AnswerOptions answer;
    answer.max_new_tokens = greedy;
    SA_ASSIGN_OR_RETURN(const Generation result,
                        context->Answer(all.subspan(context_tokens), *attention, answer));
    Append(out, result.tokens.data(), result.tokens.size() * sizeof(int32_t));
    std::printf(
        "prefill_seconds %.4f\ndecode_ms_per_token %.3f\n", context->prefill_seconds(),
        1e3 * result.decode_seconds / static_cast<double>(std::max<int64_t>(1, greedy - 1)));
  }
  std::printf("peak_rss_kib %lld\n", static_cast<long long>(PeakRssKib()));
  return out.flush() ? absl::OkStatus() : absl::UnavailableError("cannot write " + out_path);
}

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: decoder_dump FOLDER IDS.bin OUT.bin [key=value ...]\n");
    return 2;
  }
  std::map<std::string, std::string> options;
  for (int i = 4; i < argc; ++i) {
    const std::pair<std::string, std::string> option =
        absl::StrSplit(argv[i], absl::MaxSplits('=', 1));
    options.insert(option);
  }
  const absl::Status status = sparse_attention::Run(argv[1], argv[2], argv[3], options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}
