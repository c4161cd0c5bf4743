#include "evaluation/haystack.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Sentences(const std::string& text) {
  const absl::StatusOr<Haystack> haystack = Haystack::FromText(text);
  EXPECT_THAT(haystack, IsOk());
  std::vector<std::string> sentences;
  for (int64_t i = 0; i < haystack->size(); ++i) sentences.emplace_back(haystack->sentence(i));
  return sentences;
}

TEST(HaystackTest, CutsAfterTheMarkAndItsClosingQuotes) {
  EXPECT_THAT(Sentences("One. \"Two?\" Three...\n(Four!) five\n"),
              ElementsAre("\nOne.", " \"Two?\"", " Three...", "\n(Four!)", " five"));
}

TEST(HaystackTest, AMarkInsideAWordDoesNotCut) {
  EXPECT_THAT(Sentences("Version 3.11 of it. Next."),
              ElementsAre("\nVersion 3.11 of it.", " Next."));
}

TEST(HaystackTest, StartsAgainAfterTheLastSentence) {
  const absl::StatusOr<Haystack> haystack = Haystack::FromText("One. Two. Three.");
  ASSERT_THAT(haystack, IsOk());
  EXPECT_EQ(haystack->sentence(3), "\nOne.");
  EXPECT_EQ(haystack->sentence(7), " Two.");
}

TEST(HaystackTest, RefusesTextWithoutSentences) {
  EXPECT_THAT(Haystack::FromText(""), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Haystack::FromText("One."),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("got 1")));
}

TEST(HaystackTest, AFileThatIsNotThereIsNotFound) {
  EXPECT_THAT(Haystack::FromFile("no/such/file.txt"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/such/file.txt")));
}

TEST(HaystackTest, TheShippedTextHasThousandsOfSentences) {
  const absl::StatusOr<Haystack> haystack =
      Haystack::FromFile("evaluation/haystack/persuasion.txt");
  ASSERT_THAT(haystack, IsOk());
  EXPECT_GT(haystack->size(), 2000);
  EXPECT_THAT(haystack->sentence(0), HasSubstr("Sir Walter Elliot, of Kellynch Hall"));
}

}  // namespace
}  // namespace sparse_attention
