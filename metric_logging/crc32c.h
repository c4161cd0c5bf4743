// CRC-32C (Castagnoli), the checksum of log lines: RFC 3720, appendix B.4.
#ifndef METRIC_LOGGING_CRC32C_H_
#define METRIC_LOGGING_CRC32C_H_

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace sparse_attention {
namespace internal_crc32c {

constexpr std::array<uint32_t, 256> MakeTable() {
  constexpr uint32_t kReversedPolynomial = 0x82F63B78;
  std::array<uint32_t, 256> table = {};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? kReversedPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}
inline constexpr std::array<uint32_t, 256> kTable = MakeTable();

}  // namespace internal_crc32c

// The CRC of some bytes followed by `bytes`, where `crc` is the CRC of the former (0 for none).
constexpr uint32_t ExtendCrc32c(uint32_t crc, absl::string_view bytes) {
  crc = ~crc;
  for (const char c : bytes) {
    crc = crc >> 8 ^ internal_crc32c::kTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  }
  return ~crc;
}

constexpr uint32_t Crc32c(absl::string_view bytes) { return ExtendCrc32c(0, bytes); }

}  // namespace sparse_attention

#endif  // METRIC_LOGGING_CRC32C_H_
