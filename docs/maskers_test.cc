// docs/maskers.md says of every masker what its descriptor says.
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "tools/sah/maskers_markdown.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

TEST(MaskersDocument, IsWhatTheDescriptorsSay) {
  const std::string document = ReadFile("docs/maskers.md");
  SA_ASSERT_OK_AND_ASSIGN(const std::string renewed,
                          ReplaceGenerated(document, MaskersMarkdown(AllMaskers())));
  EXPECT_TRUE(document == renewed)
      << "docs/maskers.md is out of date; renew it with\n"
         "  bazel run //tools/sah -- maskers markdown --into docs/maskers.md";
}

TEST(MaskersDocument, ShowsEntriesThatWork) {
  for (const MaskerDescriptor* masker : AllMaskers()) {
    const std::string text = MinimalEntry(*masker);
    SA_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(text));
    if (absl::StrContains(text, "\"...\"")) continue;
    SA_EXPECT_OK(MaskerFromJson(json, {})) << text;
  }
}

TEST(MaskersMarkdown, HasARowAndASectionForEachMasker) {
  const MaskerDescriptor* sink = *FindMasker("sink");
  const MaskerDescriptor* local = *FindMasker("local");
  const std::string text = MaskersMarkdown({sink, local});
  EXPECT_THAT(text,
              HasSubstr("| [`sink`](#sink) | fixed | The first keys of the sequence. | none | "
                        "nothing |  |\n"));
  EXPECT_THAT(text, HasSubstr("\n### sink\nThe first keys of the sequence.\n\n- Source: Xiao"));
  EXPECT_THAT(text, HasSubstr("| `sink_size` | integer (count) or float (fraction) | must be > 0 | "
                              "required | Leading keys kept. |\n\n```json\n{\"type\": \"sink\", "
                              "\"sink_size\": 4}\n```\n"));
  EXPECT_THAT(text, HasSubstr("It may clear keys that earlier maskers kept."));
  MaskerDescriptor piped = *sink;
  piped.reads = "|q|";
  EXPECT_THAT(MaskersMarkdown({&piped}), HasSubstr("| none | \\|q\\| |"));
}

TEST(ReplaceGenerated, TouchesWhatStandsBetweenTheMarksOnly) {
  constexpr char kDocument[] =
      "a\n<!-- generated: sah maskers markdown -->\nold\n<!-- end -->\nb\n";
  EXPECT_THAT(ReplaceGenerated(kDocument, "new\n"),
              IsOkAndHolds("a\n<!-- generated: sah maskers markdown -->\nnew\n<!-- end -->\nb\n"));
  for (const char* document : {"", "<!-- generated: sah maskers markdown -->\n",
                               "<!-- end -->\n<!-- generated: sah maskers markdown -->\n"}) {
    EXPECT_THAT(ReplaceGenerated(document, ""),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("must have the lines")));
  }
}

}  // namespace
}  // namespace sparse_attention
