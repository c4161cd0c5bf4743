#include "adapters/huggingface/tokenizer_byte_level.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

using ::testing::Eq;
using ::testing::Optional;

TEST(ByteLevel, KnownCharacters) {
  EXPECT_EQ(ByteLevelCharacter('A'), "A");
  EXPECT_EQ(ByteLevelCharacter(' '), "Ġ");
  EXPECT_EQ(ByteLevelCharacter('\n'), "Ċ");
  EXPECT_EQ(ByteLevelCharacter(0x7F), "ġ");
  EXPECT_EQ(ByteLevelCharacter(0xAD), "Ń");
  EXPECT_EQ(ByteLevelCharacter(0xFF), "ÿ");
}

TEST(ByteLevel, EveryByteHasItsOwnCharacter) {
  std::set<std::string> characters;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = ByteLevelCharacter(static_cast<uint8_t>(byte));
    characters.insert(character);
    EXPECT_THAT(BytesOfToken(character), Optional(std::string(1, static_cast<char>(byte))));
  }
  EXPECT_EQ(characters.size(), 256u);
}

TEST(ByteLevel, TokensOutsideTheAlphabetHaveNoBytes) {
  EXPECT_THAT(BytesOfToken("Ġab"), Optional(Eq(" ab")));
  EXPECT_THAT(BytesOfToken(""), Optional(Eq("")));
  for (const char* const token : {"a b", "世", "ń", "\u00AD", "\n"}) {
    EXPECT_EQ(BytesOfToken(token), std::nullopt) << token;
  }
}

TEST(ByteLevel, ThirteenBytesNeverOccurInText) {
  int missing = 0;
  for (int byte = 0; byte < 256; ++byte) missing += !OccursInUtf8(static_cast<uint8_t>(byte));
  EXPECT_EQ(missing, 13);
}

}  // namespace
}  // namespace sparse_attention
