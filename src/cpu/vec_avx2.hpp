// The vectors of AVX2; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

struct V {
  using R = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;
  static constexpr int kTileRows = 6;
  static constexpr bool kHasDot = false;
  static constexpr int kWordSteps = 2;
  // 16 registers: up to 3 rows take the whole panel (12 sums, enough chains to hide the latency), more take half of it
  // (12 sums).
  static constexpr int tile_vectors(int rows) { return rows <= 3 ? 4 : 2; }
  // 4 sums and what is held of 4 vectors of codes, or up to 12 of two.
  static constexpr int stream_vectors(int rows) { return rows == 1 ? 4 : 2; }
  static constexpr int stream_rows(Format format) { return has_scales(format) ? 6 : 3; }
  static constexpr int stream_panels(Format, int) { return 1; }

  // Rows of groups' sums: with 6 there is no room for what is decoded beside them. Of integers, up to 12 sums. Two tiles
  // take less time to decode in registers than once to memory, which they then read.
  static constexpr int group_rows(Format) { return 4; }
  static constexpr int word_vectors(int rows) { return rows <= 3 ? 4 : 2; }
  static constexpr int side_groups(Format, int) { return 1; }
  static constexpr int stream_tiles(Format) { return 2; }
  static constexpr bool streams_all(Format) { return false; }

  // As on units of 512 bits (whole_avx512.hpp), where they were measured.
  static constexpr bool kStreamsNear = true;
  static constexpr std::int64_t floats_ahead(int) { return 4 << 10; }
  static constexpr bool asks_for_codes(Format, int) { return true; }

  static R zero() { return _mm256_setzero_ps(); }
  static R load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, R a) { _mm256_storeu_ps(p, a); }
  static R broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static R element(const float* p) { return broadcast(p); }
  static R fma(R a, R b, R c) { return _mm256_fmadd_ps(a, b, c); }
  static R even(const std::byte* pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)), 16));
  }
  // Two shifts instead of a mask, which would need a register of its own.
  static R odd(const std::byte* pairs) {
    const __m256i low = _mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs)), 16);
    return _mm256_castsi256_ps(_mm256_slli_epi32(low, 16));
  }
  static R mul(R a, R b) { return _mm256_mul_ps(a, b); }
  // Codes of kWidth columns, 32 bits of each, held until a step is wanted; kScale times it is what its code stands for.
  // Codes of NaN count as 480: they are not packed.
  struct E4m3 {
    static constexpr float kScale = 0x1p120F;
    __m256i even;  // 16 bits of each: the highest of an f32, but for copies of the sign
    __m256i odd;

    static E4m3 hold(const std::byte* words) {
      const __m256i all = load_words(words);
      return {_mm256_srai_epi16(_mm256_slli_epi16(all, 8), 4), _mm256_srai_epi16(all, 4)};
    }
    template <int kStep>
    R step() const {
      const __m256i half = kStep % 2 == 0 ? even : odd;
      const __m256i mask = _mm256_set1_epi32(static_cast<int>(0x87f00000U));
      return _mm256_castsi256_ps(_mm256_and_si256(kStep < 2 ? _mm256_slli_epi32(half, 16) : half, mask));
    }
  };
  // The first four of 8 codes in 32 bits, or the last four: as integers in the highest byte of each lane, which takes fewer
  // of the busiest units than shifting them down.
  template <int kPart>
  struct E2m1 {
    static constexpr float kScale = 0x1p-25F;
    __m256i twice;  // a byte each

    static E2m1 hold(const std::byte* words) {
      const __m256i all = kPart == 0 ? load_words(words) : _mm256_srli_epi32(load_words(words), 4);
      const __m256i table =
          _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
      return {_mm256_shuffle_epi8(table, _mm256_and_si256(all, _mm256_set1_epi8(15)))};
    }
    template <int kStep>
    R step() const {
      const __m256i highest = _mm256_set1_epi32(static_cast<int>(0xff000000U));
      const __m256i shifted = kStep == 3 ? twice : _mm256_slli_epi32(twice, 24 - 8 * kStep);
      return _mm256_cvtepi32_ps(kStep == 0 ? shifted : _mm256_and_si256(shifted, highest));
    }
  };
  // Operands are pairs of 16 bits: the first and third of four steps, the second and fourth.
  static R words(R sum, R row, R codes) {
    // An intrinsic's sum would be another variable to g++, which copies it from register to register.
    asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(_mm256_castps_si256(row), _mm256_castps_si256(codes))));
    return sum;
  }
  struct Bytes {
    static constexpr int kSteps = 2;
    __m256i all;

    static Bytes hold(const std::byte* words) { return {load_words(words)}; }
    template <int kStep>
    R step() const {
      return _mm256_castsi256_ps(kStep == 0 ? _mm256_and_si256(all, _mm256_set1_epi16(0xff))
                                            : _mm256_srli_epi16(all, 8));
    }
  };
  struct HalfBytes {
    static constexpr int kSteps = 4;
    __m256i all;

    static HalfBytes hold(const std::byte* words) { return {load_words(words)}; }
    template <int kStep>
    R step() const {
      constexpr int kShift[kSteps] = {0, 8, 4, 12};
      const __m256i shifted = kStep == 0 ? all : _mm256_srli_epi16(all, kShift[kStep]);
      return _mm256_castsi256_ps(kStep == 3 ? shifted : _mm256_and_si256(shifted, _mm256_set1_epi16(15)));
    }
  };
  static void store_steps(float* to, const float* steps) {
    const __m256i mixed =  // 0..3, 8..11, 4..7, 12..15
        _mm256_packs_epi32(_mm256_cvtps_epi32(load(steps)), _mm256_cvtps_epi32(load(steps + kWidth)));
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_shuffle_epi8(_mm256_permute4x64_epi64(mixed, 0xd8), order));
  }
  static R difference(R a, R b) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
  }
  // Keeps the compiler from loading ahead, for which it would push sums onto the stack: 16 registers are full.
  static void hold_loads() { asm volatile("" ::: "memory"); }
  // To L2, and to L1. Inlined before the compiler concludes that a function which only prefetches has no effect and drops its
  // calls.
  __attribute__((always_inline)) static void prefetch(const std::byte* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
  }
  __attribute__((always_inline)) static void prefetch_near(const std::byte* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
  }

 private:
  static __m256i load_words(const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
};

struct V16 {
  __m256 low;
  __m256 high;

  static V16 set(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
  static V16 load(const float* p) { return load_halves(p, p + 8); }
  static V16 load_halves(const float* p, const float* q) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(q)}; }
  static V16 load_part(const float* p, std::int64_t count, float fill) {
    const V16 loaded{_mm256_maskload_ps(p, first(count)), _mm256_maskload_ps(p + 8, first(count - 8))};
    return fill_from(loaded, count, fill);
  }
  static V16 gather(const float* p, const std::int32_t* numbers) {
    return {gather_half(p, numbers), gather_half(p, numbers + 8)};
  }
  // Lanes from `count` on become `fill`.
  static V16 fill_from(V16 a, std::int64_t count, float fill) {
    const __m256 other = _mm256_set1_ps(fill);
    return {_mm256_blendv_ps(other, a.low, _mm256_castsi256_ps(first(count))),
            _mm256_blendv_ps(other, a.high, _mm256_castsi256_ps(first(count - 8)))};
  }
  static void store(float* p, V16 a) {
    _mm256_storeu_ps(p, a.low);
    _mm256_storeu_ps(p + 8, a.high);
  }
  static void stream(float* p, V16 a) {
    _mm256_stream_ps(p, a.low);
    _mm256_stream_ps(p + 8, a.high);
  }
  static void end_streams() { _mm_sfence(); }
  static V16 add(V16 a, V16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static V16 sub(V16 a, V16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
  static V16 mul(V16 a, V16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static V16 div(V16 a, V16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
  static V16 fma(V16 a, V16 b, V16 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  // a < b ? a : b and a > b ? a : b: the second operand if one is NaN.
  static V16 min(V16 a, V16 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
  static V16 max(V16 a, V16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }

  template <int kCompare>
  static V16 choose(V16 a, V16 b, V16 yes, V16 no) {
    return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, kCompare)),
            _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, kCompare))};
  }
  static V16 choose_less(V16 a, V16 b, V16 yes, V16 no) { return choose<_CMP_LT_OQ>(a, b, yes, no); }
  static V16 choose_equal(V16 a, V16 b, V16 yes, V16 no) { return choose<_CMP_EQ_OQ>(a, b, yes, no); }
  static V16 choose_nan(V16 a, V16 yes, V16 no) { return choose<_CMP_UNORD_Q>(a, a, yes, no); }
  static bool any_less(V16 a, V16 b) {
    const __m256 less =
        _mm256_or_ps(_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ));
    return _mm256_movemask_ps(less) != 0;
  }
  // Lanes from `count` on become 0.
  static V16 keep_first(V16 a, std::int64_t count) {
    return {_mm256_and_ps(a.low, _mm256_castsi256_ps(first(count))),
            _mm256_and_ps(a.high, _mm256_castsi256_ps(first(count - 8)))};
  }
  // 2^(k / 8) from k + 1.5 · 2^23, if it is normal.
  static V16 power_of_eighths(V16 shifted) { return {power_of_eighths(shifted.low), power_of_eighths(shifted.high)}; }
  // Lanes as integers from 0: one more where a < b.
  static V16 count_less(V16 count, V16 a, V16 b) {
    return {count_less(count.low, a.low, b.low), count_less(count.high, a.high, b.high)};
  }
  static V16 choose_count_below(V16 count, std::int32_t end, V16 yes, V16 no) {
    const __m256i all = _mm256_set1_epi32(end);
    const __m256i low = _mm256_cmpgt_epi32(all, _mm256_castps_si256(count.low));
    const __m256i high = _mm256_cmpgt_epi32(all, _mm256_castps_si256(count.high));
    return {_mm256_blendv_ps(no.low, yes.low, _mm256_castsi256_ps(low)),
            _mm256_blendv_ps(no.high, yes.high, _mm256_castsi256_ps(high))};
  }
  static std::int32_t sum_count(V16 count) {
    const __m256i eight = _mm256_add_epi32(_mm256_castps_si256(count.low), _mm256_castps_si256(count.high));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
  }
  static void store_count(std::int32_t* p, V16 count) { store(reinterpret_cast<float*>(p), count); }
  // a = mantissa · 2^exponent, mantissa in [1, 2), for positive normal a.
  static V16 exponent(V16 a) { return {exponent(a.low), exponent(a.high)}; }
  static V16 mantissa(V16 a) { return {mantissa(a.low), mantissa(a.high)}; }
  static V16 sqrt(V16 a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
  static V16 join(__m256 low, __m256 high) { return {low, high}; }
  static __m256 lower(V16 a) { return a.low; }
  static __m256 upper(V16 a) { return a.high; }
  // Bit i: value[i], i < 64, is at least `least`, the same in all lanes.
  static std::uint64_t mask_at_least(const float* value, V16 least) {
    return std::uint64_t{mask_of_half(value, least.low)} | std::uint64_t{mask_of_half(value + 32, least.low)} << 32;
  }
  // Bit i: lane i of a is at least b's.
  static std::uint32_t at_least(V16 a, V16 b) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ));
    return static_cast<std::uint32_t>(low | high << 8);
  }
  // Over all lanes, none of them NaN.
  static float largest(V16 a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  // A fixed tree over the lanes: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
  static float sum(V16 a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static V16 load_bf16(const std::uint16_t* p) { return {widen(p), widen(p + 8)}; }
  static V16 round_to_bf16(V16 a) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(round(a.low), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(round(a.high), 16))};
  }
  static void store_bf16(std::uint16_t* p, V16 a) {
    const __m256i mixed = _mm256_packus_epi32(round(a.low), round(a.high));  // low 0..3, high 0..3, low 4..7, high 4..7
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(mixed, 0xd8));
  }
  // 2^(byte − 127), NaN of 255.
  static V16 load_e8m0(const std::byte* p) { return {widen_e8m0(p), widen_e8m0(p + 8)}; }
  // NaN of 0x7f and 0xff.
  static V16 load_e4m3(const std::byte* p) { return {widen_e4m3(p), widen_e4m3(p + 8)}; }
  static V16 load_f16(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static void store_f16(std::uint16_t* p, V16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT));
  }

 private:
  static std::uint32_t mask_of_half(const float* value, __m256 least) {
    __m256i reached[4];
    for (int i = 0; i < 4; ++i) {
      reached[i] = _mm256_castps_si256(_mm256_cmp_ps(least, _mm256_loadu_ps(value + 8 * i), _CMP_LE_OQ));
    }
    // Packing works on halves of 128 bits: 0..3 of each of the four, then 4..7.
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(reached[0], reached[1]), _mm256_packs_epi32(reached[2], reached[3]));
    const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(ordered));
  }
  // A mask of the first `count` of 8 lanes; none below 0, all above 8.
  static __m256i first(std::int64_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < 8 ? count : 8)), lane);
  }
  static __m256 gather_half(const float* p, const std::int32_t* n) {
    return _mm256_setr_ps(p[n[0]], p[n[1]], p[n[2]], p[n[3]], p[n[4]], p[n[5]], p[n[6]], p[n[7]]);
  }
  static __m256 power_of_eighths(__m256 shifted) {
    const __m256i k = _mm256_castps_si256(shifted);
    const __m256i table = _mm256_load_si256(reinterpret_cast<const __m256i*>(kEighths));
    const __m256i part = _mm256_permutevar8x32_epi32(table, k);  // the low three bits count
    return _mm256_castsi256_ps(_mm256_add_epi32(part, _mm256_slli_epi32(k, 20)));
  }
  static __m256 count_less(__m256 count, __m256 a, __m256 b) {
    const __m256i less = _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_LT_OQ));  // −1 where it holds
    return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(count), less));
  }
  static __m256 exponent(__m256 a) {
    const __m256i biased = _mm256_srli_epi32(_mm256_castps_si256(a), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)));
  }
  static __m256 mantissa(__m256 a) {
    const __m256i fraction = _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x7fffff));
    return _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)));
  }
  static __m256 widen(const std::uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static __m256 widen_e8m0(const std::byte* p) {
    const __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m256i lowest = _mm256_set1_epi32(0x400000);  // 2^-127; with the exponent of an infinity, NaN
    const __m256i bits = _mm256_max_epi32(_mm256_slli_epi32(code, 23), lowest);
    const __m256i nan = _mm256_and_si256(_mm256_cmpeq_epi32(code, _mm256_set1_epi32(255)), lowest);
    return _mm256_castsi256_ps(_mm256_or_si256(bits, nan));
  }
  static __m256 widen_e4m3(const std::byte* p) {
    const __m256i code = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m256i bits =
        _mm256_and_si256(_mm256_slli_epi32(code, 20), _mm256_set1_epi32(static_cast<int>(0x87f00000U)));
    const __m256i rest = _mm256_or_si256(code, _mm256_set1_epi32(static_cast<int>(0xffffff80U)));
    const __m256i nan = _mm256_cmpeq_epi32(rest, _mm256_set1_epi32(-1));
    return _mm256_or_ps(_mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(0x1p120F)), _mm256_castsi256_ps(nan));
  }
  // To nearest even in the low half of each lane; NaN becomes the quiet NaN of its sign.
  static __m256i round(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0x80000000U))),
                                          _mm256_set1_epi32(0x7fc00000));
    const __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan)), 16);
  }
};

}  // namespace
}  // namespace switchyard
