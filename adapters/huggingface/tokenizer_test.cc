#include "adapters/huggingface/tokenizer.h"

#include <fstream>
#include <random>
#include <thread>

#include "adapters/huggingface/tokenizer_byte_level.h"
#include "adapters/huggingface/tokenizer_unicode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;
using ::testing::StartsWith;

using Json = nlohmann::json;

constexpr int32_t kThe = 256;    // " the"
constexpr int32_t kBos = 260;    // "<bos>", special
constexpr int32_t kTool = 261;   // "<tool>", not special
constexpr int32_t kSmile = 262;  // "☺ ☺", not in the byte-level alphabet

Json Pair(const char* left, const char* right) { return Json::array({left, right}); }

// Byte b has id b, then " t", "he", " the", "é" and three added tokens; Llama's kind of pipeline.
Json Small() {
  Json vocab;
  for (int byte = 0; byte < 256; ++byte)
    vocab[ByteLevelCharacter(static_cast<uint8_t>(byte))] = byte;
  vocab["Ġthe"] = kThe;
  vocab["Ġt"] = 257;
  vocab["he"] = 258;
  vocab["Ã©"] = 259;
  const auto added = [](int id, const char* content, bool special) {
    return Json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  return Json{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens",
       {added(kBos, "<bos>", true), added(kTool, "<tool>", false), added(kSmile, "☺ ☺", false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern", {{"Regex", " ?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"}}},
           {"behavior", "Isolated"},
           {"invert", false}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<bos>"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"special_tokens",
         {{"<bos>", {{"id", "<bos>"}, {"ids", {kBos}}, {"tokens", {"<bos>"}}}}}}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"vocab", vocab},
        {"merges",
         Json::array({Pair("Ġ", "t"), Pair("h", "e"), Pair("Ġt", "he"), Pair("Ã", "©")})}}}};
}

std::unique_ptr<Tokenizer> Load(const Json& json) {
  auto tokenizer = Tokenizer::FromJson(json.dump());
  SA_CHECK_OK(tokenizer);
  return *std::move(tokenizer);
}

TEST(Tokenizer, EncodesAndDecodes) {
  const auto tokenizer = Load(Small());
  EXPECT_THAT(tokenizer->Encode("a the the"), IsOkAndHolds(ElementsAre('a', kThe, kThe)));
  EXPECT_THAT(tokenizer->Encode(""), IsOkAndHolds(IsEmpty()));
  EXPECT_THAT(tokenizer->Encode("e\u0301"), IsOkAndHolds(ElementsAre(259)));  // NFC
  EXPECT_THAT(tokenizer->Encode("1234"), IsOkAndHolds(ElementsAre('1', '2', '3', '4')));
  EXPECT_THAT(tokenizer->Decode({'a', kThe, 259}), IsOkAndHolds(Eq("a theé")));
  EXPECT_THAT(tokenizer->Decode({}), IsOkAndHolds(Eq("")));
}

TEST(Tokenizer, SpecialTokens) {
  const auto tokenizer = Load(Small());
  EXPECT_THAT(tokenizer->Encode("a", /*add_special_tokens=*/true),
              IsOkAndHolds(ElementsAre(kBos, 'a')));
  EXPECT_THAT(tokenizer->Encode("", true), IsOkAndHolds(ElementsAre(kBos)));
  EXPECT_THAT(tokenizer->Encode("<bos>x<tool>"), IsOkAndHolds(ElementsAre(kBos, 'x', kTool)));
  EXPECT_THAT(tokenizer->Decode({kBos, 'x', kTool}), IsOkAndHolds(Eq("x<tool>")));
  EXPECT_THAT(tokenizer->Decode({kBos, 'x'}, /*skip_special_tokens=*/false),
              IsOkAndHolds(Eq("<bos>x")));
  EXPECT_THAT(tokenizer->Decode({kSmile}), IsOkAndHolds(Eq("☺ ☺")));
}

TEST(Tokenizer, TokensByName) {
  const auto tokenizer = Load(Small());
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_THAT(tokenizer->TokenToId("Ġthe"), Optional(kThe));
  EXPECT_THAT(tokenizer->TokenToId("<bos>"), Optional(kBos));
  EXPECT_EQ(tokenizer->TokenToId(" the"), std::nullopt);
  EXPECT_THAT(tokenizer->IdToToken(kThe), IsOkAndHolds(Eq("Ġthe")));
  EXPECT_THAT(tokenizer->IdToToken(263), StatusIs(absl::StatusCode::kInvalidArgument,
                                                  HasSubstr("id 263 (vocabulary size 263)")));
}

TEST(Tokenizer, BadInputIsNamed) {
  const auto tokenizer = Load(Small());
  EXPECT_THAT(tokenizer->Encode("ab\xFF"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at byte 2")));
  EXPECT_THAT(tokenizer->Encode("\xED\xA0\x80"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at byte 0")));
  EXPECT_THAT(tokenizer->Decode({'a', -1}), StatusIs(absl::StatusCode::kInvalidArgument,
                                                     StartsWith("ids[1]: no token has id -1")));
}

TEST(Tokenizer, BrokenBytesDecodeToReplacements) {
  const auto tokenizer = Load(Small());
  EXPECT_THAT(tokenizer->Decode({0xE4, 0xB8, 'x', 0x80}), IsOkAndHolds(Eq("\uFFFDx\uFFFD")));
}

TEST(StreamingDecoder, HoldsBackIncompleteCharacters) {
  const auto tokenizer = Load(Small());
  StreamingDecoder decoder(*tokenizer);
  EXPECT_THAT(decoder.Push(0xF0), IsOkAndHolds(Eq("")));
  EXPECT_THAT(decoder.Push(0x9F), IsOkAndHolds(Eq("")));
  EXPECT_THAT(decoder.Push(kBos), IsOkAndHolds(Eq("")));
  EXPECT_THAT(decoder.Push(1 << 20), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(decoder.Push(0x98), IsOkAndHolds(Eq("")));
  EXPECT_THAT(decoder.Push(0x80), IsOkAndHolds(Eq("😀")));
  EXPECT_THAT(decoder.Push(0xC3), IsOkAndHolds(Eq("")));
  EXPECT_THAT(decoder.Push(kThe), IsOkAndHolds(Eq("\uFFFD the")));
  EXPECT_EQ(decoder.Flush(), "");
  EXPECT_THAT(decoder.Push(0xE4), IsOkAndHolds(Eq("")));
  EXPECT_EQ(decoder.Flush(), "\uFFFD");
  EXPECT_EQ(decoder.Flush(), "");
}

TEST(StreamingDecoder, PartsMakeTheWhole) {
  const auto tokenizer = Load(Small());
  std::mt19937 rng(3);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 40; ++i) ids.push_back(static_cast<int32_t>(rng() % 263));
    StreamingDecoder decoder(*tokenizer, /*skip_special_tokens=*/round % 2 == 0);
    std::string text;
    for (const int32_t id : ids) {
      SA_ASSERT_OK_AND_ASSIGN(const std::string part, decoder.Push(id));
      EXPECT_EQ(FindInvalidUtf8(part), std::nullopt);
      text += part;
    }
    text += decoder.Flush();
    EXPECT_THAT(tokenizer->Decode(ids, round % 2 == 0), IsOkAndHolds(text));
  }
}

// Without a normalizer, decoding what was encoded gives the text back, whatever it is.
TEST(Tokenizer, RoundTripOfRandomText) {
  Json json = Small();
  json["normalizer"] = nullptr;
  const auto tokenizer = Load(json);
  std::mt19937 rng(4);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string bytes, text;
    for (int i = 0; i < 30; ++i) bytes += static_cast<char>(rng() % (round % 2 == 0 ? 256 : 128));
    if (!tokenizer->Encode(bytes).ok()) {
      ++refused;
      MoveUtf8(bytes, /*flush=*/true, text);
    } else {
      text = bytes;
    }
    SA_ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> ids, tokenizer->Encode(text));
    EXPECT_THAT(tokenizer->Decode(ids, /*skip_special_tokens=*/false), IsOkAndHolds(text));
  }
  EXPECT_THAT(refused, AllOf(::testing::Gt(500), ::testing::Lt(1500)));
}

TEST(Tokenizer, ServesSeveralThreads) {
  const auto tokenizer = Load(Small());
  std::string text;
  for (int i = 0; i < 500; ++i) text += "the café " + std::to_string(i * 7919);
  SA_ASSERT_OK_AND_ASSIGN(const std::vector<int32_t> expected, tokenizer->Encode(text));
  std::vector<std::thread> threads;
  std::vector<int> equal(8, 0);
  for (size_t t = 0; t < equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        const auto ids = tokenizer->Encode(text);
        equal[t] += ids.ok() && *ids == expected;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(equal, ::testing::Each(20));
}

TEST(Tokenizer, MergesAsStringsAndModelsWithoutType) {
  Json json = Small();
  json["model"]["merges"] = {"#version: 0.2", "Ġ t", "h e", "Ġt he", "Ã ©"};
  json["model"].erase("type");
  EXPECT_THAT(Load(json)->Encode("a the"), IsOkAndHolds(ElementsAre('a', kThe)));
}

TEST(Tokenizer, TemplatesEncloseEachOther) {
  Json json = Small();
  Json inner = json["post_processor"];
  Json outer = inner;
  outer["single"] = {{{"SpecialToken", {{"id", "x"}}}},
                     {{"Sequence", {{"id", "A"}}}},
                     {{"SpecialToken", {{"id", "x"}}}}};
  outer["special_tokens"] = {{"x", {{"ids", {kTool, 'x'}}}}};
  json["post_processor"] = {{"type", "Sequence"},
                            {"processors", {{{"type", "ByteLevel"}}, inner, outer}}};
  EXPECT_THAT(Load(json)->Encode("a", true),
              IsOkAndHolds(ElementsAre(kTool, 'x', kBos, 'a', kTool, 'x')));
}

TEST(Tokenizer, NormalizedAddedTokensAreFoundInNormalizedText) {
  Json json = Small();
  json["added_tokens"].push_back({{"id", 263}, {"content", "cafe\u0301"}, {"normalized", true}});
  json["added_tokens"].push_back({{"id", 264}, {"content", "no\u0301"}, {"normalized", false}});
  const auto tokenizer = Load(json);
  EXPECT_THAT(tokenizer->Encode("cafe\u0301café"), IsOkAndHolds(ElementsAre(263, 263)));
  EXPECT_THAT(tokenizer->Encode("no\u0301nó"), IsOkAndHolds(ElementsAre(264, 'n', 0xC3, 0xB3)));
  EXPECT_THAT(tokenizer->Decode({263}), IsOkAndHolds(Eq("cafe\u0301")));
}

TEST(Tokenizer, ReadsFiles) {
  const std::string path = ::testing::TempDir() + "/tokenizer.json";
  std::ofstream(path) << Small().dump();
  SA_EXPECT_OK(Tokenizer::FromFile(path));
  std::ofstream(path) << "{";
  EXPECT_THAT(Tokenizer::FromFile(path),
              StatusIs(absl::StatusCode::kInvalidArgument, StartsWith(path + ": ")));
  EXPECT_THAT(Tokenizer::FromFile(path + ".missing"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(".missing")));
}

// The value at a JSON pointer is replaced (or, without `value`, removed); loading then fails so.
struct Defect {
  const char* pointer;
  std::optional<Json> value;
  absl::StatusCode code;
  const char* message;
};

TEST(Tokenizer, DefectsAreNamed) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  const Json bert = {{"type", "BertProcessing"}}, metaspace = {{"type", "Metaspace"}};
  const Defect kDefects[] = {
      {"/model/type", "Unigram", kUnimplemented,
       "tokenizer.json: model type \"Unigram\" is not supported (supported: BPE with byte-level "
       "pre-tokenisation)"},
      {"/model", std::nullopt, kInvalid, "model is missing"},
      {"/model", 3, kInvalid, "model must be an object, got 3"},
      {"/model/vocab", std::nullopt, kInvalid, "model.vocab is missing"},
      {"/model/vocab", Json::array(), kInvalid, "model.vocab must be an object, got []"},
      {"/model/vocab/he", "x", kInvalid, "model.vocab[\"he\"] must be an integer, got \"x\""},
      {"/model/vocab/he", -1, kInvalid, "model.vocab[\"he\"] must be from 0 to 2147483646, got -1"},
      {"/model/vocab/he", 4294967296, kInvalid, "got 4294967296"},
      {"/model/vocab/he", 65, kInvalid, "must be unique"},
      {"/model/merges", std::nullopt, kInvalid, "model.merges is missing"},
      {"/model/merges", "x", kInvalid, "model.merges must be a list, got \"x\""},
      {"/model/merges/1", "a b c", kInvalid, "model.merges[1] must be a pair of tokens"},
      {"/model/merges/1", Json::array({"a"}), kInvalid, "got [\"a\"]"},
      {"/model/merges/1", Json::array({"a", 1}), kInvalid, "got [\"a\",1]"},
      {"/model/merges/1", Json::array({"", "a"}), kInvalid, "must be a pair of tokens"},
      {"/model/merges/2", "he q", kInvalid, "model.merges[2]: token \"heq\" is not in model.vocab"},
      {"/model/dropout", 0.1, kUnimplemented, "model.dropout 0.1 is not supported"},
      {"/model/continuing_subword_prefix", "##", kUnimplemented,
       "model.continuing_subword_prefix \"##\""},
      {"/model/end_of_word_suffix", "</w>", kUnimplemented, "model.end_of_word_suffix \"</w>\""},
      {"/model/ignore_merges", 1, kInvalid, "model.ignore_merges must be true or false, got 1"},
      {"/added_tokens", "x", kInvalid, "added_tokens must be a list, got \"x\""},
      {"/added_tokens/1", 3, kInvalid, "added_tokens[1] must be an object, got 3"},
      {"/added_tokens/1/content", std::nullopt, kInvalid, "added_tokens[1].content is missing"},
      {"/added_tokens/1/content", "", kInvalid, "added_tokens[1].content must not be empty"},
      {"/added_tokens/1/content", "<bos>", kInvalid,
       "added_tokens[1].content must be unique (see added_tokens[0]), got \"<bos>\""},
      {"/added_tokens/1/id", std::nullopt, kInvalid, "added_tokens[1].id is missing"},
      {"/added_tokens/1/id", 300, kInvalid,
       "added_tokens[1].id of \"<tool>\" must be 261, the next free id"},
      {"/added_tokens/1/id", 260, kInvalid, "must be 261"},
      {"/added_tokens/1/content", "he", kInvalid,
       "added_tokens[1].id of \"he\" must be 258, its id in model.vocab, got 261"},
      {"/added_tokens/1/lstrip", "yes", kInvalid,
       "added_tokens[1].lstrip must be true or false, got \"yes\""},
      {"/model/vocab/he", 260, kInvalid,
       "added_tokens[0].id must be unique (token \"he\" has the same id), got 260"},
      {"/normalizer/type", "NFKC", kUnimplemented,
       "normalizer: type \"NFKC\" is not supported (supported: null, NFC)"},
      {"/normalizer/type", std::nullopt, kInvalid, "normalizer.type is missing"},
      {"/normalizer", "NFC", kInvalid, "normalizer must be an object, got \"NFC\""},
      {"/pre_tokenizer", nullptr, kUnimplemented,
       "pre_tokenizer: one without ByteLevel is not supported"},
      {"/pre_tokenizer", metaspace, kUnimplemented,
       "pre_tokenizer: type \"Metaspace\" is not supported"},
      {"/pre_tokenizer/pretokenizers/0", metaspace, kUnimplemented,
       "pre_tokenizer.pretokenizers[0]: type \"Metaspace\""},
      {"/pre_tokenizer/pretokenizers/2", Json{{"type", "Digits"}}, kUnimplemented,
       "pre_tokenizer.pretokenizers[2]: type \"Digits\" is not supported (supported: Split and "
       "Digits, then ByteLevel)"},
      {"/pre_tokenizer/pretokenizers", std::nullopt, kInvalid,
       "pre_tokenizer.pretokenizers is missing"},
      {"/pre_tokenizer/pretokenizers", 1, kInvalid,
       "pre_tokenizer.pretokenizers must be a list, got 1"},
      {"/pre_tokenizer/pretokenizers/0/pattern", std::nullopt, kInvalid,
       "pre_tokenizer.pretokenizers[0].pattern is missing"},
      {"/pre_tokenizer/pretokenizers/0/pattern", "x", kInvalid,
       "pattern must be {\"Regex\": text}"},
      {"/pre_tokenizer/pretokenizers/0/pattern", Json{{"String", ""}}, kInvalid, "text not empty"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(", kInvalid,
       "pre_tokenizer: split pattern: "},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w", kUnimplemented,
       "pre_tokenizer: split pattern: \"\\w\" at byte 0 is not supported"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Isolate", kInvalid,
       "behavior must be Removed, Isolated"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", std::nullopt, kInvalid,
       "pre_tokenizer.pretokenizers[1].add_prefix_space is missing"},
      {"/post_processor", bert, kUnimplemented,
       "post_processor: type \"BertProcessing\" is not supported"},
      {"/post_processor/single", std::nullopt, kInvalid, "post_processor.single is missing"},
      {"/post_processor/single", "$A", kInvalid, "post_processor.single must be a list"},
      {"/post_processor/single/1", std::nullopt, kInvalid, "must have the one sequence \"A\""},
      {"/post_processor/single/1/Sequence/id", "B", kInvalid, "must have the one sequence \"A\""},
      {"/post_processor/single/0", Json::object(), kInvalid, "must list"},
      {"/post_processor/special_tokens", Json::object(), kInvalid,
       "post_processor.special_tokens must describe \"<bos>\""},
      {"/post_processor/special_tokens/<bos>/ids", Json::array({-1}), kInvalid,
       "special_tokens[\"<bos>\"].ids[0] must be >= 0, got -1"},
      {"/post_processor/special_tokens/<bos>/ids", Json::array({263}), kInvalid,
       "must have ids of tokens, got 263"},
      {"/decoder", nullptr, kUnimplemented, "decoder: none is not supported"},
      {"/decoder/type", "WordPiece", kUnimplemented,
       "decoder: type \"WordPiece\" is not supported"},
  };
  for (const Defect& defect : kDefects) {
    Json json = Small();
    const Json::json_pointer pointer(defect.pointer);
    if (defect.value.has_value()) {
      json[pointer] = *defect.value;
    } else if (json[pointer.parent_pointer()].is_array()) {
      json[pointer.parent_pointer()].erase(std::stoul(pointer.back()));
    } else {
      json[pointer.parent_pointer()].erase(pointer.back());
    }
    EXPECT_THAT(
        Tokenizer::FromJson(json.dump()),
        StatusIs(defect.code, AllOf(StartsWith("tokenizer.json: "), HasSubstr(defect.message))))
        << defect.pointer;
  }
}

TEST(Tokenizer, BrokenJsonIsAnError) {
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += '[';
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{\"model\": {}, \"model\": {}}"), deep,
        Small().dump().substr(0, 3000)}) {
    EXPECT_THAT(Tokenizer::FromJson(text),
                StatusIs(absl::StatusCode::kInvalidArgument, StartsWith("tokenizer.json: ")))
        << text.substr(0, 40);
  }
}

// Whatever a damaged file says, it is refused with a message or gives a tokenizer that works.
TEST(Tokenizer, SurvivesDamagedFiles) {
  const std::string valid = Small().dump();
  std::mt19937 rng(6);
  int loaded = 0, refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string text = valid;
    const size_t changes = 1 + rng() % 4;
    for (size_t i = 0; i < changes; ++i) {
      const size_t at = rng() % text.size();
      switch (rng() % 5) {
        case 0:
          text[at] = static_cast<char>(rng() % 256);
          break;
        case 1:
          text[at] = "0123456789-\"\\[]{}:,nN ()?+*"[rng() % 27];
          break;
        case 2:
          text.erase(at, 1 + rng() % 8);
          break;
        case 3:
          text.insert(at, text.substr(rng() % text.size(), 1 + rng() % 20));
          break;
        default:
          text.resize(text.size() - (rng() % 50 == 0 ? at : 0));
          break;
      }
      if (text.empty()) break;
    }
    const auto tokenizer = Tokenizer::FromJson(text);
    if (!tokenizer.ok()) {
      ++refused;
      EXPECT_THAT(std::string(tokenizer.status().message()), StartsWith("tokenizer.json: "));
      continue;
    }
    ++loaded;
    const auto ids = (*tokenizer)->Encode("<bos>Hello the\r\n 世界 12345 <tool>e\u0301 ☺ ☺", true);
    if (!ids.ok()) {
      EXPECT_THAT(ids, StatusIs(absl::StatusCode::kResourceExhausted));
      continue;
    }
    SA_EXPECT_OK((*tokenizer)->Decode(*ids, false));
  }
  EXPECT_GT(loaded, 50);
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace sparse_attention
