#include "metric_logging/crc32c.h"

#include <string>

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

// The examples of RFC 3720, appendix B.4, and the check value of the CRC catalogue.
TEST(Crc32c, KnownAnswers) {
  static_assert(Crc32c("123456789") == 0xE3069283);
  EXPECT_EQ(Crc32c(""), 0);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AA);
  EXPECT_EQ(Crc32c(std::string(32, '\xFF')), 0x62A8AB43);
  std::string rising;
  for (char c = 0; c < 32; ++c) rising += c;
  EXPECT_EQ(Crc32c(rising), 0x46DD794E);
}

TEST(Crc32c, ExtendsAtEverySplit) {
  const std::string text = "one write per group of records";
  for (size_t split = 0; split <= text.size(); ++split) {
    EXPECT_EQ(ExtendCrc32c(Crc32c(text.substr(0, split)), text.substr(split)), Crc32c(text));
  }
}

}  // namespace
}  // namespace sparse_attention
