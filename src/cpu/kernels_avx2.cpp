// AVX2 + FMA + F16C.
#include <immintrin.h>

#include "cpu/kernels.hpp"

// Parts of this file, in this order.
// clang-format off
#include "cpu/vec_avx2.hpp"
#include "cpu/lanes_x86.hpp"
#include "cpu/float_mode_x86.hpp"
#include "cpu/kernels_inl.hpp"
// clang-format on

namespace switchyard {

extern const Kernels kKernelsAvx2;
const Kernels kKernelsAvx2{Isa::avx2, gemm,       stream_rows, route,    route_backward, histogram,
                           combine,   accumulate, read,        peak_fma, nullptr,        nullptr};

}  // namespace switchyard
