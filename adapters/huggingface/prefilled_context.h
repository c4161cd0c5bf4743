// PrefilledContext: a context that a model has read once, and any number of answers from it, with
// any pipeline. Token ids in, token ids out.
//
//   SA_ASSIGN_OR_RETURN(auto context, PrefilledContext::Create(&model, context_tokens));
//   for (const HostAttention* pipeline : pipelines) {
//     SA_ASSIGN_OR_RETURN(const Generation g, context->Answer(question_tokens, *pipeline, {}));
//   }
//
// Every call starts from the context alone and cuts the cache back to the context's length when it
// is done: calls do not influence one another. Indexes that maskers build over the context are kept
// for later calls with the same attention.
#ifndef ADAPTERS_HUGGINGFACE_PREFILLED_CONTEXT_H_
#define ADAPTERS_HUGGINGFACE_PREFILLED_CONTEXT_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "adapters/host_attention.h"
#include "adapters/huggingface/decoder_model.h"
#include "adapters/huggingface/kv_cache.h"
#include "adapters/request.h"
#include "metric_logging/metric_sink.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

struct PrefillOptions {
  // Tokens that questions and answers may add before the cache has to grow, which copies it.
  int64_t room = 512;
  int64_t tokens_per_pass = 4096;
  // Attends sparsely while reading the context; null: densely. Then a smaller tokens_per_pass
  // bounds memory: the research engine holds [heads, tokens per pass, keys] logits.
  const HostAttention* attention = nullptr;
  MetricSink* sink = nullptr;
};

struct AnswerOptions {
  int64_t max_new_tokens = 50;              // >= 1
  std::vector<int64_t> eos_token_ids = {};  // generation ends after one of these
  // The question attends densely; only generated tokens are sparse.
  bool dense_question = false;
  MetricSink* sink = nullptr;  // receives what `attention` measures
  // Called with every token as it is decided; false ends the answer.
  std::function<bool(int32_t token)> on_token = {};
};

struct LogitsOptions {
  int64_t tokens_per_pass = 0;  // as ForwardOptions
  MetricSink* sink = nullptr;
};

// For one thread at a time.
class PrefilledContext {
 public:
  // Reads `tokens`, which may be empty. `model` must outlive the result. Errors as
  // DecoderModel::Forward.
  static absl::StatusOr<std::unique_ptr<PrefilledContext>> Create(
      const DecoderModel* model, absl::Span<const int32_t> tokens,
      const PrefillOptions& options = {});

  // Reads `question` in one pass, then decodes greedily; of equal logits the lowest id wins.
  // InvalidArgument: the question is empty or holds an id that is none, max_new_tokens < 1.
  absl::StatusOr<Generation> Answer(absl::Span<const int32_t> question,
                                    const HostAttention& attention,
                                    const AnswerOptions& options = {});

  // Reads `tokens`; float32 [tokens, vocab], row i predicts what follows tokens[i].
  absl::StatusOr<at::Tensor> Logits(absl::Span<const int32_t> tokens,
                                    const HostAttention& attention,
                                    const LogitsOptions& options = {});

  int64_t tokens() const { return tokens_; }
  double prefill_seconds() const { return prefill_seconds_; }
  // Float32 [vocab] on the host, what follows the context; undefined for an empty one.
  const at::Tensor& next_logits() const { return next_logits_; }

 private:
  PrefilledContext(const DecoderModel* model, KvCache cache)
      : model_(model), cache_(std::move(cache)) {}

  // The session of `attention`, whose maskers have indexed the context.
  absl::StatusOr<AttentionSession*> PreparedSession(const HostAttention& attention);

  const DecoderModel* model_;
  KvCache cache_;
  AttentionSession session_;
  uint64_t session_owner_ = 0;  // HostAttention::id
  int64_t tokens_ = 0;
  double prefill_seconds_ = 0;
  at::Tensor next_logits_;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_PREFILLED_CONTEXT_H_
