// The bf16 dot product of AVX-512, and codes as its operands; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

struct Dot {
  static constexpr bool kHasDot = true;
  // Two FMAs per lane, odd element first, denormals as zero (Intel SDM, VDPBF16PS).
  static __m512 dot(__m512 sum, __m512 a, __m512 b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  // Codes of 16 columns, 32 bits of each, held until two contraction steps of them are wanted, as bf16. Codes of NaN count
  // as 480: they are not packed.
  struct E4m3Pairs {
    static constexpr int kSteps = 2;
    __m512i all;

    static E4m3Pairs hold(const std::byte* words) { return {_mm512_loadu_si512(words)}; }
    template <int kStep>
    __m512 step() const {
      const __m128i first = _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13);
      const __m512i order = _mm512_broadcast_i32x4(_mm_add_epi8(first, _mm_set1_epi8(2 * kStep)));
      const __m512i twice = _mm512_shuffle_epi8(all, order);  // a code in both bytes of 16 bits
      const __m512i mask = _mm512_set1_epi32(static_cast<int>(0x87f087f0U));
      const __m512i moved = _mm512_and_si512(_mm512_srai_epi16(twice, 4), mask);
      const __m512i normal = _mm512_add_epi16(moved, _mm512_set1_epi16(120 << 7));
      // With an exponent of 0, the fraction / 512. Fraction, sign and a 0 are five bits from the sixth on.
      const __mmask32 small = _mm512_testn_epi16_mask(twice, _mm512_set1_epi16(0x7800));
      const __m512i index = _mm512_srli_epi16(twice, 6);
      return _mm512_castsi512_ps(_mm512_mask_permutexvar_epi16(normal, small, index, small_values()));
    }

   private:
    static __m512i small_values() {
      const auto twice = [](unsigned bits) { return static_cast<int>(bits | bits << 16); };
      return _mm512_setr_epi32(0, 0, twice(0x3b00), twice(0xbb00), twice(0x3b80), twice(0xbb80), twice(0x3bc0),
                               twice(0xbbc0), twice(0x3c00), twice(0xbc00), twice(0x3c20), twice(0xbc20), twice(0x3c40),
                               twice(0xbc40), twice(0x3c60), twice(0xbc60));
    }
  };

  struct E2m1Pairs {
    static constexpr int kSteps = 4;
    __m512i all;  // bytes 0, 2, 1, 3 of each word

    static E2m1Pairs hold(const std::byte* words) {
      const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
      return {_mm512_shuffle_epi8(_mm512_loadu_si512(words), _mm512_broadcast_i32x4(order))};
    }
    template <int kStep>
    __m512 step() const {  // the low 4 of 5 bits in 16 choose
      constexpr unsigned kShift[kSteps] = {0, 8, 4, 12};
      const auto two = [](unsigned first, unsigned second) { return static_cast<int>(first | second << 16); };
      const int a = two(0, 0x3f00), b = two(0x3f80, 0x3fc0), c = two(0x4000, 0x4040), d = two(0x4080, 0x40c0);
      const int e = two(0, 0xbf00), f = two(0xbf80, 0xbfc0), g = two(0xc000, 0xc040), h = two(0xc080, 0xc0c0);
      const __m512i values = _mm512_setr_epi32(a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h);
      return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_srli_epi32(all, kShift[kStep]), values));
    }
  };
};

}  // namespace
}  // namespace switchyard
