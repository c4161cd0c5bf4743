// The evaluation tasks: samples with known answers, and how predictions are scored.
//
// Templates, alphabets and rules are in docs/tasks.md. The same seed, index and token budget give
// the same sample everywhere, whatever was drawn before.
#ifndef EVALUATION_TASKS_H_
#define EVALUATION_TASKS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evaluation/fill_context.h"
#include "evaluation/haystack.h"

namespace sparse_attention {

// The prompt is context + question + answer_prefix; the context can be prefilled before the
// question is known, and the three parts can be tokenized one by one.
struct TaskSample {
  std::string task;
  std::string context;
  std::string question;              // starts with "\n\n", ends with "\n"
  std::string answer_prefix;         // the prediction goes on with a blank
  std::vector<std::string> answers;  // all of them must be in the prediction, in any order
  int max_new_tokens = 0;
};

// niah_single, niah_multikey, niah_multivalue, variable_tracking, common_words.
absl::Span<const absl::string_view> TaskNames();

// One sample whose context has at most `token_budget` tokens by `count_tokens` (at least 98 % of it
// from 1,024 on), question and answer not counted. `index` numbers the samples of a seed, from 0.
// INVALID_ARGUMENT if the task is unknown, the budget too small for it, or an argument negative.
absl::StatusOr<TaskSample> MakeSample(absl::string_view task, const Haystack& haystack,
                                      int64_t token_budget, uint64_t seed, int64_t index,
                                      const TokenCounter& count_tokens);

// Running text of the haystack for perplexity, under the same rules.
absl::StatusOr<std::string> MakePassage(const Haystack& haystack, int64_t token_budget,
                                        uint64_t seed, int64_t index,
                                        const TokenCounter& count_tokens);

// The share of `sample.answers` that `prediction` contains, in [0, 1]: ignoring case, with no
// letter or digit directly before or after. A sample is accurate if the share is 1.
double Score(const TaskSample& sample, absl::string_view prediction);

}  // namespace sparse_attention

#endif  // EVALUATION_TASKS_H_
