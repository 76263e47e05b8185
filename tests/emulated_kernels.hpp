// The AVX-512 kernels compiled with emulated intrinsics, and the plain ones to compare with.
#pragma once

#include "cpu/kernels.hpp"

namespace switchyard {

extern const Kernels kKernelsPlain;
extern const Kernels kEmulatedAvx512;
extern const Kernels kEmulatedAvx512Vnni;
extern const Kernels kEmulatedAvx512Bf16;
extern const Kernels kEmulatedAvx512Bf16Halves;

}  // namespace switchyard
