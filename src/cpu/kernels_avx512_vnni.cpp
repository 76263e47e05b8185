// AVX-512 with VNNI: bytes are multiplied by VPDPBUSD.
#include <immintrin.h>

#include "cpu/kernels.hpp"

// Parts of this file, in this order.
// clang-format off
#include "cpu/no_dot_avx512.hpp"
#include "cpu/word_sums_avx512.hpp"
#include "cpu/words_vnni.hpp"
#include "cpu/whole_avx512.hpp"
#include "cpu/vec_avx512.hpp"
#include "cpu/lanes_x86.hpp"
#include "cpu/float_mode_x86.hpp"
#include "cpu/kernels_inl.hpp"
#include "cpu/peak_vnni_inl.hpp"
// clang-format on

namespace switchyard {

extern const Kernels kKernelsAvx512Vnni;
const Kernels kKernelsAvx512Vnni{Isa::avx512_vnni, gemm,       stream_rows, route,    route_backward, histogram,
                                 combine,          accumulate, read,        peak_fma, nullptr,        peak_vnni};

}  // namespace switchyard
