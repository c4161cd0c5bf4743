#include "adapters/huggingface/huggingface_adapter.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/huggingface/stop_strings.h"

namespace sparse_attention {
namespace {

// The research engine holds the logits of all queries of a pass.
constexpr int64_t kSparseTokensPerPass = 256;

// What the tokenizer puts before a text; what it may put behind one would end the context.
absl::StatusOr<std::vector<int32_t>> ContextPrefix(const Tokenizer& tokenizer) {
  SA_ASSIGN_OR_RETURN(const std::vector<int32_t> plain, tokenizer.Encode("a"));
  SA_ASSIGN_OR_RETURN(std::vector<int32_t> whole,
                      tokenizer.Encode("a", /*add_special_tokens=*/true));
  const auto text = std::search(whole.begin(), whole.end(), plain.begin(), plain.end());
  whole.erase(text, whole.end());
  return whole;
}

}  // namespace

HuggingFaceAdapter::HuggingFaceAdapter(std::unique_ptr<const HostAttention> attention,
                                       std::unique_ptr<const DecoderModel> model,
                                       std::unique_ptr<const Tokenizer> tokenizer,
                                       const GenerationConfig& generation_config)
    : ModelAdapter(std::move(attention)),
      model_(std::move(model)),
      tokenizer_(std::move(tokenizer)),
      generation_config_(generation_config) {}

absl::StatusOr<std::unique_ptr<const HuggingFaceAdapter>> HuggingFaceAdapter::Load(
    const std::string& folder, const HuggingFaceOptions& options) {
  if (std::error_code error; !std::filesystem::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat(folder, ": no such model folder"));
  }
  SA_ASSIGN_OR_RETURN(auto attention,
                      HostAttention::Create(ResolveModelPaths(options.pipeline, folder)));
  SA_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromFile(folder + "/tokenizer.json"));
  SA_ASSIGN_OR_RETURN(std::vector<int32_t> prefix, ContextPrefix(*tokenizer));
  SA_ASSIGN_OR_RETURN(auto model, DecoderModel::Load(folder, options.decoder));
  SA_ASSIGN_OR_RETURN(const GenerationConfig generation_config,
                      GenerationConfig::FromFolder(folder, model->config()));
  if (tokenizer->vocab_size() > model->config().vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(folder, "/tokenizer.json: has ids up to ", tokenizer->vocab_size() - 1,
                     ", but vocab_size of config.json is ", model->config().vocab_size));
  }
  std::unique_ptr<HuggingFaceAdapter> adapter(new HuggingFaceAdapter(
      std::move(attention), std::move(model), std::move(tokenizer), generation_config));
  adapter->folder_ = folder;
  adapter->context_prefix_ = std::move(prefix);
  return adapter;
}

absl::StatusOr<std::vector<int32_t>> HuggingFaceAdapter::EncodeContext(
    absl::string_view context) const {
  SA_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer_->Encode(context));
  const bool has_prefix = ids.size() >= context_prefix_.size() &&
                          std::equal(context_prefix_.begin(), context_prefix_.end(), ids.begin());
  if (!has_prefix) ids.insert(ids.begin(), context_prefix_.begin(), context_prefix_.end());
  return ids;
}

absl::StatusOr<std::vector<int32_t>> HuggingFaceAdapter::EncodeQuestion(
    absl::string_view question) const {
  return tokenizer_->Encode(question);
}

absl::StatusOr<Answer> HuggingFaceAdapter::AnswerQuestion(
    PrefilledContext* context, const std::vector<int32_t>& question, const HostAttention& attention,
    AnswerOptions answer_options, const GenerationOptions& options, int64_t question_index) const {
  Answer answer;
  StreamingDecoder decoder(*tokenizer_);
  StopStrings stop(options.stop_strings);
  const auto emit = [&](const std::string& piece) {
    answer.text += piece;
    if (options.on_text) options.on_text(question_index, piece);
  };
  answer_options.on_token = [&](int32_t token) {
    // A vocabulary padded to a round size has ids without a token; they have no text.
    const absl::StatusOr<std::string> text = decoder.Push(token);
    emit(stop.Push(text.ok() ? *text : ""));
    return !stop.found();
  };
  SA_ASSIGN_OR_RETURN(answer.generation, context->Answer(question, attention, answer_options));
  if (stop.found()) {
    answer.generation.stop_reason = StopReason::kStopString;
  } else {
    emit(stop.Push(decoder.Flush()));
    emit(stop.Flush());
  }
  return answer;
}

absl::StatusOr<Response> HuggingFaceAdapter::ProcessRequest(const Request& request,
                                                            const GenerationOptions& options,
                                                            SparseMode mode,
                                                            MetricSink* sink) const {
  if (request.questions.empty()) {
    return absl::InvalidArgumentError("request.questions must hold at least one question");
  }
  SA_ASSIGN_OR_RETURN(const std::vector<int32_t> context_ids, EncodeContext(request.context));
  std::vector<std::vector<int32_t>> questions;
  size_t longest = 0;
  for (size_t i = 0; i < request.questions.size(); ++i) {
    absl::StatusOr<std::vector<int32_t>> ids =
        EncodeQuestion(request.questions[i] + request.answer_prefix);
    if (!ids.ok()) return Annotate(ids.status(), absl::StrCat("request.questions[", i, "]"));
    longest = std::max(longest, ids->size());
    questions.push_back(*std::move(ids));
  }

  SA_ASSIGN_OR_RETURN(const auto dense, HostAttention::Create());
  const HostAttention& answering = mode == SparseMode::kDense ? *dense : attention();
  PrefillOptions prefill;
  prefill.room = static_cast<int64_t>(longest) + std::max<int64_t>(0, options.max_new_tokens);
  if (mode == SparseMode::kEverything) {
    prefill.attention = &attention();
    prefill.sink = sink;
    prefill.tokens_per_pass = kSparseTokensPerPass;
  }
  SA_ASSIGN_OR_RETURN(const auto context,
                      PrefilledContext::Create(model_.get(), context_ids, prefill));

  AnswerOptions answer_options;
  answer_options.max_new_tokens = options.max_new_tokens;
  if (!options.ignore_eos) answer_options.eos_token_ids = generation_config_.eos_token_ids;
  answer_options.dense_question = mode == SparseMode::kAnswer;
  answer_options.sink = sink;
  Response response;
  response.context_tokens = context->tokens();
  response.prefill_seconds = context->prefill_seconds();
  for (size_t i = 0; i < questions.size(); ++i) {
    absl::StatusOr<Answer> answer = AnswerQuestion(
        context.get(), questions[i], answering, answer_options, options, static_cast<int64_t>(i));
    if (!answer.ok()) return Annotate(answer.status(), absl::StrCat("request.questions[", i, "]"));
    response.answers.push_back(*std::move(answer));
  }
  return response;
}

}  // namespace sparse_attention
