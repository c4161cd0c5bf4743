#include "adapters/huggingface/tokenizer_unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <vector>

#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

// Characters from `first` to `last` are classified like `stand_in`.
struct NewCharacters {
  char32_t first;
  char32_t last;
  char32_t stand_in;
};

// Assigned (one: moved to another category) by Unicode 15.0, 15.1 and 16.0. The stand-ins: U+10A0
// and U+10400 Lu, U+1D00 and U+10428 Ll, U+10780 Lm, U+10000 Lo, U+20000 Lo of script Han, U+0900
// and U+101FD Mn, U+0903 and U+11000 Mc, U+104A0 Nd, U+10107 No, U+10EAD Pd, U+0964 and U+10100 Po,
// U+1D6C1 Sm, U+0B70 and U+10137 So, U+110BD Cf.
constexpr NewCharacters kNewCharacters[] = {
    {0x897, 0x897, 0x900},       {0xCF3, 0xCF3, 0x903},       {0xECE, 0xECE, 0x900},
    {0x1B4E, 0x1B4F, 0x964},     {0x1B7F, 0x1B7F, 0x964},     {0x1C89, 0x1C89, 0x10A0},
    {0x1C8A, 0x1C8A, 0x1D00},    {0x2427, 0x2429, 0xB70},     {0x2FFC, 0x2FFF, 0xB70},
    {0x31E4, 0x31E5, 0xB70},     {0x31EF, 0x31EF, 0xB70},     {0xA7CB, 0xA7CC, 0x10A0},
    {0xA7CD, 0xA7CD, 0x1D00},    {0xA7DA, 0xA7DA, 0x10A0},    {0xA7DB, 0xA7DB, 0x1D00},
    {0xA7DC, 0xA7DC, 0x10A0},    {0x105C0, 0x105F3, 0x10000}, {0x10D40, 0x10D49, 0x104A0},
    {0x10D4A, 0x10D4D, 0x10000}, {0x10D4E, 0x10D4E, 0x10780}, {0x10D4F, 0x10D4F, 0x10000},
    {0x10D50, 0x10D65, 0x10400}, {0x10D69, 0x10D6D, 0x101FD}, {0x10D6E, 0x10D6E, 0x10EAD},
    {0x10D6F, 0x10D6F, 0x10780}, {0x10D70, 0x10D85, 0x10428}, {0x10D8E, 0x10D8F, 0x1D6C1},
    {0x10EC2, 0x10EC4, 0x10000}, {0x10EFC, 0x10EFF, 0x101FD}, {0x1123F, 0x11240, 0x10000},
    {0x11241, 0x11241, 0x101FD}, {0x11380, 0x11389, 0x10000}, {0x1138B, 0x1138B, 0x10000},
    {0x1138E, 0x1138E, 0x10000}, {0x11390, 0x113B5, 0x10000}, {0x113B7, 0x113B7, 0x10000},
    {0x113B8, 0x113BA, 0x11000}, {0x113BB, 0x113C0, 0x101FD}, {0x113C2, 0x113C2, 0x11000},
    {0x113C5, 0x113C5, 0x11000}, {0x113C7, 0x113CA, 0x11000}, {0x113CC, 0x113CD, 0x11000},
    {0x113CE, 0x113CE, 0x101FD}, {0x113CF, 0x113CF, 0x11000}, {0x113D0, 0x113D0, 0x101FD},
    {0x113D1, 0x113D1, 0x10000}, {0x113D2, 0x113D2, 0x101FD}, {0x113D3, 0x113D3, 0x10000},
    {0x113D4, 0x113D5, 0x10100}, {0x113D7, 0x113D8, 0x10100}, {0x113E1, 0x113E2, 0x101FD},
    {0x116D0, 0x116E3, 0x104A0}, {0x1171E, 0x1171E, 0x11000}, {0x11B00, 0x11B09, 0x10100},
    {0x11BC0, 0x11BE0, 0x10000}, {0x11BE1, 0x11BE1, 0x10100}, {0x11BF0, 0x11BF9, 0x104A0},
    {0x11F00, 0x11F01, 0x101FD}, {0x11F02, 0x11F02, 0x10000}, {0x11F03, 0x11F03, 0x11000},
    {0x11F04, 0x11F10, 0x10000}, {0x11F12, 0x11F33, 0x10000}, {0x11F34, 0x11F35, 0x11000},
    {0x11F36, 0x11F3A, 0x101FD}, {0x11F3E, 0x11F3F, 0x11000}, {0x11F40, 0x11F40, 0x101FD},
    {0x11F41, 0x11F41, 0x11000}, {0x11F42, 0x11F42, 0x101FD}, {0x11F43, 0x11F4F, 0x10100},
    {0x11F50, 0x11F59, 0x104A0}, {0x11F5A, 0x11F5A, 0x101FD}, {0x1342F, 0x1342F, 0x10000},
    {0x13439, 0x1343F, 0x110BD}, {0x13440, 0x13440, 0x101FD}, {0x13441, 0x13446, 0x10000},
    {0x13447, 0x13455, 0x101FD}, {0x13460, 0x143FA, 0x10000}, {0x16100, 0x1611D, 0x10000},
    {0x1611E, 0x16129, 0x101FD}, {0x1612A, 0x1612C, 0x11000}, {0x1612D, 0x1612F, 0x101FD},
    {0x16130, 0x16139, 0x104A0}, {0x16D40, 0x16D42, 0x10780}, {0x16D43, 0x16D6A, 0x10000},
    {0x16D6B, 0x16D6C, 0x10780}, {0x16D6D, 0x16D6F, 0x10100}, {0x16D70, 0x16D79, 0x104A0},
    {0x18CFF, 0x18CFF, 0x10000}, {0x1B132, 0x1B132, 0x10000}, {0x1B155, 0x1B155, 0x10000},
    {0x1CC00, 0x1CCEF, 0x10137}, {0x1CCF0, 0x1CCF9, 0x104A0}, {0x1CD00, 0x1CEB3, 0x10137},
    {0x1D2C0, 0x1D2D3, 0x10107}, {0x1DF25, 0x1DF2A, 0x10428}, {0x1E030, 0x1E06D, 0x10780},
    {0x1E08F, 0x1E08F, 0x101FD}, {0x1E4D0, 0x1E4EA, 0x10000}, {0x1E4EB, 0x1E4EB, 0x10780},
    {0x1E4EC, 0x1E4EF, 0x101FD}, {0x1E4F0, 0x1E4F9, 0x104A0}, {0x1E5D0, 0x1E5ED, 0x10000},
    {0x1E5EE, 0x1E5EF, 0x101FD}, {0x1E5F0, 0x1E5F0, 0x10000}, {0x1E5F1, 0x1E5FA, 0x104A0},
    {0x1E5FF, 0x1E5FF, 0x10100}, {0x1F6DC, 0x1F6DC, 0x10137}, {0x1F774, 0x1F776, 0x10137},
    {0x1F77B, 0x1F77F, 0x10137}, {0x1F7D9, 0x1F7D9, 0x10137}, {0x1F8B2, 0x1F8BB, 0x10137},
    {0x1F8C0, 0x1F8C1, 0x10137}, {0x1FA75, 0x1FA77, 0x10137}, {0x1FA87, 0x1FA89, 0x10137},
    {0x1FA8F, 0x1FA8F, 0x10137}, {0x1FAAD, 0x1FAAF, 0x10137}, {0x1FABB, 0x1FABF, 0x10137},
    {0x1FAC6, 0x1FAC6, 0x10137}, {0x1FACE, 0x1FACF, 0x10137}, {0x1FADA, 0x1FADC, 0x10137},
    {0x1FADF, 0x1FADF, 0x10137}, {0x1FAE8, 0x1FAE9, 0x10137}, {0x1FAF7, 0x1FAF8, 0x10137},
    {0x1FBCB, 0x1FBEF, 0x10137}, {0x2B739, 0x2B739, 0x20000}, {0x2EBF0, 0x2EE5D, 0x20000},
    {0x31350, 0x323AF, 0x20000},
};

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// What utf8proc reorders or composes and the tables of Unicode 9 leave alone: the combining marks
// and the one composition (Dives Akuru U+11938) of later versions.
constexpr CodePointRange kNotNormalized[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

// Has the property Alphabetic though its category is So: circled and squared letters.
constexpr CodePointRange kAlphabeticSymbols[] = {
    {0x24B6, 0x24E9}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};

// The range of a sorted table that holds `c`, or nullptr.
template <typename Range, size_t n>
const Range* FindRange(const Range (&table)[n], char32_t c) {
  const Range* found =
      std::upper_bound(std::begin(table), std::end(table), c,
                       [](char32_t value, const Range& range) { return value < range.first; });
  if (found == std::begin(table)) return nullptr;
  --found;
  return c <= found->last ? found : nullptr;
}

char32_t StandIn(char32_t c) {
  if (c < kNewCharacters[0].first) return c;
  const NewCharacters* found = FindRange(kNewCharacters, c);
  return found == nullptr ? c : found->stand_in;
}

// In form C, never moved, and never composed with what stands before it: Latin without combining
// marks, Chinese characters, Hangul syllables, emoji. Most text needs no look at the tables.
bool IsNormalizationInert(char32_t c) {
  return c < 0x300 || (c >= 0x3400 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3) ||
         (c >= 0x1F000 && c <= 0x1FAFF);
}

// `text` with its combining marks in canonical order.
std::string OrderMarks(absl::string_view text) {
  struct Mark {
    int combining_class;
    absl::string_view text;
  };
  std::string ordered;
  std::vector<Mark> marks;
  const auto append_marks = [&] {
    std::stable_sort(marks.begin(), marks.end(), [](const Mark& a, const Mark& b) {
      return a.combining_class < b.combining_class;
    });
    for (const Mark& mark : marks) ordered.append(mark.text.data(), mark.text.size());
    marks.clear();
  };
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = DecodeUtf8(text.substr(i));
    const absl::string_view character = text.substr(i, unit.length);
    const int combining_class =
        utf8proc_get_property(static_cast<utf8proc_int32_t>(unit.code_point))->combining_class;
    if (combining_class == 0) {
      append_marks();
      ordered.append(character.data(), character.size());
    } else {
      marks.push_back({combining_class, character});
    }
    i += unit.length;
  }
  append_marks();
  return ordered;
}

void AppendNfc(absl::string_view text, std::string& out) {
  if (text.empty()) return;
  // utf8proc orders marks by insertion: a hostile text of a million marks would take it hours.
  constexpr size_t kLong = 1024;
  std::string ordered;
  if (text.size() > kLong) {
    ordered = OrderMarks(text);
    text = ordered;
  }
  utf8proc_uint8_t* normalized = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), text.size(), &normalized,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  SA_CHECK(length >= 0);  // Valid UTF-8 fails only for want of memory.
  out.append(reinterpret_cast<const char*>(normalized), length);
  std::free(normalized);
}

}  // namespace

Utf8Unit DecodeUtf8(absl::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {0, 1, false, false};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t code_point = lead & (0xFF >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {0, i, false, true};
    // The second byte decides about overlong forms, surrogates and what lies beyond U+10FFFF.
    unsigned char low = 0x80, high = 0xBF;
    if (i == 1 && lead == 0xE0) low = 0xA0;
    if (i == 1 && lead == 0xED) high = 0x9F;
    if (i == 1 && lead == 0xF0) low = 0x90;
    if (i == 1 && lead == 0xF4) high = 0x8F;
    if (byte(i) < low || byte(i) > high) return {0, i, false, false};
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  return {code_point, length, true, false};
}

char32_t LastCodePoint(absl::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && (text[start] & 0xC0) == 0x80) --start;
  return DecodeUtf8(text.substr(start)).code_point;
}

std::optional<size_t> FindInvalidUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = DecodeUtf8(text.substr(i));
    if (!unit.valid) return i;
    i += unit.length;
  }
  return std::nullopt;
}

void MoveUtf8(std::string& bytes, bool flush, std::string& text) {
  size_t i = 0;
  while (i < bytes.size()) {
    const Utf8Unit unit = DecodeUtf8(absl::string_view(bytes).substr(i));
    if (unit.truncated && !flush) break;
    if (unit.valid) {
      text.append(bytes, i, unit.length);
    } else {
      text += "\xEF\xBF\xBD";
    }
    i += unit.length;
  }
  bytes.erase(0, i);
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 0x9 && c <= 0xD) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsWordCharacter(char32_t c) {
  if (c == 0x200C || c == 0x200D) return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(StandIn(c)))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return FindRange(kAlphabeticSymbols, c) != nullptr;
  }
}

std::optional<std::string> ReplaceNewCharacters(absl::string_view text) {
  std::optional<std::string> replaced;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) <
        0xE0) {  // No new character has fewer than three bytes.
      ++i;
      continue;
    }
    const Utf8Unit unit = DecodeUtf8(text.substr(i));
    const char32_t stand_in = StandIn(unit.code_point);
    if (stand_in != unit.code_point) {
      if (!replaced.has_value()) replaced.emplace(text);
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(stand_in),
                           reinterpret_cast<utf8proc_uint8_t*>(replaced->data() + i));
    }
    i += unit.length;
  }
  return replaced;
}

std::optional<std::string> NormalizeNfc(absl::string_view text) {
  std::string normalized;
  size_t copied = 0;  // What is in `normalized` already.
  size_t run_start =
      0;  // Since here no boundary was seen; the run starts with at most one inert character.
  bool run_is_inert = true;
  const auto end_run = [&](size_t end) {
    if (!run_is_inert) {
      normalized.append(text.data() + copied, run_start - copied);
      AppendNfc(text.substr(run_start, end - run_start), normalized);
      copied = end;
    }
    run_is_inert = true;
  };
  for (size_t i = 0; i < text.size();) {
    const Utf8Unit unit = DecodeUtf8(text.substr(i));
    if (IsNormalizationInert(unit.code_point)) {
      end_run(i);
      run_start = i;
    } else if (FindRange(kNotNormalized, unit.code_point) != nullptr) {
      end_run(i);
      run_start = i + unit.length;
    } else {
      run_is_inert = false;
    }
    i += unit.length;
  }
  end_run(text.size());
  if (copied == 0) return std::nullopt;
  normalized.append(text.data() + copied, text.size() - copied);
  if (normalized == text) return std::nullopt;
  return normalized;
}

}  // namespace sparse_attention
