// Sums of integers with AVX-512 alone: pairs of 16 bits, the first and third of four steps, the second and fourth; part
// of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

struct WordDot {
  static constexpr int kWordSteps = 2;
  static __m512 words(__m512 sum, __m512 row, __m512 codes) {
    return _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_castps_si512(sum), _mm512_madd_epi16(_mm512_castps_si512(row), _mm512_castps_si512(codes))));
  }
  static void bytes(const std::byte* words, __m512 (&to)[2]) {
    const __m512i all = _mm512_loadu_si512(words);
    to[0] = _mm512_castsi512_ps(_mm512_and_si512(all, _mm512_set1_epi16(0xff)));
    to[1] = _mm512_castsi512_ps(_mm512_srli_epi16(all, 8));
  }
  static void half_bytes(const std::byte* words, __m512 (&to)[4]) {
    const __m512i all = _mm512_loadu_si512(words);
    const __m512i mask = _mm512_set1_epi16(15);
    to[0] = _mm512_castsi512_ps(_mm512_and_si512(all, mask));
    to[1] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_srli_epi16(all, 8), mask));
    to[2] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_srli_epi16(all, 4), mask));
    to[3] = _mm512_castsi512_ps(_mm512_srli_epi16(all, 12));
  }
  static void store_steps(float* to, const float* steps) {
    const __m256i in_order = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_loadu_ps(steps)));
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_shuffle_epi8(in_order, order));
  }
};

}  // namespace
}  // namespace switchyard
