// The bf16 dot product of AVX-512, and codes as its operands; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// What codes of f8_e4m3 become bf16 with: the bytes of every code's value without its sign, where NaN counts as 480, and
// where the bytes of two steps of a word stand: low ones first, high ones 64 further.
struct E4m3Tables {
  alignas(64) std::uint8_t low[128] = {};
  alignas(64) std::uint8_t high[128] = {};
  alignas(64) std::uint8_t order[2][64] = {};
};
constexpr E4m3Tables make_e4m3_tables() {
  E4m3Tables tables;
  for (int code = 1; code < 128; ++code) {
    int exponent = code / 8;
    int fraction = code % 8;
    if (exponent == 0) {  // a denormal, fraction / 512
      for (exponent = 1; fraction < 8; fraction *= 2) {
        --exponent;
      }
    }
    const int bits = (exponent + 120) << 7 | (fraction % 8) << 4;
    tables.low[code] = static_cast<std::uint8_t>(bits & 0xff);
    tables.high[code] = static_cast<std::uint8_t>(bits >> 8);
  }
  for (int i = 0; i < 64; ++i) {
    const int first = i / 4 * 4 + i % 4 / 2 + i % 2 * 64;
    tables.order[0][i] = static_cast<std::uint8_t>(first);
    tables.order[1][i] = static_cast<std::uint8_t>(first + 2);
  }
  return tables;
}
constexpr E4m3Tables kE4m3 = make_e4m3_tables();

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
    __m512i low;
    __m512i high;

    static E4m3Pairs hold(const std::byte* words) {
      const __m512i all = _mm512_loadu_si512(words);
      const __m512i sign = _mm512_and_si512(all, _mm512_set1_epi32(static_cast<int>(0x80808080U)));
      return {look_up(kE4m3.low, all), _mm512_or_si512(look_up(kE4m3.high, all), sign)};
    }
    template <int kStep>
    __m512 step() const {
      return _mm512_castsi512_ps(_mm512_permutex2var_epi8(low, _mm512_load_si512(kE4m3.order[kStep]), high));
    }

   private:
    static __m512i look_up(const std::uint8_t* table, __m512i codes) {  // the low 7 bits of each
      return _mm512_permutex2var_epi8(_mm512_load_si512(table), codes, _mm512_load_si512(table + 64));
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
