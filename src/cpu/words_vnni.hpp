// Sums of integers with VPDPBUSD: four steps as they are packed; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

struct WordDot {
  static constexpr int kWordSteps = 4;
  static __m512 words(__m512 sum, __m512 row, __m512 codes) {
    return _mm512_castsi512_ps(
        _mm512_dpbusd_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(codes), _mm512_castps_si512(row)));
  }
  static void bytes(const std::byte* words, __m512 (&to)[1]) { to[0] = _mm512_loadu_ps(words); }
  static void half_bytes(const std::byte* words, __m512 (&to)[2]) {
    const __m512i all = _mm512_loadu_si512(words);
    const __m512i mask = _mm512_set1_epi32(0x0f0f0f0f);
    to[0] = _mm512_castsi512_ps(_mm512_and_si512(all, mask));
    to[1] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_srli_epi32(all, 4), mask));
  }
  static void store_steps(float* to, const float* steps) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_loadu_ps(steps))));
  }
};

}  // namespace
}  // namespace switchyard
