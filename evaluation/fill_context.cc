#include "evaluation/fill_context.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

constexpr int64_t kLeastFiller = 64;

struct Placed {
  double depth = 0;  // [0, 1): where among the sentences
  absl::string_view needle;
};

// Depths are drawn once, so that a context that must shrink keeps its needles where they are.
std::vector<Placed> PlaceNeedles(const std::vector<NeedleGroup>& groups, PhiloxStream& random) {
  std::vector<Placed> placed;
  for (const NeedleGroup& group : groups) {
    std::vector<double> depths(group.size());
    for (double& depth : depths) depth = random.Uniform();
    std::sort(depths.begin(), depths.end());
    for (size_t i = 0; i < group.size(); ++i) placed.push_back({depths[i], group[i]});
  }
  std::stable_sort(placed.begin(), placed.end(),
                   [](const Placed& a, const Placed& b) { return a.depth < b.depth; });
  return placed;
}

// The longest run of whole words at the start of `sentence` that has at most `tokens` tokens.
absl::StatusOr<absl::string_view> CutSentence(absl::string_view sentence, int64_t tokens,
                                              const TokenCounter& count_tokens) {
  absl::string_view fitting = sentence.substr(0, 0);
  for (size_t end = 1; end <= sentence.size(); ++end) {
    if (end < sentence.size() && !absl::ascii_isspace(sentence[end])) continue;
    SA_ASSIGN_OR_RETURN(const int64_t count, count_tokens(sentence.substr(0, end)));
    if (count > tokens) break;
    fitting = sentence.substr(0, end);
  }
  return fitting;
}

// The sentences after which a needle may stand: those that a blank follows, since a needle before a
// newline would end a paragraph. All, if there is no such sentence.
std::vector<size_t> PlacesForNeedles(const std::vector<absl::string_view>& sentences,
                                     absl::string_view cut) {
  std::vector<size_t> places, all;
  for (size_t i = 0; i < sentences.size(); ++i) {
    const absl::string_view following = i + 1 < sentences.size() ? sentences[i + 1] : cut;
    if (absl::StartsWith(following, " ")) places.push_back(i);
    all.push_back(i);
  }
  return places.empty() ? all : places;
}

absl::StatusOr<std::string> Assemble(const Haystack& haystack, int64_t start, int64_t filler,
                                     const std::vector<Placed>& placed,
                                     const TokenCounter& count_tokens) {
  std::vector<absl::string_view> sentences;
  absl::string_view cut;
  for (int64_t used = 0;;) {
    const absl::string_view sentence =
        haystack.sentence(start + static_cast<int64_t>(sentences.size()));
    SA_ASSIGN_OR_RETURN(const int64_t count, count_tokens(sentence));
    if (count <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a token count of text must be > 0, got ", count));
    }
    if (used + count > filler) {
      SA_ASSIGN_OR_RETURN(cut, CutSentence(sentence, filler - used, count_tokens));
      break;
    }
    sentences.push_back(sentence);
    used += count;
  }
  const std::vector<size_t> places = PlacesForNeedles(sentences, cut);
  std::string text;
  auto next = placed.begin();
  for (size_t i = 0; i < sentences.size(); ++i) {
    absl::StrAppend(&text, sentences[i]);
    for (; next != placed.end() && places[static_cast<size_t>(next->depth * places.size())] == i;
         ++next) {
      absl::StrAppend(&text, next->needle);
    }
  }
  for (; next != placed.end(); ++next) absl::StrAppend(&text, next->needle);
  absl::StrAppend(&text, cut);
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace

absl::StatusOr<std::string> FillContext(const Haystack& haystack,
                                        const std::vector<NeedleGroup>& groups,
                                        int64_t token_budget, const TokenCounter& count_tokens,
                                        PhiloxStream& random) {
  const int64_t start = random.Below(static_cast<uint32_t>(haystack.size()));
  const std::vector<Placed> placed = PlaceNeedles(groups, random);
  int64_t needles = 0;
  for (const Placed& needle : placed) {
    SA_ASSIGN_OR_RETURN(const int64_t count, count_tokens(needle.needle));
    needles += count;
  }
  if (token_budget < needles + kLeastFiller) {
    return absl::InvalidArgumentError(
        absl::StrCat("token_budget must be >= ", needles + kLeastFiller, ", got ", token_budget));
  }
  // The joined text can have fewer or more tokens than its pieces (a full stop and the newline
  // after it are often one token), so the filler is corrected until it fits.
  constexpr int kAttempts = 8;
  std::string best;
  int64_t best_count = 0, filler = token_budget - needles;
  for (int attempt = 0; attempt < kAttempts && filler > 0; ++attempt) {
    SA_ASSIGN_OR_RETURN(std::string text, Assemble(haystack, start, filler, placed, count_tokens));
    SA_ASSIGN_OR_RETURN(const int64_t count, count_tokens(text));
    if (count <= token_budget && count > best_count) {
      best = std::move(text);
      best_count = count;
    }
    if (count == token_budget) break;
    filler += token_budget - count;
  }
  if (best_count == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token_budget ", token_budget, " is too small for ", placed.size(), " needles"));
  }
  return best;
}

}  // namespace sparse_attention
