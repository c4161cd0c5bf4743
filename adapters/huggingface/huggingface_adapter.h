// HuggingFaceAdapter: a checkpoint folder in, answers out.
//
// The folder holds config.json, the weights, and tokenizer.json; generation_config.json is read if
// there is one. Text goes to the model as it is: no chat template is applied. What the tokenizer
// puts before a text (a begin-of-text token) is put once before the context, unless the context
// already begins with it, and never before a question.
#ifndef ADAPTERS_HUGGINGFACE_HUGGINGFACE_ADAPTER_H_
#define ADAPTERS_HUGGINGFACE_HUGGINGFACE_ADAPTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "adapters/huggingface/decoder_model.h"
#include "adapters/huggingface/generation_config.h"
#include "adapters/huggingface/prefilled_context.h"
#include "adapters/huggingface/tokenizer.h"
#include "adapters/model_adapter.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/pipeline_config.h"

namespace sparse_attention {

struct HuggingFaceOptions {
  DecoderOptions decoder;   // dtype and device
  PipelineConfig pipeline;  // default: dense; "{model}/" stands for the folder
};

class HuggingFaceAdapter final : public ModelAdapter {
 public:
  // Errors name the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<const HuggingFaceAdapter>> Load(
      const std::string& folder, const HuggingFaceOptions& options = {});

  // InvalidArgument: no questions, an empty question, max_new_tokens < 1, text that is not UTF-8.
  absl::StatusOr<Response> ProcessRequest(const Request& request,
                                          const GenerationOptions& options = {},
                                          SparseMode mode = SparseMode::kQuestionAndAnswer,
                                          MetricSink* sink = nullptr) const override;

  // Begin-of-text, then the context.
  absl::StatusOr<std::vector<int32_t>> EncodeContext(absl::string_view context) const;
  // The text and nothing else.
  absl::StatusOr<std::vector<int32_t>> EncodeQuestion(absl::string_view question) const;

  const std::string& folder() const { return folder_; }
  const DecoderModel& model() const { return *model_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const GenerationConfig& generation_config() const { return generation_config_; }

 private:
  HuggingFaceAdapter(std::unique_ptr<const HostAttention> attention,
                     std::unique_ptr<const DecoderModel> model,
                     std::unique_ptr<const Tokenizer> tokenizer,
                     const GenerationConfig& generation_config);

  absl::StatusOr<Answer> AnswerQuestion(PrefilledContext* context,
                                        const std::vector<int32_t>& question,
                                        const HostAttention& attention,
                                        AnswerOptions answer_options,
                                        const GenerationOptions& options,
                                        int64_t question_index) const;

  std::string folder_;
  std::unique_ptr<const DecoderModel> model_;
  std::unique_ptr<const Tokenizer> tokenizer_;
  GenerationConfig generation_config_;
  std::vector<int32_t> context_prefix_;  // what the tokenizer puts before a text
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_HUGGINGFACE_ADAPTER_H_
