// Sums of integers with AVX-512 alone: pairs of 16 bits, the first and third of four steps, the second and fourth; part
// of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

struct WordDot {
  static constexpr int kWordSteps = 2;
  static __m512 words(__m512 sum, __m512 row, __m512 codes) {
    return add_words(sum, _mm512_madd_epi16(_mm512_castps_si512(row), _mm512_castps_si512(codes)));
  }
  struct Bytes {
    static constexpr int kSteps = 2;
    __m512i all;

    static Bytes hold(const std::byte* words) { return {_mm512_loadu_si512(words)}; }
    template <int kStep>
    __m512 step() const {
      return _mm512_castsi512_ps(kStep == 0 ? _mm512_and_si512(all, _mm512_set1_epi16(0xff))
                                            : _mm512_srli_epi16(all, 8));
    }
  };
  struct HalfBytes {
    static constexpr int kSteps = 4;
    __m512i all;

    static HalfBytes hold(const std::byte* words) { return {_mm512_loadu_si512(words)}; }
    template <int kStep>
    __m512 step() const {
      constexpr unsigned kShift[kSteps] = {0, 8, 4, 12};
      const __m512i shifted = kStep == 0 ? all : _mm512_srli_epi16(all, kShift[kStep]);
      return _mm512_castsi512_ps(kStep == 3 ? shifted : _mm512_and_si512(shifted, _mm512_set1_epi16(15)));
    }
  };
  static void store_steps(float* to, const float* steps) {
    const __m256i in_order = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_loadu_ps(steps)));
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_shuffle_epi8(in_order, order));
  }
};

}  // namespace
}  // namespace switchyard
