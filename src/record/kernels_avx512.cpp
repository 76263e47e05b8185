// AVX-512 with VBMI, which looks up 64 characters in a table of 128 at once.
#include <immintrin.h>

#include <type_traits>

#include "record/record_kernels.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kVectorBytes = 32;

// Parts of this file.
#include "record/base64_inl.hpp"
#include "record/ids_inl.hpp"
#include "record/sort_inl.hpp"

constexpr std::size_t kVectorGroups = 16;  // 64 characters, 48 bytes
constexpr std::size_t kStoredGroups = 22;  // that the 64 bytes of a store need room for
constexpr std::size_t kUnrolled = 4;

// The value of each ASCII character; bit 7 for those outside the alphabet.
struct ValueTable {
  alignas(64) std::uint8_t value[128] = {};
  constexpr ValueTable() {
    for (int c = 0; c < 128; ++c) {
      const std::uint32_t bits = kBase64Table.bits[0][c];
      value[c] = bits == Base64Table::kBad ? 0x80 : static_cast<std::uint8_t>(bits >> 2);
    }
  }
};
constexpr ValueTable kValues;

// Of a group of four bytes that holds 24 bits, the three from the highest on.
struct ByteOrder {
  alignas(64) std::uint8_t from[64] = {};
  constexpr ByteOrder() {
    for (int i = 0; i < 48; ++i) {
      from[i] = static_cast<std::uint8_t>(i / 3 * 4 + 2 - i % 3);
    }
  }
};
constexpr ByteOrder kOrder;

// 64 characters to 48 bytes and 16 of any value; bit 7 of a byte of `bad` is set where a character is outside the
// alphabet.
__m512i decode_vector(__m512i text, __m512i& bad) {
  const __m512i bits =
      _mm512_permutex2var_epi8(_mm512_load_si512(kValues.value), text, _mm512_load_si512(kValues.value + 64));
  bad = _mm512_or_si512(bad, _mm512_or_si512(bits, text));
  const __m512i pairs = _mm512_maddubs_epi16(bits, _mm512_set1_epi32(0x01400140));
  const __m512i groups = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x00011000));
  return _mm512_permutexvar_epi8(_mm512_load_si512(kOrder.from), groups);
}

std::size_t decode_base64(const char* from, std::size_t groups, std::byte* to) {
  std::size_t done = 0;
  for (; groups - done >= kUnrolled * kVectorGroups + kStoredGroups; done += kUnrolled * kVectorGroups) {
    __m512i bad = _mm512_setzero_si512();
    for (std::size_t v = 0; v < kUnrolled; ++v) {
      const std::size_t group = done + v * kVectorGroups;
      _mm512_storeu_si512(to + 3 * group, decode_vector(_mm512_loadu_si512(from + 4 * group), bad));
    }
    if (_mm512_movepi8_mask(bad) != 0) {
      return done + decode_groups(from + 4 * done, kUnrolled * kVectorGroups, to + 3 * done);
    }
  }
  while (done < groups) {
    const std::size_t count = groups - done < kVectorGroups ? groups - done : kVectorGroups;
    const __mmask64 characters = ~__mmask64{0} >> (64 - 4 * count);
    __m512i bad = _mm512_setzero_si512();
    const __m512i bytes = decode_vector(_mm512_maskz_loadu_epi8(characters, from + 4 * done), bad);
    if ((_mm512_movepi8_mask(bad) & characters) != 0) {
      return done + decode_groups(from + 4 * done, count, to + 3 * done);
    }
    _mm512_mask_storeu_epi8(to + 3 * done, ~__mmask64{0} >> (64 - 3 * count), bytes);
    done += count;
  }
  return groups;
}

}  // namespace

extern const RecordKernels kRecordKernelsAvx512;
const RecordKernels kRecordKernelsAvx512{decode_base64, narrow, are_sets, all_ascend, sort_sets};

}  // namespace switchyard
