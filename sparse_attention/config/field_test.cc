#include "sparse_attention/config/field.h"

#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {

// Outside the anonymous namespace, so that EnumNames can be specialised.
enum class TestMetric { kEuclidean, kInnerProduct };
template <>
struct EnumNames<TestMetric> {
  static constexpr std::pair<TestMetric, const char*> kTable[] = {
      {TestMetric::kEuclidean, "euclidean"}, {TestMetric::kInnerProduct, "ip"}};
};

namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct SinkConfig {
  static constexpr char kName[] = "sink";
  Budget sink_size = Budget::Count(4);
  static auto Fields() {
    return std::tuple(
        Field{"sink_size", &SinkConfig::sink_size, "Leading keys kept.", PositiveBudget()},
        IgnoredField{"search_space"});
  }
};

struct CausalConfig {
  static constexpr char kName[] = "causal";
  static auto Fields() { return std::tuple(); }
};

struct TopKConfig {
  Budget heavy_size;
  static auto Fields() {
    return std::tuple(
        Field{"heavy_size", &TopKConfig::heavy_size, "Keys kept.", PositiveBudget(), Required()});
  }
};

// Extends another list and has a rule over two fields.
struct PqConfig : TopKConfig {
  static constexpr char kName[] = "pq_cache";
  int64_t bits = 6;
  int64_t iterations = 10;
  TestMetric metric = TestMetric::kEuclidean;
  static auto Fields() {
    return std::tuple_cat(
        TopKConfig::Fields(),
        std::tuple(Field{"bits", &PqConfig::bits, "Bits of a code.", InLeftOpen(0, 16)},
                   Field{"iterations", &PqConfig::iterations, "k-means steps.", Positive()},
                   Field{"metric", &PqConfig::metric, "Distance."}));
  }
  absl::Status Validate() const {
    if (bits > iterations) return absl::InvalidArgumentError("bits must not exceed iterations");
    return absl::OkStatus();
  }
};

struct PartConfig {
  static constexpr char kPath[] = "part";
  double weight = 0.5;
  static auto Fields() {
    return std::tuple(Field{"weight", &PartConfig::weight, "Share.", InOpen(0, 1)});
  }
  absl::Status Validate() const {
    if (weight == 0.25) return absl::InvalidArgumentError("a quarter is not allowed");
    return absl::OkStatus();
  }
};

struct EveryTypeConfig {
  static constexpr char kName[] = "every_type";
  bool flag = true;
  int64_t integer = -1;
  uint64_t seed = 42;
  double number = 0.5;
  double top_p = 1.0;
  std::string text = "a";
  Budget rate = Budget::Fraction(0.02);
  TestMetric metric = TestMetric::kInnerProduct;
  std::optional<int64_t> limit;
  std::optional<std::string> file = "f";
  std::vector<double> numbers = {1.0};
  std::vector<std::string> names;
  std::vector<std::optional<int64_t>> gaps;
  PartConfig part;
  std::vector<PartConfig> parts;
  std::optional<SinkConfig> sink;
  Json anything = Json::object();
  static auto Fields() {
    using C = EveryTypeConfig;
    return std::tuple(
        Field{"flag", &C::flag, "A flag."}, Field{"integer", &C::integer, "An integer."},
        Field{"seed", &C::seed, "A seed."}, Field{"number", &C::number, "A number.", NonNegative()},
        Field{"top_p", &C::top_p, "Mass.", InClosed(0, 1).Says("must be in range [0, 1]"),
              FloatOnly()},
        Field{"text", &C::text, "A text.", NonEmpty()},
        Field{"rate", &C::rate, "A budget.",
              CountOrFraction(NonNegative().Says("must be non-negative"), InRightOpen(0, 1))},
        Field{"metric", &C::metric, "A metric."}, Field{"limit", &C::limit, "A limit.", AtLeast(2)},
        Field{"file", &C::file, "A file."},
        Field{"numbers", &C::numbers, "Numbers.", Positive(), NonEmpty()},
        Field{"names", &C::names, "Names."}, Field{"gaps", &C::gaps, "Gaps."},
        Field{"part", &C::part, "A part."}, Field{"parts", &C::parts, "Parts."},
        Field{"sink", &C::sink, "A sink."}, Field{"anything", &C::anything, "An object."});
  }
};

template <class C>
std::string Error(absl::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(text);
  SA_CHECK_OK(json.status());
  const absl::Status status = ConfigFromJson<C>(*json).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

template <class C>
C Read(absl::string_view text) {
  const absl::StatusOr<Json> json = ParseJson(text);
  SA_CHECK_OK(json.status());
  absl::StatusOr<C> config = ConfigFromJson<C>(*json);
  SA_CHECK_OK(config.status());
  return *config;
}

TEST(ConfigFromJson, DefaultsAndValues) {
  EXPECT_EQ(Read<SinkConfig>("{}").sink_size, Budget::Count(4));
  EXPECT_EQ(Read<SinkConfig>(R"({"type": "sink"})").sink_size, Budget::Count(4));
  EXPECT_EQ(Read<SinkConfig>(R"({"sink_size": 1})").sink_size, Budget::Count(1));
  EXPECT_EQ(Read<SinkConfig>(R"({"sink_size": 1.0})").sink_size, Budget::Fraction(1.0));
  EXPECT_EQ(Read<SinkConfig>(R"({"search_space": {"a": [1]}, "sink_size": 2})").sink_size,
            Budget::Count(2));
  Read<CausalConfig>(R"({"type": "causal"})");
  const PqConfig pq = Read<PqConfig>(R"({"heavy_size": 0.02, "metric": "ip"})");
  EXPECT_EQ(pq.heavy_size, Budget::Fraction(0.02));
  EXPECT_EQ(pq.metric, TestMetric::kInnerProduct);
}

TEST(ConfigFromJson, ObjectsOfTheRightTypeOnly) {
  EXPECT_EQ(Error<SinkConfig>("[]"), "sink must be an object, got []");
  EXPECT_EQ(Error<SinkConfig>("null"), "sink must be an object, got null");
  EXPECT_EQ(Error<SinkConfig>(R"({"type": "local"})"),
            "sink must have the type \"sink\", got \"local\"");
  EXPECT_EQ(Error<SinkConfig>(R"({"type": 3})"), "sink must have the type \"sink\", got 3");
}

TEST(ConfigFromJson, UnknownFieldNamesTheNearest) {
  EXPECT_EQ(Error<SinkConfig>(R"({"size": 4})"),
            "sink has no field \"size\" (did you mean \"sink_size\"? fields: sink_size)");
  EXPECT_EQ(Error<PqConfig>(R"({"heavy_size": 1, "heavysize": 4})"),
            "pq_cache has no field \"heavysize\" (did you mean \"heavy_size\"? fields: "
            "heavy_size, bits, iterations, metric)");
  EXPECT_EQ(Error<CausalConfig>(R"({"window": 4})"),
            "causal has no field \"window\" (it has no fields)");
  EXPECT_EQ(Error<SinkConfig>(R"({"": 4})"),
            "sink has no field \"\" (did you mean \"sink_size\"? fields: sink_size)");
  // A part has no type, so "type" is a field like any other.
  EXPECT_THAT(Error<EveryTypeConfig>(R"({"part": {"type": "part"}})"),
              HasSubstr("every_type.part has no field \"type\""));
  EXPECT_THAT(Error<SinkConfig>("{\"" + std::string(100000, 'x') + "\": 1}"),
              AllOf(HasSubstr("xxx..."), ::testing::Not(HasSubstr(std::string(90, 'x')))));
}

TEST(ConfigFromJson, WrongKindsOfJson) {
  const auto error = [](const std::string& member) {
    return Error<EveryTypeConfig>("{" + member + "}");
  };
  EXPECT_EQ(Error<SinkConfig>(R"({"sink_size": "many"})"),
            "sink.sink_size must be an integer (count) or a float (fraction), got \"many\"");
  EXPECT_EQ(error(R"("flag": 1)"), "every_type.flag must be true or false, got 1");
  EXPECT_EQ(error(R"("integer": 1.0)"), "every_type.integer must be an integer, got 1.0");
  EXPECT_EQ(error(R"("integer": true)"), "every_type.integer must be an integer, got true");
  EXPECT_EQ(error(R"("integer": 9223372036854775808)"),
            "every_type.integer must fit in a signed 64-bit integer, got 9223372036854775808");
  EXPECT_EQ(error(R"("seed": -1)"), "every_type.seed must be a non-negative integer, got -1");
  EXPECT_EQ(error(R"("seed": 1.5)"), "every_type.seed must be a non-negative integer, got 1.5");
  EXPECT_EQ(error(R"("number": "1")"), "every_type.number must be a number, got \"1\"");
  EXPECT_EQ(error(R"("number": null)"), "every_type.number must be a number, got null");
  EXPECT_EQ(error(R"("top_p": 1)"), "every_type.top_p must be a float, got 1");
  EXPECT_EQ(error(R"("text": 1)"), "every_type.text must be a string, got 1");
  EXPECT_EQ(error(R"("rate": true)"),
            "every_type.rate must be an integer (count) or a float (fraction), got true");
  EXPECT_EQ(error(R"("rate": 9223372036854775808)"),
            "every_type.rate must fit in a signed 64-bit integer, got 9223372036854775808");
  EXPECT_EQ(error(R"("metric": "cosine")"),
            "every_type.metric must be 'euclidean' or 'ip', got \"cosine\"");
  EXPECT_EQ(error(R"("metric": 0)"), "every_type.metric must be 'euclidean' or 'ip', got 0");
  EXPECT_EQ(error(R"("limit": "x")"), "every_type.limit must be an integer, got \"x\"");
  EXPECT_EQ(error(R"("numbers": 1.0)"), "every_type.numbers must be a list, got 1.0");
  EXPECT_EQ(error(R"("numbers": [1.0, "x"])"), "every_type.numbers[1] must be a number, got \"x\"");
  EXPECT_EQ(error(R"("gaps": [1, null, 2.5])"), "every_type.gaps[2] must be an integer, got 2.5");
  EXPECT_EQ(error(R"("part": 1)"), "every_type.part must be an object, got 1");
  EXPECT_EQ(error(R"("parts": [{}, {"weight": "x"}])"),
            "every_type.parts[1].weight must be a number, got \"x\"");
  EXPECT_EQ(error(R"("sink": {"type": "local"})"),
            "every_type.sink must have the type \"sink\", got \"local\"");
  EXPECT_EQ(error(R"("anything": [])"), "every_type.anything must be an object, got []");
}

TEST(ConfigFromJson, BrokenRules) {
  const auto error = [](const std::string& member) {
    return Error<EveryTypeConfig>("{" + member + "}");
  };
  EXPECT_EQ(Error<SinkConfig>(R"({"sink_size": 0})"), "sink.sink_size must be > 0, got 0");
  EXPECT_EQ(Error<SinkConfig>(R"({"sink_size": -0.5})"), "sink.sink_size must be > 0, got -0.5");
  EXPECT_EQ(Error<PqConfig>("{}"), "pq_cache.heavy_size is required");
  EXPECT_EQ(Error<PqConfig>(R"({"heavy_size": 1, "bits": 17})"),
            "pq_cache.bits must be in (0, 16], got 17");
  EXPECT_EQ(Error<PqConfig>(R"({"heavy_size": 1, "bits": 9007199254740993})"),
            "pq_cache.bits must be in (0, 16], got 9007199254740993");
  EXPECT_EQ(error(R"("number": -1)"), "every_type.number must be >= 0, got -1.0");
  EXPECT_EQ(error(R"("top_p": 1.5)"), "every_type.top_p must be in range [0, 1], got 1.5");
  EXPECT_EQ(error(R"("text": "")"), "every_type.text must not be empty, got \"\"");
  EXPECT_EQ(error(R"("rate": -1)"), "every_type.rate must be non-negative if int, got -1");
  EXPECT_EQ(error(R"("rate": 1.0)"), "every_type.rate must be in [0, 1) if float, got 1.0");
  EXPECT_EQ(error(R"("limit": 1)"), "every_type.limit must be >= 2, got 1");
  EXPECT_EQ(error(R"("numbers": [])"), "every_type.numbers must not be empty, got []");
  EXPECT_EQ(error(R"("numbers": [1, 0])"), "every_type.numbers[1] must be > 0, got 0.0");
  EXPECT_EQ(error(R"("part": {"weight": 1})"), "every_type.part.weight must be in (0, 1), got 1.0");
  EXPECT_EQ(error(R"("sink": {"sink_size": 0})"), "every_type.sink.sink_size must be > 0, got 0");
}

TEST(ConfigFromJson, StructRulesComeAfterTheFields) {
  EXPECT_EQ(Error<PqConfig>(R"({"heavy_size": 1, "bits": 8, "iterations": 7})"),
            "pq_cache: bits must not exceed iterations");
  EXPECT_EQ(Error<PqConfig>(R"({"heavy_size": 0, "bits": 8, "iterations": 7})"),
            "pq_cache.heavy_size must be > 0, got 0");
  EXPECT_EQ(Error<EveryTypeConfig>(R"({"parts": [{}, {"weight": 0.25}]})"),
            "every_type.parts[1]: a quarter is not allowed");
}

TEST(ConfigFromJson, NumbersTakeIntegersUnlessTheFieldSaysFloatOnly) {
  EXPECT_EQ(Read<EveryTypeConfig>(R"({"number": 3})").number, 3.0);
  EXPECT_EQ(Read<EveryTypeConfig>(R"({"top_p": 0.0})").top_p, 0.0);
}

TEST(Validate, ChecksConfigsMadeInCode) {
  EveryTypeConfig config;
  SA_EXPECT_OK(Validate(config));
  config.number = kNaN;
  EXPECT_THAT(Validate(config), StatusIs(absl::StatusCode::kInvalidArgument,
                                         "every_type.number must be >= 0, got nan"));
  config = {};
  config.rate = Budget::Fraction(std::numeric_limits<double>::infinity());
  EXPECT_THAT(Validate(config), StatusIs(absl::StatusCode::kInvalidArgument,
                                         "every_type.rate must be in [0, 1) if float, got inf"));
  config = {};
  config.metric = static_cast<TestMetric>(7);
  EXPECT_THAT(Validate(config),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "every_type.metric must be 'euclidean' or 'ip', got value 7"));
  PqConfig pq;  // heavy_size has no default that is valid
  EXPECT_THAT(Validate(pq), StatusIs(absl::StatusCode::kInvalidArgument,
                                     "pq_cache.heavy_size must be > 0, got 0"));
}

TEST(ConfigToJson, WritesEveryFieldInOrder) {
  EXPECT_EQ(DumpJson(ConfigToJson(SinkConfig())), R"({"type":"sink","sink_size":4})");
  EXPECT_EQ(DumpJson(ConfigToJson(CausalConfig())), R"({"type":"causal"})");
  EXPECT_EQ(DumpJson(ConfigToJson(EveryTypeConfig())),
            R"({"type":"every_type","flag":true,"integer":-1,"seed":42,"number":0.5,"top_p":1.0,)"
            R"("text":"a","rate":0.02,"metric":"ip","limit":null,"file":"f","numbers":[1.0],)"
            R"("names":[],"gaps":[],"part":{"weight":0.5},"parts":[],"sink":null,"anything":{}})");
}

TEST(ConfigToJson, NullReplacesADefaultThatIsPresent) {
  EveryTypeConfig config;
  config.file.reset();
  SA_ASSERT_OK_AND_ASSIGN(const EveryTypeConfig again,
                          ConfigFromJson<EveryTypeConfig>(ConfigToJson(config)));
  EXPECT_EQ(again.file, std::nullopt);
  EXPECT_TRUE(ConfigEquals(config, again));
  EXPECT_FALSE(ConfigEquals(EveryTypeConfig(), again));
}

// A random valid config.
EveryTypeConfig RandomConfig(std::mt19937_64& random) {
  const auto uniform = [&random] { return (random() >> 11) * 0x1p-53; };
  const auto coin = [&random] { return random() % 2 == 0; };
  const auto text = [&random] {
    const char* kPieces[] = {"a", "\"", "\\", "ü", "\n", "\x7f", "𝛿", "/"};
    std::string out = "t";
    for (int i = 0, n = random() % 6; i < n; ++i) out += kPieces[random() % 8];
    return out;
  };
  EveryTypeConfig config;
  config.flag = coin();
  config.integer = static_cast<int64_t>(random());
  config.seed = random();
  config.number =
      coin() ? uniform() * 1e10 : std::ldexp(uniform(), -static_cast<int>(random() % 1060));
  config.top_p = coin() ? uniform() : static_cast<double>(random() % 2);
  config.text = text();
  config.rate = coin() ? Budget::Count(random() >> 1) : Budget::Fraction(uniform());
  config.metric = coin() ? TestMetric::kEuclidean : TestMetric::kInnerProduct;
  if (coin()) config.limit = 2 + static_cast<int64_t>(random() >> 2);
  if (coin()) config.file.reset();
  for (int i = 0, n = random() % 4; i < n; ++i) config.numbers.push_back(uniform() + 1e-9);
  for (int i = 0, n = random() % 4; i < n; ++i) config.names.push_back(text());
  for (int i = 0, n = random() % 4; i < n; ++i) {
    config.gaps.push_back(coin() ? std::optional<int64_t>(random()) : std::nullopt);
  }
  config.part.weight = 0.3 + 0.6 * uniform();
  config.parts.resize(random() % 3);
  if (coin()) config.sink = SinkConfig{Budget::Count(1 + random() % 9)};
  if (coin()) config.anything["key"] = coin() ? Json(1) : Json(1.0);
  return config;
}

TEST(RoundTrip, RandomConfigsComeBackEqual) {
  std::mt19937_64 random(2024);
  EveryTypeConfig previous;
  for (int trial = 0; trial < 2000; ++trial) {
    const EveryTypeConfig config = RandomConfig(random);
    const std::string text = DumpJson(ConfigToJson(config));
    SA_ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(text));
    SA_ASSERT_OK_AND_ASSIGN(const EveryTypeConfig again, ConfigFromJson<EveryTypeConfig>(json));
    ASSERT_TRUE(ConfigEquals(config, again)) << text;
    ASSERT_EQ(DumpJson(ConfigToJson(again)), text);
    ASSERT_FALSE(ConfigEquals(config, previous));
    previous = config;
  }
}

TEST(ConfigEquals, SeesEveryField) {
  const EveryTypeConfig base;
  const auto differs = [&base](const auto& change) {
    EveryTypeConfig changed;
    change(changed);
    return !ConfigEquals(base, changed) && !ConfigEquals(changed, base);
  };
  EXPECT_TRUE(ConfigEquals(base, EveryTypeConfig()));
  EXPECT_TRUE(differs([](auto& c) { c.flag = false; }));
  EXPECT_TRUE(differs([](auto& c) { c.integer = 0; }));
  EXPECT_TRUE(differs([](auto& c) { c.seed = 0; }));
  EXPECT_TRUE(differs([](auto& c) { c.number = 0; }));
  EXPECT_TRUE(differs([](auto& c) { c.top_p = 0; }));
  EXPECT_TRUE(differs([](auto& c) { c.text = "b"; }));
  EXPECT_TRUE(differs([](auto& c) { c.rate = Budget::Count(1); }));
  EXPECT_TRUE(differs([](auto& c) { c.metric = TestMetric::kEuclidean; }));
  EXPECT_TRUE(differs([](auto& c) { c.limit = 3; }));
  EXPECT_TRUE(differs([](auto& c) { c.file = "g"; }));
  EXPECT_TRUE(differs([](auto& c) { c.numbers = {2.0}; }));
  EXPECT_TRUE(differs([](auto& c) { c.names = {""}; }));
  EXPECT_TRUE(differs([](auto& c) { c.gaps = {std::nullopt}; }));
  EXPECT_TRUE(differs([](auto& c) { c.part.weight = 0.75; }));
  EXPECT_TRUE(differs([](auto& c) { c.parts.emplace_back(); }));
  EXPECT_TRUE(differs([](auto& c) { c.sink.emplace(); }));
  EXPECT_TRUE(differs([](auto& c) { c.anything["a"] = 1; }));
}

TEST(DocumentFields, SaysEverythingAboutAField) {
  const std::vector<FieldDoc> sink = DocumentFields<SinkConfig>();
  ASSERT_EQ(sink.size(), 1u);
  EXPECT_EQ(sink[0].name, "sink_size");
  EXPECT_EQ(sink[0].type, "integer (count) or float (fraction)");
  EXPECT_EQ(sink[0].default_json, "4");
  EXPECT_EQ(sink[0].rule, "must be > 0");
  EXPECT_EQ(sink[0].doc, "Leading keys kept.");
  EXPECT_FALSE(sink[0].required);

  const std::vector<FieldDoc> pq = DocumentFields<PqConfig>();
  ASSERT_EQ(pq.size(), 4u);
  EXPECT_EQ(pq[0].name, "heavy_size");
  EXPECT_EQ(pq[0].default_json, "");
  EXPECT_EQ(pq[0].example_json, DumpJson(FieldValue<Budget>::Write(PqConfig().heavy_size)));
  EXPECT_TRUE(pq[0].required);
  EXPECT_EQ(pq[3].type, "'euclidean' or 'ip'");
  EXPECT_EQ(pq[3].default_json, "\"euclidean\"");
  EXPECT_EQ(pq[3].rule, "");

  std::vector<std::string> types;
  for (const FieldDoc& doc : DocumentFields<EveryTypeConfig>()) types.push_back(doc.type);
  EXPECT_THAT(types, ElementsAre("boolean", "integer", "non-negative integer", "number", "number",
                                 "string", "integer (count) or float (fraction)",
                                 "'euclidean' or 'ip'", "integer or null", "string or null",
                                 "list of number", "list of string", "list of integer or null",
                                 "part", "list of part", "sink or null", "object"));
  EXPECT_TRUE(DocumentFields<CausalConfig>().empty());
}

TEST(ConfigSchema, DescribesTheObject) {
  EXPECT_EQ(DumpJson(ConfigSchema<SinkConfig>()),
            R"({"title":"sink","type":"object","properties":{"type":{"const":"sink"},)"
            R"("sink_size":{"type":"number","exclusiveMinimum":0,"default":4,)"
            R"("description":"Leading keys kept."},)"
            R"("search_space":{"description":"Accepted and ignored.","deprecated":true}},)"
            R"("additionalProperties":false})");
  EXPECT_EQ(DumpJson(ConfigSchema<PqConfig>()),
            R"({"title":"pq_cache","type":"object","properties":{"type":{"const":"pq_cache"},)"
            R"("heavy_size":{"type":"number","exclusiveMinimum":0,"description":"Keys kept."},)"
            R"("bits":{"type":"integer","exclusiveMinimum":0,"maximum":16,"default":6,)"
            R"("description":"Bits of a code."},)"
            R"("iterations":{"type":"integer","exclusiveMinimum":0,"default":10,)"
            R"("description":"k-means steps."},)"
            R"("metric":{"enum":["euclidean","ip"],"default":"euclidean",)"
            R"("description":"Distance."}},"required":["heavy_size"],)"
            R"("additionalProperties":false})");
}

TEST(ConfigSchema, DescribesEveryType) {
  const Json properties = ConfigSchema<EveryTypeConfig>()["properties"];
  const auto schema = [&properties](const char* name) {
    Json property = properties[name];
    EXPECT_TRUE(property.contains("default")) << name;
    EXPECT_TRUE(property["description"].is_string()) << name;
    property.erase("default");
    property.erase("description");
    return DumpJson(property);
  };
  EXPECT_EQ(schema("flag"), R"({"type":"boolean"})");
  EXPECT_EQ(schema("integer"), R"({"type":"integer"})");
  EXPECT_EQ(schema("seed"), R"({"type":"integer","minimum":0})");
  EXPECT_EQ(schema("number"), R"({"type":"number","minimum":0})");
  EXPECT_EQ(schema("top_p"), R"({"type":"number","minimum":0,"maximum":1})");
  EXPECT_EQ(schema("text"), R"({"type":"string","minLength":1})");
  EXPECT_EQ(schema("rate"), R"({"anyOf":[{"type":"integer","minimum":0},)"
                            R"({"type":"number","minimum":0,"exclusiveMaximum":1}]})");
  EXPECT_EQ(schema("limit"), R"({"anyOf":[{"type":"integer","minimum":2},{"type":"null"}]})");
  EXPECT_EQ(schema("file"), R"({"anyOf":[{"type":"string"},{"type":"null"}]})");
  EXPECT_EQ(schema("numbers"),
            R"({"type":"array","items":{"type":"number","exclusiveMinimum":0},"minItems":1})");
  EXPECT_EQ(schema("gaps"),
            R"({"type":"array","items":{"anyOf":[{"type":"integer"},{"type":"null"}]}})");
  EXPECT_EQ(schema("anything"), R"({"type":"object"})");
  EXPECT_EQ(properties["part"]["properties"]["weight"]["exclusiveMaximum"], 1);
  EXPECT_EQ(properties["parts"]["items"]["additionalProperties"], false);
  EXPECT_EQ(properties["sink"]["anyOf"][0]["title"], "sink");
}

TEST(NearestName, SmallestEditDistanceAndTheFirstAmongEquals) {
  const std::vector<std::string> names = {"sink_size", "window_size", "top_p"};
  EXPECT_EQ(NearestName("sink_sise", names), "sink_size");
  EXPECT_EQ(NearestName("windowsize", names), "window_size");
  EXPECT_EQ(NearestName("p", names), "top_p");
  EXPECT_EQ(NearestName("top_p", names), "top_p");
  EXPECT_EQ(NearestName("ax", {"bx", "cx"}), "bx");
  EXPECT_EQ(NearestName("anything", {}), "");
  const std::vector<std::string> maskers = {"sink", "quest_top_k", "quest_top_p"};
  EXPECT_EQ(NearestName("quest", maskers), "quest_top_k");
  EXPECT_EQ(NearestName("qu", maskers), "sink");  // too short to tell
}

}  // namespace
}  // namespace sparse_attention
