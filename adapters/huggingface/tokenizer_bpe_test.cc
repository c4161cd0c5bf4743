#include "adapters/huggingface/tokenizer_bpe.h"

#include <algorithm>
#include <random>

#include "adapters/huggingface/tokenizer_byte_level.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Merges = std::vector<std::pair<std::string, std::string>>;

// The bytes in order, then what the merges make.
TokenIds VocabFor(const Merges& merges) {
  TokenIds vocab;
  for (int byte = 0; byte < 256; ++byte)
    vocab[ByteLevelCharacter(static_cast<uint8_t>(byte))] = byte;
  for (const auto& [left, right] : merges) {
    const int32_t id = static_cast<int32_t>(vocab.size());
    vocab.emplace(left + right, id);
  }
  return vocab;
}

std::vector<int32_t> Encode(const BpeModel& model, BpeModel::Scratch& scratch,
                            absl::string_view word) {
  std::vector<int32_t> ids, again;
  model.Encode(word, scratch, ids);
  model.Encode(word, scratch, again);  // From the cache.
  EXPECT_EQ(ids, again);
  return ids;
}

std::vector<int32_t> Encode(const BpeModel& model, absl::string_view word) {
  BpeModel::Scratch scratch;
  return Encode(model, scratch, word);
}

TEST(Bpe, JoinsByRankThenFromTheLeft) {
  const Merges merges = {{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"a", "a"}};
  SA_ASSERT_OK_AND_ASSIGN(const BpeModel model, BpeModel::Create(VocabFor(merges), merges, false));
  EXPECT_THAT(Encode(model, "abc"), ElementsAre(258));  // bc, then a+bc; never ab
  EXPECT_THAT(Encode(model, "ab"), ElementsAre(257));
  EXPECT_THAT(Encode(model, "aaa"), ElementsAre(259, 'a'));  // the left pair
  EXPECT_THAT(Encode(model, "aab"), ElementsAre('a', 257));
  EXPECT_THAT(Encode(model, "x"), ElementsAre('x'));
}

TEST(Bpe, SpacesAreWrittenInTheAlphabet) {
  const Merges merges = {{"Ġ", "a"}, {"Ã", "©"}};
  SA_ASSERT_OK_AND_ASSIGN(const BpeModel model, BpeModel::Create(VocabFor(merges), merges, false));
  EXPECT_THAT(Encode(model, " aé"), ElementsAre(256, 257));
}

TEST(Bpe, IgnoringMergesTakesAWholeWord) {
  TokenIds vocab = VocabFor({});
  vocab["Ġab"] = 300;
  SA_ASSERT_OK_AND_ASSIGN(const BpeModel merging, BpeModel::Create(vocab, {}, false));
  SA_ASSERT_OK_AND_ASSIGN(const BpeModel ignoring, BpeModel::Create(vocab, {}, true));
  EXPECT_THAT(Encode(merging, " ab"), ElementsAre(' ', 'a', 'b'));
  EXPECT_THAT(Encode(ignoring, " ab"), ElementsAre(300));
  EXPECT_THAT(Encode(ignoring, " abc"), ElementsAre(' ', 'a', 'b', 'c'));
}

TEST(Bpe, LaterRankOfARepeatedMergeCounts) {
  const Merges merges = {{"a", "b"}, {"b", "c"}, {"a", "b"}};
  SA_ASSERT_OK_AND_ASSIGN(const BpeModel model, BpeModel::Create(VocabFor(merges), merges, false));
  EXPECT_THAT(Encode(model, "abc"), ElementsAre('a', 257));
}

TEST(Bpe, BrokenModelsNameTheToken) {
  const TokenIds vocab = VocabFor({{"a", "b"}});
  EXPECT_THAT(BpeModel::Create(vocab, Merges{{"a", "b"}, {"a", "zz"}}, false),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("model.merges[1]"), HasSubstr("\"zz\""))));
  EXPECT_THAT(BpeModel::Create(vocab, Merges{{"b", "a"}}, false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"ba\"")));
  TokenIds no_space = vocab;
  no_space.erase("Ġ");
  EXPECT_THAT(BpeModel::Create(no_space, {}, false),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 0x20 (\"Ġ\")")));
  TokenIds no_ff = vocab;
  no_ff.erase("ÿ");  // 0xFF, never in text.
  SA_EXPECT_OK(BpeModel::Create(no_ff, {}, false));
}

// The definition: again and again the first merge of the list that applies, at its leftmost place.
std::vector<std::string> JoinSlowly(const Merges& merges, absl::string_view word) {
  std::vector<std::string> symbols;
  for (const char c : word) symbols.push_back(std::string(1, c));
  const auto join_one = [&] {
    for (const auto& [left, right] : merges) {
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        if (symbols[i] != left || symbols[i + 1] != right) continue;
        symbols[i] += right;
        symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
        return true;
      }
    }
    return false;
  };
  while (join_one()) {
  }
  return symbols;
}

// Merge lists that no training makes: later merges may open earlier ones, and one token may be made
// in several ways.
TEST(Bpe, EqualsTheDefinitionOnArbitraryMergeLists) {
  std::mt19937 rng(5);
  int joined = 0;
  for (int round = 0; round < 200; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    Merges merges;
    for (int i = 0; i < 12; ++i) {
      const auto pick = [&] { return tokens[rng() % tokens.size()]; };
      std::pair<std::string, std::string> merge(pick(), pick());
      if (std::count(merges.begin(), merges.end(), merge) > 0) continue;
      tokens.push_back(merge.first + merge.second);
      merges.push_back(std::move(merge));
    }
    std::shuffle(merges.begin(), merges.end(), rng);
    const TokenIds vocab = VocabFor(merges);
    SA_ASSERT_OK_AND_ASSIGN(const BpeModel model, BpeModel::Create(vocab, merges, false));
    BpeModel::Scratch scratch;
    for (int i = 0; i < 20; ++i) {
      std::string word;
      const size_t length = 1 + rng() % 100;
      while (word.size() < length) word += static_cast<char>('a' + rng() % 3);
      std::vector<int32_t> expected;
      for (const std::string& symbol : JoinSlowly(merges, word))
        expected.push_back(vocab.at(symbol));
      joined += expected.size() < word.size();
      EXPECT_EQ(Encode(model, scratch, word), expected) << word;
    }
  }
  EXPECT_GT(joined, 1000);
}

}  // namespace
}  // namespace sparse_attention
