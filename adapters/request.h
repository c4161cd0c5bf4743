// What is asked of a model and what comes back: a context that is read once, and questions about
// it. Torch-free.
#ifndef ADAPTERS_REQUEST_H_
#define ADAPTERS_REQUEST_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sparse_attention {

// Which tokens attend through the sparse pipeline; all others attend to every key.
enum class SparseMode {
  kDense,              // none
  kAnswer,             // generated tokens after the first, which comes out of the question's pass
  kQuestionAndAnswer,  // everything after the context: the default
  kEverything,         // the context too
};

struct Request {
  std::string context;
  std::vector<std::string> questions;
  // Put after every question: the first words of the answer. Question and prefix are tokenized as
  // one text and read in one pass.
  std::string answer_prefix;
};

// Decoding is greedy; of equal logits the lowest token id wins.
struct GenerationOptions {
  int64_t max_new_tokens = 50;  // >= 1
  // Generation ends when the answer's text holds one of these; it and what follows are cut off.
  std::vector<std::string> stop_strings = {};
  // Goes on after an end-of-text token, so that exactly max_new_tokens come out.
  bool ignore_eos = false;
  // Called with each piece of an answer's text as it is decided; pieces may be empty and put
  // together they are Answer::text.
  std::function<void(int64_t question, absl::string_view piece)> on_text = {};
};

enum class StopReason { kEndOfText, kStopString, kMaxNewTokens, kCallback };

constexpr absl::string_view StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfText:
      return "end_of_text";
    case StopReason::kStopString:
      return "stop_string";
    case StopReason::kMaxNewTokens:
      return "max_new_tokens";
    case StopReason::kCallback:
      return "callback";
  }
  return "unknown";
}

// Tokens out of a model.
struct Generation {
  std::vector<int32_t> tokens;  // an end-of-text token included, if it was generated
  StopReason stop_reason = StopReason::kMaxNewTokens;
  int64_t question_tokens = 0;  // read before the first token, answer prefix included
  double question_seconds = 0;  // reading them, and the first token
  double decode_seconds = 0;    // tokens.size() - 1 steps
};

struct Answer {
  std::string text;  // special tokens left out
  Generation generation;
};

struct Response {
  std::vector<Answer> answers;  // one a question, in order
  int64_t context_tokens = 0;
  double prefill_seconds = 0;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_REQUEST_H_
