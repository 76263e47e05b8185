// AVX-512 F, BW, DQ, VL.
#include <immintrin.h>

#include "cpu/kernels.hpp"

// Parts of this file, in this order.
// clang-format off
#include "cpu/no_dot_avx512.hpp"
#include "cpu/word_sums_avx512.hpp"
#include "cpu/words_avx512.hpp"
#include "cpu/whole_avx512.hpp"
#include "cpu/vec_avx512.hpp"
#include "cpu/lanes_x86.hpp"
#include "cpu/float_mode_x86.hpp"
#include "cpu/kernels_inl.hpp"
// clang-format on

namespace switchyard {

extern const Kernels kKernelsAvx512;
const Kernels kKernelsAvx512{Isa::avx512, gemm,       stream_rows, route,    route_backward, histogram,
                             combine,     accumulate, read,        peak_fma, nullptr,        nullptr};

}  // namespace switchyard
