#include "adapters/huggingface/tokenizer_byte_level.h"

#include <array>

#include "adapters/huggingface/tokenizer_unicode.h"

namespace sparse_attention {
namespace {

constexpr char32_t kFirstStandIn = 0x100;

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> CodePoints() {
  std::array<char32_t, 256> code_points = {};
  char32_t next = kFirstStandIn;
  for (int byte = 0; byte < 256; ++byte) {
    code_points[byte] = StandsForItself(byte) ? static_cast<char32_t>(byte) : next++;
  }
  return code_points;
}

constexpr std::array<char32_t, 256> kCodePoints = CodePoints();

// The byte by its code point, -1 where there is none.
constexpr std::array<int, 0x144> Bytes() {
  std::array<int, 0x144> bytes = {};
  for (int& byte : bytes) byte = -1;
  for (int byte = 0; byte < 256; ++byte) bytes[kCodePoints[byte]] = byte;
  return bytes;
}

constexpr std::array<int, 0x144> kBytes = Bytes();

}  // namespace

std::string ByteLevelCharacter(uint8_t byte) {
  const char32_t c = kCodePoints[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

std::optional<std::string> BytesOfToken(absl::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Unit unit = DecodeUtf8(token);
    if (unit.code_point >= kBytes.size() || kBytes[unit.code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(kBytes[unit.code_point]);
    token.remove_prefix(unit.length);
  }
  return bytes;
}

bool OccursInUtf8(uint8_t byte) { return byte != 0xC0 && byte != 0xC1 && byte <= 0xF4; }

}  // namespace sparse_attention
