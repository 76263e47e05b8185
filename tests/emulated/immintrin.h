// Stands before the compiler's immintrin.h: AVX-512 in portable code (SIMDe), so that the text of these kernels is
// tested on machines without it. Proves nothing about the hardware: VDPBF16PS is written here as the manual describes
// it.
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

// What SIMDe 0.7 lacks. The names are the compiler's.
// NOLINTBEGIN(bugprone-reserved-identifier)
static inline __m512i emulated_cvtepu16_epi32(__m256i narrow) {
  alignas(32) unsigned short from[16];
  alignas(64) unsigned to[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(from), narrow);
  for (int i = 0; i < 16; ++i) {
    to[i] = from[i];
  }
  return _mm512_loadu_si512(to);
}
#define _mm512_cvtepu16_epi32(a) emulated_cvtepu16_epi32(a)

static inline __m512 emulated_mask_loadu_ps(__m512 fill, unsigned mask, const float* from) {
  alignas(64) float lane[16];
  _mm512_store_ps(lane, fill);
  for (unsigned i = 0; i < 16; ++i) {
    lane[i] = (mask >> i & 1U) != 0 ? from[i] : lane[i];
  }
  return _mm512_load_ps(lane);
}
#define _mm512_mask_loadu_ps(fill, mask, from) emulated_mask_loadu_ps(fill, mask, from)

static inline void emulated_stream_ps(float* to, __m512 a) {
  alignas(64) float lane[16];
  _mm512_store_ps(lane, a);
  for (int i = 0; i < 16; i += 4) {
    _mm_stream_ps(to + i, _mm_load_ps(lane + i));
  }
}
#define _mm512_stream_ps(to, a) emulated_stream_ps(to, a)

static inline __m256i emulated_cvtepi32_epi16(__m512i wide) {
  alignas(64) unsigned from[16];
  alignas(32) unsigned short to[16];
  _mm512_store_si512(from, wide);
  for (int i = 0; i < 16; ++i) {
    to[i] = static_cast<unsigned short>(from[i]);
  }
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(to));
}
#define _mm512_cvtepi32_epi16(a) emulated_cvtepi32_epi16(a)

static inline __m512 emulated_cvtph_ps(__m256i narrow) {
  alignas(64) float to[16];
  _mm256_store_ps(to, _mm256_cvtph_ps(_mm256_extractf128_si256(narrow, 0)));
  _mm256_store_ps(to + 8, _mm256_cvtph_ps(_mm256_extractf128_si256(narrow, 1)));
  return _mm512_load_ps(to);
}
#define _mm512_cvtph_ps(a) emulated_cvtph_ps(a)

static inline __m256i emulated_cvtps_ph(__m512 wide) {
  alignas(64) float from[16];
  _mm512_store_ps(from, wide);
  return _mm256_setr_m128i(_mm256_cvtps_ph(_mm256_load_ps(from), _MM_FROUND_TO_NEAREST_INT),
                           _mm256_cvtps_ph(_mm256_load_ps(from + 8), _MM_FROUND_TO_NEAREST_INT));
}
#undef _mm512_cvtps_ph  // a macro of clang's, as the other one below
#define _mm512_cvtps_ph(a, rounding) emulated_cvtps_ph(a)

static inline __m512 emulated_cvtepi32_ps(__m512i a) {
  alignas(64) int from[16];
  alignas(64) float to[16];
  _mm512_store_si512(from, a);
  for (int i = 0; i < 16; ++i) {
    to[i] = static_cast<float>(from[i]);
  }
  return _mm512_load_ps(to);
}
#define _mm512_cvtepi32_ps(a) emulated_cvtepi32_ps(a)

#undef _mm512_cmplt_epi32_mask
#define _mm512_cmplt_epi32_mask(a, b) simde_mm512_cmpgt_epi32_mask(b, a)

static inline __m512i emulated_cvtps_epi32(__m512 a) {
  alignas(64) float from[16];
  alignas(64) int to[16];
  _mm512_store_ps(from, a);
  for (int i = 0; i < 16; ++i) {
    to[i] = _mm_cvtss_si32(_mm_set_ss(from[i]));
  }
  return _mm512_loadu_si512(to);
}
#define _mm512_cvtps_epi32(a) emulated_cvtps_epi32(a)

static inline __m512i emulated_srai_epi32(__m512i a, int count) {
  alignas(64) int lane[16];
  _mm512_store_si512(lane, a);
  for (int i = 0; i < 16; ++i) {
    lane[i] >>= count;
  }
  return _mm512_loadu_si512(lane);
}
#define _mm512_srai_epi32(a, count) emulated_srai_epi32(a, count)

static inline __m128i emulated_cvtepi32_epi8(__m512i wide) {
  alignas(64) unsigned from[16];
  alignas(16) unsigned char to[16];
  _mm512_store_si512(from, wide);
  for (int i = 0; i < 16; ++i) {
    to[i] = static_cast<unsigned char>(from[i]);
  }
  return _mm_load_si128(reinterpret_cast<const __m128i*>(to));
}
#define _mm512_cvtepi32_epi8(a) emulated_cvtepi32_epi8(a)

static inline __m512i emulated_cvtepu8_epi32(__m128i narrow) {
  alignas(16) unsigned char from[16];
  alignas(64) unsigned to[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(from), narrow);
  for (int i = 0; i < 16; ++i) {
    to[i] = from[i];
  }
  return _mm512_loadu_si512(to);
}
#define _mm512_cvtepu8_epi32(a) emulated_cvtepu8_epi32(a)

// SIMDe adds both products at once; the instruction does two FMAs, odd element first (Intel SDM).
static inline __m512 emulated_dpbf16_ps(__m512 sum, __m512i a, __m512i b) {
  const __m512i odd = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
  sum = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, odd)), _mm512_castsi512_ps(_mm512_and_si512(b, odd)),
                        sum);
  return _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)),
                         sum);
}
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps(sum, a, b) emulated_dpbf16_ps(sum, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b))

// SIMDe 0.7.4 gives this name to the masked form.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

static inline __m512i emulated_maskz_loadu_epi8(unsigned long long mask, const void* from) {
  alignas(64) unsigned char lane[64];
  for (unsigned i = 0; i < 64; ++i) {
    lane[i] = (mask >> i & 1U) != 0 ? static_cast<const unsigned char*>(from)[i] : 0;
  }
  return _mm512_load_si512(lane);
}
#define _mm512_maskz_loadu_epi8(mask, from) emulated_maskz_loadu_epi8(mask, from)

static inline void emulated_mask_storeu_epi8(void* to, unsigned long long mask, __m512i values) {
  alignas(64) unsigned char lane[64];
  _mm512_store_si512(lane, values);
  for (unsigned i = 0; i < 64; ++i) {
    if ((mask >> i & 1U) != 0) {
      static_cast<unsigned char*>(to)[i] = lane[i];
    }
  }
}
#define _mm512_mask_storeu_epi8(to, mask, values) emulated_mask_storeu_epi8(to, mask, values)
// NOLINTEND(bugprone-reserved-identifier)
