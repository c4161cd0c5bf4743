#include "sparse_attention/research_attention/maskers/registry.h"

#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/research_attention/maskers/masker_testing.h"

namespace sparse_attention {
namespace {

using ::testing::HasSubstr;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const MaskerDescriptor* descriptor : AllMaskers()) names.emplace_back(descriptor->name);
  return names;
}

constexpr char kFolder[] = "sparse_attention/research_attention/maskers/";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

// The names in sa_masker(name = "...") of a BUILD file.
std::set<std::string> DeclaredIn(const std::string& path) {
  const std::string text = ReadFile(kFolder + path);
  const std::regex entry(R"(\nsa_masker\(\s*name = \"(\w+)\")");
  std::set<std::string> names;
  for (std::sregex_iterator it(text.begin(), text.end(), entry), end; it != end; ++it) {
    names.insert((*it)[1]);
  }
  return names;
}

// A masker that this project does not know.
struct EveryOtherConfig {
  static constexpr char kName[] = "every_other";
  int64_t stride = 2;
  static auto Fields() {
    return std::tuple(Field{"stride", &EveryOtherConfig::stride, "Keys a step.", Positive()});
  }
};

class EveryOther final : public Masker {
 public:
  using Config = EveryOtherConfig;
  EveryOther(const EveryOtherConfig& config, const MaskerOptions& options)
      : Masker(Descriptor(), options), config_(config) {}
  Json ToJson() const override { return ConfigToJson(config_); }
  static const MaskerDescriptor& Descriptor() {
    static const MaskerDescriptor descriptor =
        MakeDescriptor<EveryOther>({.summary = "Every n-th key."});
    return descriptor;
  }

 private:
  absl::StatusOr<Mask> Select(const AttentionInputs& in, const Mask& previous,
                              MaskerState*) const override {
    at::Tensor weights = previous.ToDense();
    for (int64_t j = 0; j < in.keys(); j += config_.stride) weights.select(3, j).fill_(1);
    return Mask::AdoptDense(weights);
  }
  const EveryOtherConfig config_;
};

// "OracleTopK" -> "oracle_top_k"
std::string SnakeCase(const std::string& name) {
  std::string snake;
  for (char c : name) {
    if (absl::ascii_isupper(c) && !snake.empty()) snake += '_';
    snake += absl::ascii_tolower(c);
  }
  return snake;
}

TEST(Registry, ListsMaskersInTheOrderOfTheirList) {
  const std::string text = ReadFile(std::string(kFolder) + "maskers.inc");
  const std::regex entry(R"(\nSA_MASKER\((\w+)\))");
  std::vector<std::string> listed;
  for (std::sregex_iterator it(text.begin(), text.end(), entry), end; it != end; ++it) {
    listed.push_back(SnakeCase((*it)[1]));
  }
  EXPECT_EQ(listed.front(), "sink");
  EXPECT_EQ(Names(), listed);
}

TEST(Registry, ListsExactlyWhatBuildDeclares) {
  std::set<std::string> declared = DeclaredIn("fixed/BUILD");
  declared.merge(DeclaredIn("sampling/BUILD"));
  const std::vector<std::string> names = Names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), declared);
}

TEST(Registry, DescriptorsAreComplete) {
  for (const MaskerDescriptor* descriptor : AllMaskers()) {
    SCOPED_TRACE(descriptor->name);
    EXPECT_STRNE(descriptor->summary, "");
    EXPECT_STRNE(descriptor->source, "");
    EXPECT_EQ(descriptor->schema()["title"], descriptor->name);
    EXPECT_EQ(*FindMasker(descriptor->name), descriptor);
  }
}

TEST(Registry, AnUnknownNameIsAnsweredWithTheNearest) {
  EXPECT_THAT(
      FindMasker("oracle_topk"),
      StatusIs(absl::StatusCode::kNotFound,
               HasSubstr(R"(there is no masker "oracle_topk" (did you mean "oracle_top_k"?)")));
  EXPECT_THAT(FindMasker("sinks"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("maskers: sink, local, causal, ")));
}

TEST(MaskerFromJson, CreatesWhatTheTypeNames) {
  for (const char* json :
       {R"({"type": "sink", "sink_size": 4})", R"({"type": "local", "window_size": 0.25})",
        R"({"type": "causal"})", R"({"type": "oracle_top_k", "heavy_size": 1.0})"}) {
    SA_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Masker> masker,
                            MaskerFromJson(ParsedJson(json), {.seed = 5}));
    EXPECT_TRUE(JsonEquals(masker->ToJson(), ParsedJson(json))) << DumpJson(masker->ToJson());
    EXPECT_EQ(masker->options().seed, 5u);
  }
}

TEST(MaskerFromJson, NamesWhatIsWrong) {
  const auto create = [](const Json& json) { return MaskerFromJson(json, MaskerOptions()); };
  for (const char* json : {"[]", "4", "null", "{}", R"({"type": 4})", R"({"sink_size": 4})"}) {
    EXPECT_THAT(create(ParsedJson(json)),
                StatusIs(kInvalid, HasSubstr("a masker must be an object with a string \"type\"")));
  }
  EXPECT_THAT(create({{"type", "sinc"}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(R"(did you mean "sink"?)")));
  EXPECT_THAT(create({{"type", "sink"}, {"sink_size", 0}}),
              StatusIs(kInvalid, "sink.sink_size must be > 0, got 0"));
}

TEST(MaskerFromJson, SurvivesTextThatIsNotUtf8) {
  EXPECT_THAT(MaskerFromJson({{"typ", "\xff"}}, MaskerOptions()), StatusIs(kInvalid));
  EXPECT_THAT(MaskerFromJson({{"type", "\xff"}}, MaskerOptions()),
              StatusIs(absl::StatusCode::kNotFound));
}

// Last: it changes what AllMaskers lists.
TEST(RegisterMasker, AddsOneFromOutside) {
  EXPECT_THAT(FindMasker("every_other"), StatusIs(absl::StatusCode::kNotFound));
  SA_ASSERT_OK(RegisterMasker(EveryOther::Descriptor()));
  EXPECT_EQ(Names().back(), "every_other");
  SA_ASSERT_OK_AND_ASSIGN(
      const std::unique_ptr<Masker> masker,
      MaskerFromJson(ParsedJson(R"({"type": "every_other", "stride": 3})"), {}));
  const AttentionInputs in = RandomInputs({.heads = 1, .kv_heads = 1, .queries = 1, .keys = 7});
  SA_ASSERT_OK_AND_ASSIGN(const Mask mask,
                          masker->AddMask(in, Mask::MakeEmpty(in.mask_shape()), nullptr));
  EXPECT_EQ(MaskRow(mask, 0, 0, 0), "1..1..1");
  // Its own name, and that of a masker that ships, are taken.
  EXPECT_THAT(
      RegisterMasker(EveryOther::Descriptor()),
      StatusIs(absl::StatusCode::kAlreadyExists, "a masker \"every_other\" is registered already"));
  static MaskerDescriptor sink = EveryOther::Descriptor();
  sink.name = "sink";
  EXPECT_THAT(RegisterMasker(sink), StatusIs(absl::StatusCode::kAlreadyExists));
}

}  // namespace
}  // namespace sparse_attention
