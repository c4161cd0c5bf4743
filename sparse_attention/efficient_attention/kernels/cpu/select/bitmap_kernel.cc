#include "sparse_attention/efficient_attention/kernels/cpu/select/bitmap.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/bits_inl.h"

namespace sparse_attention::cpu::SA_ISA {
namespace {

int64_t Count(const uint64_t* words, int64_t num_words) { return CountWords(words, num_words); }

void AndNot(const uint64_t* drop, int64_t num_words, uint64_t* inout) {
  for (int64_t w = 0; w < num_words; ++w) inout[w] &= ~drop[w];
}

int64_t Rank(const uint64_t* words, int64_t j) {
  const int64_t whole = j >> 6;
  const int64_t below = Count(words, whole);
  const int part = static_cast<int>(j & 63);
  return part == 0 ? below : below + CountBits(words[whole] & LowMask(part));
}

// The places of the set bits of one word, ascending, at `places`, and with kMembers the bits of the
// rows at them. Returns how many.
#if defined(SA_AVX512_BF16)
SA_INLINE __m512i Places() {
  alignas(64) static constexpr uint8_t kPlaces[64] = {
      0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
      22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
      44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
  return _mm512_load_si512(kPlaces);
}

// Bytes first, ..., first + 15 of x, each plus `add`, as 32-bit numbers.
template <int kFirst>
SA_INLINE void StoreKeys(__m512i x, __m512i add, uint32_t* out) {
  const __m128i bytes = _mm512_extracti32x4_epi32(x, kFirst / 16);
  _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), add));
}
SA_INLINE void StoreWordKeys(__m512i places, int count, uint32_t base, uint32_t* out) {
  const __m512i add = _mm512_set1_epi32(static_cast<int>(base));
  StoreKeys<0>(places, add, out);
  if (count > 16) StoreKeys<16>(places, add, out + 16);
  if (count > 32) {
    StoreKeys<32>(places, add, out + 32);
    StoreKeys<48>(places, add, out + 48);
  }
}
#endif

// Keys of one word by one, as far as there is room.
SA_INLINE int64_t ListWord(uint64_t word, uint32_t base, uint32_t* out, int64_t room) {
  int64_t count = 0;
  for (; word != 0 && count < room; word &= word - 1) {
    out[count++] = base + static_cast<uint32_t>(LowestBit(word));
  }
  return count;
}

int64_t ToList(const uint64_t* words, int64_t num_words, uint32_t base, uint32_t* out,
               int64_t capacity) {
  int64_t count = 0;
  int64_t w = 0;
#if defined(SA_AVX512_BF16)
  const __m512i places = Places();
  for (; w < num_words && count + 64 <= capacity; ++w) {
    const uint64_t word = words[w];
    const int bits = CountBits(word);
    StoreWordKeys(_mm512_maskz_compress_epi8(word, places), bits,
                  base + static_cast<uint32_t>(w * 64), out + count);
    count += bits;
  }
#elif defined(SA_AVX512)
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (; w < num_words && count + 64 <= capacity; ++w) {
    const uint64_t word = words[w];
    if (word == 0) continue;
    for (int part = 0; part < 64; part += 16) {
      const __mmask16 bits = static_cast<__mmask16>(word >> part);
      const __m512i keys = _mm512_add_epi32(
          lanes, _mm512_set1_epi32(static_cast<int>(base + static_cast<uint32_t>(w * 64 + part))));
      _mm512_storeu_si512(out + count, _mm512_maskz_compress_epi32(bits, keys));
      count += CountBits(bits);
    }
  }
#endif
  for (; w < num_words && count < capacity; ++w) {
    count +=
        ListWord(words[w], base + static_cast<uint32_t>(w * 64), out + count, capacity - count);
  }
  return count;
}

// Members of bit `place`: bit r where row r has it.
SA_INLINE uint16_t MembersAt(const uint64_t* rows, int32_t num_rows, int place) {
  uint32_t members = 0;
  for (int32_t r = 0; r < num_rows; ++r) {
    members |= static_cast<uint32_t>(rows[r] >> place & 1) << r;
  }
  return static_cast<uint16_t>(members);
}

// A number of rows known to the compiler where it is common; 0: any.
template <int kRows>
SA_INLINE int64_t UnionOf(const uint64_t* const* rows, int32_t num_rows, int64_t num_words,
                          uint32_t base, uint32_t* keys, uint16_t* members, int64_t capacity) {
  const int32_t count_rows = kRows == 0 ? num_rows : kRows;
  uint64_t of_row[16];
  int64_t count = 0;
  int64_t w = 0;
#if defined(SA_AVX512_BF16)
  const __m512i places = Places();
  for (; w < num_words && count + 64 <= capacity; ++w) {
    uint64_t any = 0;
    __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
    for (int32_t r = 0; r < count_rows; ++r) {
      const uint64_t word = rows[r][w];
      any |= word;
      const __m512i bit = _mm512_set1_epi8(static_cast<char>(1 << (r & 7)));
      if (r < 8) {
        low = _mm512_or_si512(low, _mm512_maskz_mov_epi8(word, bit));
      } else {
        high = _mm512_or_si512(high, _mm512_maskz_mov_epi8(word, bit));
      }
    }
    const int bits = CountBits(any);
    StoreWordKeys(_mm512_maskz_compress_epi8(any, places), bits,
                  base + static_cast<uint32_t>(w * 64), keys + count);
    low = _mm512_maskz_compress_epi8(any, low);
    __m512i first = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(low));
    __m512i second = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(low, 1));
    if (count_rows > 8) {
      high = _mm512_maskz_compress_epi8(any, high);
      first = _mm512_or_si512(
          first, _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(high)), 8));
      second = _mm512_or_si512(
          second, _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(high, 1)), 8));
    }
    _mm512_storeu_si512(members + count, first);
    if (bits > 32) _mm512_storeu_si512(members + count + 32, second);
    count += bits;
  }
#endif
  for (; w < num_words && count < capacity; ++w) {
    uint64_t any = 0;
    for (int32_t r = 0; r < count_rows; ++r) {
      of_row[r] = rows[r][w];
      any |= of_row[r];
    }
    for (; any != 0 && count < capacity; any &= any - 1, ++count) {
      const int place = LowestBit(any);
      keys[count] = base + static_cast<uint32_t>(w * 64 + place);
      members[count] = MembersAt(of_row, count_rows, place);
    }
  }
  return count;
}

int64_t UnionToList(const uint64_t* const* rows, int32_t num_rows, int64_t num_words, uint32_t base,
                    uint32_t* keys, uint16_t* members, int64_t capacity) {
  switch (num_rows) {
    case 1:
      return UnionOf<1>(rows, 1, num_words, base, keys, members, capacity);
    case 2:
      return UnionOf<2>(rows, 2, num_words, base, keys, members, capacity);
    case 4:
      return UnionOf<4>(rows, 4, num_words, base, keys, members, capacity);
    case 8:
      return UnionOf<8>(rows, 8, num_words, base, keys, members, capacity);
    default:
      return UnionOf<0>(rows, num_rows, num_words, base, keys, members, capacity);
  }
}

void Deposit(const uint64_t* bits, const uint64_t* mask, int64_t num_words, uint64_t* out) {
  DepositWords(bits, mask, num_words, out);
}

}  // namespace

BitmapKernels MakeBitmapKernels() { return {Count, AndNot, Rank, ToList, UnionToList, Deposit}; }

}  // namespace sparse_attention::cpu::SA_ISA
