// AVX2. Base64: W. Mula, D. Lemire, Faster Base64 Encoding and Decoding Using AVX2 Instructions (arXiv 1704.00605).
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

constexpr std::size_t kVectorGroups = 8;   // 32 characters, 24 bytes
constexpr std::size_t kStoredGroups = 11;  // that the 32 bytes of a store need room for
constexpr std::size_t kUnrolled = 4;

__m256i both(__m128i half) { return _mm256_broadcastsi128_si256(half); }

// 32 characters to 24 bytes and 8 zeros; `bad` becomes other than 0 where a character is outside the alphabet: each
// high nibble allows some low nibbles, as sets of bits.
__m256i decode_vector(__m256i text, __m256i& bad) {
  const __m256i nibble = _mm256_set1_epi8(0x2f);  // and a bit that shuffles ignore: it makes one constant of two
  const __m256i low_sets = both(
      _mm_setr_epi8(0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1a, 0x1b, 0x1b, 0x1b, 0x1a));
  const __m256i high_sets = both(
      _mm_setr_epi8(0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10));
  const __m256i offsets = both(_mm_setr_epi8(0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m256i high = _mm256_and_si256(_mm256_srli_epi32(text, 4), nibble);
  const __m256i low = _mm256_and_si256(text, nibble);
  bad =
      _mm256_or_si256(bad, _mm256_and_si256(_mm256_shuffle_epi8(low_sets, low), _mm256_shuffle_epi8(high_sets, high)));
  // '/' has an offset of its own.
  const __m256i slash = _mm256_cmpeq_epi8(text, nibble);
  const __m256i bits = _mm256_add_epi8(text, _mm256_shuffle_epi8(offsets, _mm256_add_epi8(slash, high)));
  const __m256i pairs = _mm256_maddubs_epi16(bits, _mm256_set1_epi32(0x01400140));
  const __m256i groups = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x00011000));
  const __m256i order = both(_mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1));
  return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(groups, order), _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
}

std::size_t decode_base64(const char* from, std::size_t groups, std::byte* to) {
  std::size_t done = 0;
  for (; groups - done >= kUnrolled * kVectorGroups + kStoredGroups; done += kUnrolled * kVectorGroups) {
    __m256i bad = _mm256_setzero_si256();
    for (std::size_t v = 0; v < kUnrolled; ++v) {
      const std::size_t group = done + v * kVectorGroups;
      const __m256i text = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 4 * group));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 3 * group), decode_vector(text, bad));
    }
    if (_mm256_testz_si256(bad, bad) == 0) {
      return done + decode_groups(from + 4 * done, kUnrolled * kVectorGroups, to + 3 * done);
    }
  }
  for (; groups - done >= kStoredGroups; done += kVectorGroups) {
    __m256i bad = _mm256_setzero_si256();
    const __m256i text = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 4 * done));
    const __m256i bytes = decode_vector(text, bad);
    if (_mm256_testz_si256(bad, bad) == 0) {
      break;
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 3 * done), bytes);
  }
  return done + decode_groups(from + 4 * done, groups - done, to + 3 * done);
}

}  // namespace

extern const RecordKernels kRecordKernelsAvx2;
const RecordKernels kRecordKernelsAvx2{decode_base64, narrow, are_sets, all_ascend, sort_sets};

}  // namespace switchyard
