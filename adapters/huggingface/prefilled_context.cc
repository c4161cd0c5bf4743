#include "adapters/huggingface/prefilled_context.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

class Stopwatch {
 public:
  double Seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The index of the largest of [1, vocab] logits, the lowest of equal ones. InternalError if all
// are NaN.
absl::StatusOr<int32_t> ArgMax(const at::Tensor& logits) {
  return CatchTorch([&]() -> absl::StatusOr<int32_t> {
    const at::Tensor host = logits.to(at::kCPU).contiguous();
    const float* begin = host.const_data_ptr<float>();
    const float* end = begin + host.numel();
    const float* best = begin;
    for (const float* x = begin; x != end; ++x) {
      if (*x > *best || (*best != *best && *x == *x)) best = x;
    }
    if (*best != *best) return absl::InternalError("the model's logits are not numbers");
    return static_cast<int32_t>(best - begin);
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<PrefilledContext>> PrefilledContext::Create(
    const DecoderModel* model, absl::Span<const int32_t> tokens, const PrefillOptions& options) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  SA_ASSIGN_OR_RETURN(KvCache cache, model->NewCache(std::max<int64_t>(1, count + options.room)));
  std::unique_ptr<PrefilledContext> context(new PrefilledContext(model, std::move(cache)));
  if (tokens.empty()) return context;
  SA_ASSIGN_OR_RETURN(const auto dense, HostAttention::Create());
  const HostAttention& attention = options.attention != nullptr ? *options.attention : *dense;
  AttentionSession session;
  const Stopwatch stopwatch;
  ForwardOptions forward;
  forward.tokens_per_pass = options.tokens_per_pass;
  SA_ASSIGN_OR_RETURN(
      const at::Tensor logits,
      model->Forward(tokens, &context->cache_, attention.Bind(&session, options.sink), forward));
  context->tokens_ = count;
  return CatchTorch([&]() -> absl::StatusOr<std::unique_ptr<PrefilledContext>> {
    context->next_logits_ = logits[0].to(at::kCPU);  // waits for the device
    context->prefill_seconds_ = stopwatch.Seconds();
    return std::move(context);
  });
}

absl::StatusOr<AttentionSession*> PrefilledContext::PreparedSession(
    const HostAttention& attention) {
  if (attention.id() != session_owner_) {
    session_.Reset();
    session_owner_ = attention.id();
  }
  if (tokens_ == 0) return &session_;
  const int64_t heads = model_->config().num_heads;
  SA_RETURN_IF_ERROR(CatchTorch([&]() -> absl::Status {
    for (int64_t layer = 0; layer < cache_.layers(); ++layer) {
      AttentionInputs in;
      in.k = cache_.Keys(layer, tokens_);
      in.v = cache_.Values(layer, tokens_);
      in.q = in.k.new_empty({1, heads, 0, in.k.size(3)});
      in.layer = layer;
      in.causal = true;
      in.first_query_position = tokens_;
      SA_RETURN_IF_ERROR(attention.Prepare(in, &session_));
    }
    return absl::OkStatus();
  }));
  return &session_;
}

absl::StatusOr<Generation> PrefilledContext::Answer(absl::Span<const int32_t> question,
                                                    const HostAttention& attention,
                                                    const AnswerOptions& options) {
  if (question.empty()) return absl::InvalidArgumentError("the question has no tokens");
  if (options.max_new_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_new_tokens must be >= 1, got ", options.max_new_tokens));
  }
  SA_RETURN_IF_ERROR(
      cache_.Reserve(tokens_ + static_cast<int64_t>(question.size()) + options.max_new_tokens));
  const absl::Cleanup restore = [this] { SA_CHECK_OK(cache_.Truncate(tokens_)); };

  SA_ASSIGN_OR_RETURN(AttentionSession * session, PreparedSession(attention));
  const absl::Cleanup rewind = [session] { session->Rewind(); };
  const AttentionFunction sparse = attention.Bind(session, options.sink);
  AttentionFunction reading = sparse;
  std::unique_ptr<const HostAttention> dense;
  if (options.dense_question) {
    SA_ASSIGN_OR_RETURN(dense, HostAttention::Create());
    reading = dense->Bind(session);
  }

  Generation result;
  result.question_tokens = static_cast<int64_t>(question.size());
  const Stopwatch question_time;
  SA_ASSIGN_OR_RETURN(at::Tensor logits, model_->Forward(question, &cache_, reading));
  SA_ASSIGN_OR_RETURN(int32_t token, ArgMax(logits));
  result.question_seconds = question_time.Seconds();
  const Stopwatch decode_time;
  while (true) {
    result.tokens.push_back(token);
    const auto& eos = options.eos_token_ids;
    const bool go_on = !options.on_token || options.on_token(token);
    if (std::find(eos.begin(), eos.end(), token) != eos.end()) {
      result.stop_reason = StopReason::kEndOfText;
      break;
    }
    if (!go_on) {
      result.stop_reason = StopReason::kCallback;
      break;
    }
    if (static_cast<int64_t>(result.tokens.size()) == options.max_new_tokens) {
      result.stop_reason = StopReason::kMaxNewTokens;
      break;
    }
    SA_ASSIGN_OR_RETURN(logits, model_->Forward({&token, 1}, &cache_, sparse));
    SA_ASSIGN_OR_RETURN(token, ArgMax(logits));
  }
  result.decode_seconds = decode_time.Seconds();
  return result;
}

absl::StatusOr<at::Tensor> PrefilledContext::Logits(absl::Span<const int32_t> tokens,
                                                    const HostAttention& attention,
                                                    const LogitsOptions& options) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  SA_RETURN_IF_ERROR(cache_.Reserve(tokens_ + count));
  const absl::Cleanup restore = [this] { SA_CHECK_OK(cache_.Truncate(tokens_)); };
  SA_ASSIGN_OR_RETURN(AttentionSession * session, PreparedSession(attention));
  const absl::Cleanup rewind = [session] { session->Rewind(); };
  ForwardOptions forward;
  forward.logits = count;
  forward.tokens_per_pass = options.tokens_per_pass;
  return model_->Forward(tokens, &cache_, attention.Bind(session, options.sink), forward);
}

}  // namespace sparse_attention
