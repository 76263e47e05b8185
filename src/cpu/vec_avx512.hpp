// The vectors of all AVX-512 sets; part of a kernel file, see kernels_inl.hpp. The file says what Dot is for pairs of bf16,
// WordDot for integers, and Units of the processor that runs them.

namespace switchyard {
namespace {

struct V : Units {
  using R = __m512;
  static constexpr int kWidth = 16;
  // 32 registers: 26 sums, 2 (f32) or 4 (bf16 pairs widened) weights, one row element, one mask.
  static constexpr int kRegisters = 32;
  static constexpr int kTileRows = 13;
  static constexpr int tile_vectors(int) { return 2; }
  static constexpr int stream_vectors(int) { return 2; }
  static constexpr int stream_rows(Format) { return kTileRows; }
  // Floats of 4 bits come from memory faster than the chains of so few sums can add them: panels are read side by side, most
  // of mxfp4, which does not multiply weights by scales. What is wider does not, and memory sends most to a core that reads
  // one place.
  static constexpr int stream_panels(Format format, int rows) {
    if (code_bits(format) > 4 || rows > 6) {
      return 1;
    }
    return format == Format::mxfp4 && rows <= 2 ? 4 : 2;
  }

  // 26 sums of groups, 2 vectors of codes and 2 decoded, a row's element and a table; codes of 8 bits take 4 vectors.
  static constexpr int group_rows(Format format) {
    return is_integer(format) ? 13 : code_bits(format) == 8 ? 12 : kShortCodeRows;
  }
  static constexpr int word_vectors(int) { return 2; }
  // A bf16 product joins its sum after 6 cycles, and two start in each: fewer than 12 sums wait for themselves. For codes that
  // are wider, or have longer groups, memory is slower than that, and sends less to a core that reads two places. One or two
  // rows times groups of 16 are so short that the processor begins the next group by itself.
  static constexpr int side_groups(Format format, int rows) {
    const int fewest = format == Format::mxfp4 ? 1 : format == Format::nvfp4 ? 3 : kTileRows;
    return rows >= fewest && rows <= 5 ? 2 : 1;
  }
  // Two tiles take less time to decode in registers than to read what was decoded to memory once; operands of 16 bits or
  // bytes do however many there are. int8 is such operands itself, and more tiles hide its reading better in blocks.
  static constexpr int stream_tiles(Format format) { return format == Format::i8 ? 1 : 2; }
  static constexpr bool streams_all(Format format) { return format == Format::i4 || (format != Format::i8 && kHasDot); }

  static R zero() { return _mm512_setzero_ps(); }
  static R load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, R a) { _mm512_storeu_ps(p, a); }
  static R broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static R fma(R a, R b, R c) { return _mm512_fmadd_ps(a, b, c); }
  static R even(const std::byte* pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
  }
  static R odd(const std::byte* pairs) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
  }
  static R mul(R a, R b) { return _mm512_mul_ps(a, b); }
  // Codes of kWidth columns, 32 bits of each, held until a step is wanted; kScale times it is what its code stands for.
  // Codes of NaN count as 480: they are not packed.
  struct E4m3 {
    static constexpr float kScale = 0x1p120F;
    __m512i all;

    static E4m3 hold(const std::byte* words) { return {_mm512_loadu_si512(words)}; }
    template <int kStep>
    R step() const {  // moved to the highest byte, and from there to the exponent
      const __m512i code = kStep == 3 ? all : _mm512_slli_epi32(all, 24 - 8 * kStep);
      const __m512i mask = _mm512_set1_epi32(static_cast<int>(0x87f00000U));
      return _mm512_castsi512_ps(_mm512_and_si512(_mm512_srai_epi32(code, 4), mask));
    }
  };
  // The first four of 8 codes in 32 bits, or the last four.
  template <int kPart>
  struct E2m1 {
    static constexpr float kScale = 0.5F;
    __m512i all;

    static E2m1 hold(const std::byte* words) { return {_mm512_loadu_si512(words)}; }
    template <int kStep>
    R step() const {  // the low 4 bits of each lane choose
      const __m512 twice = _mm512_setr_ps(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
      return _mm512_permutexvar_ps(_mm512_srli_epi32(all, 8 * kStep + 4 * kPart), twice);
    }
  };
  static R difference(R a, R b) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
  }
  static void hold_loads() {}  // 32 registers have room for what the compiler loads ahead
  // To L2, and to L1. Inlined before the compiler concludes that a function which only prefetches has no effect and drops its
  // calls.
  __attribute__((always_inline)) static void prefetch(const std::byte* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
  }
  __attribute__((always_inline)) static void prefetch_near(const std::byte* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }
};

struct V16 {
  __m512 all;

  static V16 set(float a) { return {_mm512_set1_ps(a)}; }
  static V16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static V16 load_halves(const float* p, const float* q) { return join(_mm256_loadu_ps(p), _mm256_loadu_ps(q)); }
  static V16 load_part(const float* p, std::int64_t count, float fill) {
    return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(count), p)};
  }
  static V16 gather(const float* p, const std::int32_t* n) {
    return {_mm512_setr_ps(p[n[0]], p[n[1]], p[n[2]], p[n[3]], p[n[4]], p[n[5]], p[n[6]], p[n[7]], p[n[8]], p[n[9]],
                           p[n[10]], p[n[11]], p[n[12]], p[n[13]], p[n[14]], p[n[15]])};
  }
  // Lanes from `count` on become `fill`.
  static V16 fill_from(V16 a, std::int64_t count, float fill) {
    return {_mm512_mask_blend_ps(first(count), _mm512_set1_ps(fill), a.all)};
  }
  static void store(float* p, V16 a) { _mm512_storeu_ps(p, a.all); }
  static void stream(float* p, V16 a) { _mm512_stream_ps(p, a.all); }
  static void end_streams() { _mm_sfence(); }
  static V16 add(V16 a, V16 b) { return {_mm512_add_ps(a.all, b.all)}; }
  static V16 sub(V16 a, V16 b) { return {_mm512_sub_ps(a.all, b.all)}; }
  static V16 mul(V16 a, V16 b) { return {_mm512_mul_ps(a.all, b.all)}; }
  static V16 div(V16 a, V16 b) { return {_mm512_div_ps(a.all, b.all)}; }
  static V16 fma(V16 a, V16 b, V16 c) { return {_mm512_fmadd_ps(a.all, b.all, c.all)}; }
  // a < b ? a : b and a > b ? a : b: the second operand if one is NaN.
  static V16 min(V16 a, V16 b) { return {_mm512_min_ps(a.all, b.all)}; }
  static V16 max(V16 a, V16 b) { return {_mm512_max_ps(a.all, b.all)}; }

  static V16 choose_less(V16 a, V16 b, V16 yes, V16 no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.all, b.all, _CMP_LT_OQ), no.all, yes.all)};
  }
  static V16 choose_equal(V16 a, V16 b, V16 yes, V16 no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.all, b.all, _CMP_EQ_OQ), no.all, yes.all)};
  }
  static V16 choose_nan(V16 a, V16 yes, V16 no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.all, a.all, _CMP_UNORD_Q), no.all, yes.all)};
  }
  static bool any_less(V16 a, V16 b) { return _mm512_cmp_ps_mask(a.all, b.all, _CMP_LT_OQ) != 0; }
  // Lanes from `count` on become 0.
  static V16 keep_first(V16 a, std::int64_t count) { return {_mm512_maskz_mov_ps(first(count), a.all)}; }
  // 2^(k / 8) from k + 1.5 · 2^23, if it is normal.
  static V16 power_of_eighths(V16 shifted) {
    const __m512i k = _mm512_castps_si512(shifted.all);
    const __m512i part = _mm512_permutexvar_epi32(k, _mm512_load_si512(kEighths));  // the low four bits count
    return {_mm512_castsi512_ps(_mm512_add_epi32(part, _mm512_slli_epi32(k, 20)))};
  }
  // Lanes as integers from 0: one more where a < b.
  static V16 count_less(V16 count, V16 a, V16 b) {
    const __m512i old = _mm512_castps_si512(count.all);
    const __mmask16 less = _mm512_cmp_ps_mask(a.all, b.all, _CMP_LT_OQ);
    return {_mm512_castsi512_ps(_mm512_mask_add_epi32(old, less, old, _mm512_set1_epi32(1)))};
  }
  static V16 choose_count_below(V16 count, std::int32_t end, V16 yes, V16 no) {
    const __mmask16 below = _mm512_cmplt_epi32_mask(_mm512_castps_si512(count.all), _mm512_set1_epi32(end));
    return {_mm512_mask_blend_ps(below, no.all, yes.all)};
  }
  static std::int32_t sum_count(V16 count) {
    const __m256i eight = _mm256_add_epi32(_mm256_castps_si256(lower(count)), _mm256_castps_si256(upper(count)));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
  }
  static void store_count(std::int32_t* p, V16 count) { store(reinterpret_cast<float*>(p), count); }
  // a = mantissa · 2^exponent, mantissa in [1, 2), for positive normal a.
  static V16 exponent(V16 a) {
    const __m512i biased = _mm512_srli_epi32(_mm512_castps_si512(a.all), 23);
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(biased, _mm512_set1_epi32(127)))};
  }
  static V16 mantissa(V16 a) {
    const __m512i fraction = _mm512_and_si512(_mm512_castps_si512(a.all), _mm512_set1_epi32(0x7fffff));
    return {_mm512_castsi512_ps(_mm512_or_si512(fraction, _mm512_set1_epi32(0x3f800000)))};
  }
  static V16 sqrt(V16 a) { return {_mm512_sqrt_ps(a.all)}; }
  static V16 join(__m256 low, __m256 high) {
    const __m512d first = _mm512_castpd256_pd512(_mm256_castps_pd(low));
    return {_mm512_castpd_ps(_mm512_insertf64x4(first, _mm256_castps_pd(high), 1))};
  }
  static __m256 lower(V16 a) { return _mm512_castps512_ps256(a.all); }
  static __m256 upper(V16 a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.all), 1)); }
  // Bit i: value[i], i < 64, is at least `least`, the same in all lanes.
  static std::uint64_t mask_at_least(const float* value, V16 least) {
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; i += kLanes) {
      mask |= std::uint64_t{at_least(load(value + i), least)} << i;
    }
    return mask;
  }
  // Bit i: lane i of a is at least b's.
  static std::uint32_t at_least(V16 a, V16 b) { return _mm512_cmp_ps_mask(a.all, b.all, _CMP_GE_OQ); }
  // Over all lanes, none of them NaN.
  static float largest(V16 a) {
    const __m256 eight = _mm256_max_ps(lower(a), upper(a));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  // A fixed tree over the lanes: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
  static float sum(V16 a) {
    const __m256 eight = _mm256_add_ps(lower(a), upper(a));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static V16 load_bf16(const std::uint16_t* p) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16))};
  }
  static V16 round_to_bf16(V16 a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(round(a.all), 16))}; }
  static void store_bf16(std::uint16_t* p, V16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(round(a.all)));
  }
  // 2^(byte − 127), NaN of 255.
  static V16 load_e8m0(const std::byte* p) {
    const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i bits = _mm512_max_epi32(_mm512_slli_epi32(code, 23), _mm512_set1_epi32(0x400000));  // 2^-127
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(code, _mm512_set1_epi32(255));
    return {_mm512_castsi512_ps(_mm512_mask_blend_epi32(nan, bits, _mm512_set1_epi32(0x7fc00000)))};
  }
  // NaN of 0x7f and 0xff.
  static V16 load_e4m3(const std::byte* p) {
    const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i rest = _mm512_and_si512(code, _mm512_set1_epi32(0x7f));
    const __mmask16 nan = _mm512_cmpeq_epi32_mask(rest, _mm512_set1_epi32(0x7f));
    const __m512 value = _mm512_mul_ps(V::E4m3{code}.step<0>(), _mm512_set1_ps(V::E4m3::kScale));
    return {_mm512_mask_blend_ps(nan, value, _mm512_set1_ps(__builtin_nanf("")))};
  }
  static V16 load_f16(const std::uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static void store_f16(std::uint16_t* p, V16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.all, _MM_FROUND_TO_NEAREST_INT));
  }

 private:
  static __mmask16 first(std::int64_t count) {
    return static_cast<__mmask16>(count < kLanes ? (1U << count) - 1U : 0xffffU);
  }
  // To nearest even in the low half of each lane; NaN becomes the quiet NaN of its sign.
  static __m512i round(__m512 a) {
    const __m512i bits = _mm512_castps_si512(a);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0x80000000U))),
                                          _mm512_set1_epi32(0x7fc00000));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    return _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16);
  }
};

}  // namespace
}  // namespace switchyard
