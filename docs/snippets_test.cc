// Code that the documentation quotes is code that is built: a block after a comment that names a
// file must stand in that file, line by line.
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

struct Snippet {
  std::string file;
  std::string text;  // whole lines
  size_t line;       // of the comment, from 1
};

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path << " cannot be read: is it among the data of this test?";
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// Blocks that follow "<!-- path -->" directly.
std::vector<Snippet> SnippetsOf(const std::string& document) {
  const std::vector<std::string> lines = absl::StrSplit(document, '\n');
  std::vector<Snippet> snippets;
  for (size_t i = 0; i + 1 < lines.size(); ++i) {
    absl::string_view name = lines[i];
    if (!absl::ConsumePrefix(&name, "<!-- ") || !absl::ConsumeSuffix(&name, " -->")) continue;
    if (!absl::StartsWith(lines[i + 1], "```")) continue;
    Snippet snippet{std::string(name), "", i + 1};
    for (size_t j = i + 2; j < lines.size() && lines[j] != "```"; ++j) {
      snippet.text += lines[j] + "\n";
    }
    snippets.push_back(snippet);
  }
  return snippets;
}

bool HasLines(const std::string& source, const std::string& lines) {
  return absl::StartsWith(source, lines) || absl::StrContains(source, "\n" + lines);
}

TEST(Snippets, AreFoundWithTheirFile) {
  const auto snippets =
      SnippetsOf("a\n<!-- b/c.h -->\n```cpp\nint x;\n\nint y;\n```\n```\nz\n```\n");
  ASSERT_EQ(snippets.size(), 1u);
  EXPECT_EQ(snippets[0].file, "b/c.h");
  EXPECT_EQ(snippets[0].text, "int x;\n\nint y;\n");
  EXPECT_EQ(snippets[0].line, 2u);
  EXPECT_TRUE(HasLines("int w;\nint x;\n\nint y;\n", snippets[0].text));
  EXPECT_FALSE(HasLines("int w;\nint x;\nint y;\n", snippets[0].text));
  EXPECT_FALSE(HasLines("unsigned int x;\n\nint y;\n", snippets[0].text));
}

// The document and how many snippets it has: none may be lost unseen.
class Document : public ::testing::TestWithParam<std::pair<const char*, size_t>> {};

TEST_P(Document, QuotesWhatStandsInTheSource) {
  const auto [path, count] = GetParam();
  const std::vector<Snippet> snippets = SnippetsOf(ReadFile(path));
  EXPECT_EQ(snippets.size(), count);
  for (const Snippet& snippet : snippets) {
    EXPECT_TRUE(HasLines(ReadFile(snippet.file), snippet.text))
        << path << ":" << snippet.line << ": this is not in " << snippet.file << ":\n"
        << snippet.text;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Document,
                         ::testing::Values(std::pair("docs/adding_a_masker.md", size_t{15}),
                                           std::pair("README.md", size_t{2})));

}  // namespace
}  // namespace sparse_attention
