// AVX-512 with VNNI and BF16: bytes are multiplied by VPDPBUSD, bf16 pairs by VDPBF16PS.
#include <immintrin.h>

#include "cpu/kernels.hpp"

namespace switchyard {
namespace {

struct Dot {
  static constexpr bool kHasDot = true;
  // Two FMAs per lane, odd element first, denormals as zero (Intel SDM, VDPBF16PS).
  static __m512 dot(__m512 sum, __m512 a, __m512 b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

}  // namespace
}  // namespace switchyard

// Parts of this file, in this order.
// clang-format off
#include "cpu/words_vnni.hpp"
#include "cpu/vec_avx512.hpp"
#include "cpu/lanes_x86.hpp"
#include "cpu/float_mode_x86.hpp"
#include "cpu/kernels_inl.hpp"
#include "cpu/peak_vnni_inl.hpp"
// clang-format on

namespace switchyard {
namespace {

double peak_bf16(std::int64_t iterations, float* sink) {
  __m512 sum[kChains];
  const __m512 factor = _mm512_set1_ps(*sink);
  for (__m512& chain : sum) {
    chain = factor;
  }
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (__m512& chain : sum) {
      chain = V::dot(chain, factor, factor);
    }
  }
  for (const __m512& chain : sum) {
    sink[1] += V16::sum({chain});
  }
  return 2.0 * 2 * kLanes * kChains * static_cast<double>(iterations);
}

}  // namespace

extern const Kernels kKernelsAvx512Bf16;
const Kernels kKernelsAvx512Bf16{Isa::avx512_bf16, gemm, route,    route_backward, histogram, combine,
                                 accumulate,       read, peak_fma, peak_bf16,      peak_vnni};

}  // namespace switchyard
