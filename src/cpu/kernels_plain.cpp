// Plain C++: what every other instruction set must agree with, bit for bit.
#include <xmmintrin.h>

#include <cstring>

#include "cpu/kernels.hpp"

// Parts of this file, in this order.
// clang-format off
#include "cpu/vec_plain.hpp"
#include "cpu/float_mode_x86.hpp"
#include "cpu/kernels_inl.hpp"
// clang-format on

namespace switchyard {

extern const Kernels kKernelsPlain;
const Kernels kKernelsPlain{Isa::plain, gemm,       stream_rows, route,    route_backward, histogram,
                            combine,    accumulate, read,        peak_fma, nullptr,        nullptr};

}  // namespace switchyard
