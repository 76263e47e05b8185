// The peak of VPDPBUSD; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

double peak_vnni(std::int64_t iterations, float* sink) {
  __m512i sum[kChains];
  const __m512i factor = _mm512_castps_si512(_mm512_set1_ps(*sink));
  for (__m512i& chain : sum) {
    chain = factor;
  }
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (__m512i& chain : sum) {
      chain = _mm512_dpbusd_epi32(chain, factor, factor);
    }
  }
  alignas(64) std::int32_t out[kLanes];
  for (const __m512i& chain : sum) {
    _mm512_store_si512(out, chain);
    sink[1] += static_cast<float>(out[0]);
  }
  return 2.0 * 4 * kLanes * kChains * static_cast<double>(iterations);
}

}  // namespace
}  // namespace switchyard
