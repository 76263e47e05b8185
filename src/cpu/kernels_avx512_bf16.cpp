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
#include "cpu/word_sums_avx512.hpp"
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
  return peak(iterations, sink, 2 * 2, [](V::R chain, V::R factor) { return V::dot(chain, factor, factor); });
}

}  // namespace

extern const Kernels kKernelsAvx512Bf16;
const Kernels kKernelsAvx512Bf16{Isa::avx512_bf16, gemm,       stream_rows, route,    route_backward, histogram,
                                 combine,          accumulate, read,        peak_fma, peak_bf16,      peak_vnni};

}  // namespace switchyard
