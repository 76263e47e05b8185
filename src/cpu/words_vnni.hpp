// Sums of integers with VPDPBUSD: four steps as they are packed; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

struct WordDot {
  static constexpr int kWordSteps = 4;
  static __m512 words(__m512 sum, __m512 row, __m512 codes) { return add_products(sum, codes, row); }
  struct Bytes {
    static constexpr int kSteps = 1;
    __m512i all;

    static Bytes hold(const std::byte* words) { return {_mm512_loadu_si512(words)}; }
    template <int kStep>
    __m512 step() const {
      return _mm512_castsi512_ps(all);
    }
  };
  struct HalfBytes {
    static constexpr int kSteps = 2;
    __m512i all;

    static HalfBytes hold(const std::byte* words) { return {_mm512_loadu_si512(words)}; }
    template <int kStep>
    __m512 step() const {
      const __m512i shifted = kStep == 0 ? all : _mm512_srli_epi32(all, 4);
      return _mm512_castsi512_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(0x0f0f0f0f)));
    }
  };
  static void store_steps(float* to, const float* steps) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_loadu_ps(steps))));
  }
};

}  // namespace
}  // namespace switchyard
