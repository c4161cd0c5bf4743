#include "evaluation/tasks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

constexpr std::array<absl::string_view, 5> kTaskNames = {
    "niah_single", "niah_multikey", "niah_multivalue", "variable_tracking", "common_words"};

constexpr absl::string_view kConsonants = "bdfgklmnprstvz";
constexpr absl::string_view kVowels = "aeiou";
constexpr uint32_t kHeldOutModulus = 8;  // other keys and variables belong to training
constexpr int kChainLength = 5;
constexpr int kChains = 2;
constexpr int kValuesOfOneKey = 4;
constexpr int kOtherKeys = 4;
constexpr int kShortAnswer = 16, kLongAnswer = 48;  // max_new_tokens

constexpr std::array<absl::string_view, 63> kListWords = {
    "address", "back",    "block",   "buffer", "byte",    "call",    "case",   "change",   "class",
    "code",    "command", "control", "data",   "device",  "driver",  "error",  "event",    "family",
    "father",  "field",   "file",    "flag",   "form",    "frame",   "friend", "function", "hand",
    "heart",   "help",    "host",    "house",  "index",   "input",   "kernel", "king",     "level",
    "line",    "link",    "list",    "lock",   "memory",  "message", "method", "mode",     "mother",
    "name",    "object",  "order",   "output", "page",    "people",  "place",  "point",    "port",
    "power",   "process", "program", "reason", "request", "result",  "sister", "size",     "state"};
constexpr std::array<double, 3> kCommonShares = {0.15, 0.11, 0.08};
constexpr int64_t kFewestWords = 128;  // below, the three counts come too close to the others

// Draws keys, variables and values that differ from all drawn before.
class Names {
 public:
  explicit Names(PhiloxStream& random) : random_(random) {}

  std::string Key() {
    return Distinct(kConsonants.size() * kVowels.size(), [](uint32_t syllable) {
      return std::string{kConsonants[syllable / kVowels.size()],
                         kVowels[syllable % kVowels.size()]};
    });
  }

  std::string Variable() {
    return Distinct(
        26, [](uint32_t letter) { return std::string(1, static_cast<char>('A' + letter)); });
  }

  std::string Value() {
    std::string value;
    do {
      value = absl::StrCat(100000 + random_.Below(900000));
    } while (!used_.insert(value).second);
    return value;
  }

 private:
  // Three parts whose numbers add up to a multiple of kHeldOutModulus.
  template <typename Part>
  std::string Distinct(uint32_t parts, Part part) {
    for (;;) {
      const uint32_t a = random_.Below(parts), b = random_.Below(parts), c = random_.Below(parts);
      if ((a + b + c) % kHeldOutModulus != 0) continue;
      std::string name = absl::StrCat(part(a), part(b), part(c));
      if (used_.insert(name).second) return name;
    }
  }

  PhiloxStream& random_;
  absl::flat_hash_set<std::string> used_;
};

std::string Needle(absl::string_view key, absl::string_view value) {
  return absl::StrCat(" The magic number of ", key, " is ", value, ".");
}

// Needles and question of the tasks that hide sentences in a haystack.
struct Hidden {
  std::vector<NeedleGroup> groups;
  TaskSample sample;
};

Hidden HideNumbers(int keys, PhiloxStream& random) {
  Hidden hidden;
  Names names(random);
  const uint32_t asked = random.Below(keys);
  for (int i = 0; i < keys; ++i) {
    const std::string key = names.Key(), value = names.Value();
    hidden.groups.push_back({Needle(key, value)});
    if (static_cast<uint32_t>(i) != asked) continue;
    hidden.sample.question = absl::StrCat("\n\nQuestion: What is the magic number of ", key, "?\n");
    hidden.sample.answer_prefix = absl::StrCat("Answer: The magic number of ", key, " is");
    hidden.sample.answers = {value};
  }
  hidden.sample.max_new_tokens = kShortAnswer;
  return hidden;
}

Hidden HideSeveralValues(PhiloxStream& random) {
  Hidden hidden;
  Names names(random);
  const std::string key = names.Key();
  NeedleGroup& needles = hidden.groups.emplace_back();
  for (int i = 0; i < kValuesOfOneKey; ++i) {
    hidden.sample.answers.push_back(names.Value());
    needles.push_back(Needle(key, hidden.sample.answers.back()));
  }
  for (int i = 0; i < kOtherKeys; ++i) {
    const std::string other = names.Key();
    hidden.groups.push_back({Needle(other, names.Value())});
  }
  hidden.sample.question =
      absl::StrCat("\n\nQuestion: What are all the magic numbers of ", key, "?\n");
  hidden.sample.answer_prefix = absl::StrCat("Answer: The magic numbers of ", key, " are");
  hidden.sample.max_new_tokens = kLongAnswer;
  return hidden;
}

Hidden HideChains(PhiloxStream& random) {
  Hidden hidden;
  Names names(random);
  for (int chain = 0; chain < kChains; ++chain) {
    const std::string value = names.Value();
    std::vector<std::string> variables;
    NeedleGroup needles;
    for (int i = 0; i < kChainLength; ++i) {
      variables.push_back(names.Variable());
      needles.push_back(
          i == 0 ? absl::StrCat(" Store ", value, " in VAR ", variables[0], ".")
                 : absl::StrCat(" Copy VAR ", variables[i - 1], " to VAR ", variables[i], "."));
    }
    hidden.groups.push_back(std::move(needles));
    if (chain > 0) continue;  // chains are alike, so the first may be the one that is asked for
    hidden.sample.question =
        absl::StrCat("\n\nQuestion: Which variables hold the value ", value, "?\n");
    hidden.sample.answer_prefix = absl::StrCat("Answer: The variables that hold ", value, " are");
    hidden.sample.answers = std::move(variables);
  }
  hidden.sample.max_new_tokens = kLongAnswer;
  return hidden;
}

// How often each word of a list of `words` words occurs: the common ones first.
std::array<int64_t, kListWords.size()> WordCounts(int64_t words) {
  std::array<int64_t, kListWords.size()> counts = {};
  int64_t left = words;
  for (size_t i = 0; i < kCommonShares.size(); ++i) {
    counts[i] = static_cast<int64_t>(std::floor(kCommonShares[i] * words + 0.5));
    left -= counts[i];
  }
  const int64_t others = kListWords.size() - kCommonShares.size();
  for (int64_t i = 0; i < others; ++i) {
    counts[kCommonShares.size() + i] = left / others + (i < left % others ? 1 : 0);
  }
  return counts;
}

template <typename Items>
void Shuffle(Items& items, PhiloxStream& random) {
  for (size_t i = items.size(); i > 1; --i) {
    std::swap(items[i - 1], items[random.Below(static_cast<uint32_t>(i))]);
  }
}

absl::StatusOr<TaskSample> CountWords(int64_t token_budget, const TokenCounter& count_tokens,
                                      PhiloxStream& random) {
  std::array<absl::string_view, kListWords.size()> words = kListWords;
  Shuffle(words, random);
  std::array<int64_t, kListWords.size()> tokens;
  for (size_t i = 0; i < words.size(); ++i) {
    SA_ASSIGN_OR_RETURN(tokens[i], count_tokens(absl::StrCat(" ", words[i])));
    if (tokens[i] <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a token count of text must be > 0, got ", tokens[i]));
    }
  }
  const auto fits = [&](int64_t count) {
    const auto counts = WordCounts(count);
    return std::inner_product(counts.begin(), counts.end(), tokens.begin(), int64_t{0}) <=
           token_budget;
  };
  int64_t count = 0;
  for (int64_t low = 0, high = token_budget + 1; low < high;) {
    const int64_t middle = low + (high - low) / 2;
    if (fits(middle)) {
      count = middle;
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const PhiloxStream before_order = random;
  for (; count >= kFewestWords; --count) {
    const auto counts = WordCounts(count);
    std::vector<absl::string_view> list;
    for (size_t i = 0; i < words.size(); ++i) list.insert(list.end(), counts[i], words[i]);
    random = before_order;
    Shuffle(list, random);
    TaskSample sample;
    sample.context = absl::StrJoin(list, " ");
    SA_ASSIGN_OR_RETURN(const int64_t total, count_tokens(sample.context));
    if (total > token_budget) continue;  // the first word, without its blank, can be longer
    sample.question = "\n\nQuestion: Which three words are the most common?\n";
    sample.answer_prefix = "Answer: The three most common words are";
    for (size_t i = 0; i < kCommonShares.size(); ++i) sample.answers.emplace_back(words[i]);
    sample.max_new_tokens = kShortAnswer;
    return sample;
  }
  return absl::InvalidArgumentError(absl::StrCat("token_budget must leave room for ", kFewestWords,
                                                 " words, got ", token_budget));
}

absl::StatusOr<TaskSample> MakeSampleOf(size_t task, const Haystack& haystack, int64_t token_budget,
                                        const TokenCounter& count_tokens, PhiloxStream& random) {
  if (kTaskNames[task] == "common_words") return CountWords(token_budget, count_tokens, random);
  Hidden hidden;
  if (kTaskNames[task] == "niah_single") {
    hidden = HideNumbers(1, random);
  } else if (kTaskNames[task] == "niah_multikey") {
    hidden = HideNumbers(static_cast<int>(std::clamp<int64_t>(token_budget / 256, 4, 64)), random);
  } else if (kTaskNames[task] == "niah_multivalue") {
    hidden = HideSeveralValues(random);
  } else {
    hidden = HideChains(random);
  }
  SA_ASSIGN_OR_RETURN(hidden.sample.context,
                      FillContext(haystack, hidden.groups, token_budget, count_tokens, random));
  return std::move(hidden.sample);
}

// `purpose` numbers the tasks; passages come after them.
absl::StatusOr<PhiloxStream> StreamOf(size_t purpose, int64_t token_budget, uint64_t seed,
                                      int64_t index) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (token_budget <= 0 || token_budget > kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat("token_budget must be in [1, ", kMost, "], got ", token_budget));
  }
  if (index < 0 || index > kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat("index must be in [0, ", kMost, "], got ", index));
  }
  return PhiloxStream(seed, RandomPurpose::kTaskData, static_cast<uint32_t>(purpose),
                      static_cast<uint32_t>(index), static_cast<uint32_t>(token_budget));
}

bool ContainsWord(absl::string_view text, absl::string_view word) {
  for (size_t at = text.find(word); at != absl::string_view::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !absl::ascii_isalnum(text[at - 1])) &&
        (end == text.size() || !absl::ascii_isalnum(text[end]))) {
      return true;
    }
  }
  return false;
}

}  // namespace

absl::Span<const absl::string_view> TaskNames() { return kTaskNames; }

absl::StatusOr<TaskSample> MakeSample(absl::string_view task, const Haystack& haystack,
                                      int64_t token_budget, uint64_t seed, int64_t index,
                                      const TokenCounter& count_tokens) {
  const auto found = std::find(kTaskNames.begin(), kTaskNames.end(), task);
  if (found == kTaskNames.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no task \"", task, "\" (tasks: ", absl::StrJoin(kTaskNames, ", "), ")"));
  }
  const size_t number = found - kTaskNames.begin();
  absl::StatusOr<PhiloxStream> random = StreamOf(number, token_budget, seed, index);
  if (!random.ok()) return Annotate(random.status(), task);
  absl::StatusOr<TaskSample> sample =
      MakeSampleOf(number, haystack, token_budget, count_tokens, *random);
  if (!sample.ok()) return Annotate(sample.status(), task);
  sample->task = std::string(task);
  return sample;
}

absl::StatusOr<std::string> MakePassage(const Haystack& haystack, int64_t token_budget,
                                        uint64_t seed, int64_t index,
                                        const TokenCounter& count_tokens) {
  SA_ASSIGN_OR_RETURN(PhiloxStream random, StreamOf(kTaskNames.size(), token_budget, seed, index));
  return FillContext(haystack, {}, token_budget, count_tokens, random);
}

double Score(const TaskSample& sample, absl::string_view prediction) {
  const std::string text = absl::AsciiStrToLower(prediction);
  const auto found = std::count_if(
      sample.answers.begin(), sample.answers.end(),
      [&](const std::string& answer) { return ContainsWord(text, absl::AsciiStrToLower(answer)); });
  return sample.answers.empty() ? 0.0 : static_cast<double>(found) / sample.answers.size();
}

}  // namespace sparse_attention
