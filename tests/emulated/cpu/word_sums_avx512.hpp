// The same of vectors that are emulated and have no registers.

namespace switchyard {
namespace {

inline __m512 add_words(__m512 sum, __m512i words) {
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(sum), words));
}

inline __m512 add_products(__m512 sum, __m512 codes, __m512 row) {
  return _mm512_castsi512_ps(
      _mm512_dpbusd_epi32(_mm512_castps_si512(sum), _mm512_castps_si512(codes), _mm512_castps_si512(row)));
}

}  // namespace
}  // namespace switchyard
