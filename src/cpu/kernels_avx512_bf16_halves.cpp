// The set of kernels_avx512_bf16.cpp for processors whose units take a vector in two halves.
#include <immintrin.h>

#include "cpu/kernels.hpp"

// Parts of this file, in this order.
// clang-format off
#include "cpu/dot_avx512.hpp"
#include "cpu/word_sums_avx512.hpp"
#include "cpu/words_vnni.hpp"
#include "cpu/memory_operands_avx512.hpp"
#include "cpu/halves_avx512.hpp"
#include "cpu/vec_avx512.hpp"
#include "cpu/lanes_x86.hpp"
#include "cpu/float_mode_x86.hpp"
#include "cpu/kernels_inl.hpp"
#include "cpu/peak_vnni_inl.hpp"
#include "cpu/peak_bf16_inl.hpp"
// clang-format on

namespace switchyard {

extern const Kernels kKernelsAvx512Bf16Halves;
const Kernels kKernelsAvx512Bf16Halves{Isa::avx512_bf16_halves,
                                       gemm,
                                       stream_rows,
                                       route,
                                       route_backward,
                                       histogram,
                                       combine,
                                       accumulate,
                                       read,
                                       peak_fma,
                                       peak_bf16,
                                       peak_vnni};

}  // namespace switchyard
