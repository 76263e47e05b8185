// Compiled once per vocabulary: VECTORS is the file that defines it, CONVERSIONS the table to make.
#include "f16_conversions.hpp"

#include <immintrin.h>

#include <cstring>

#include "cpu/kernels.hpp"

// clang-format off
#include VECTORS
#include "cpu/float_mode_x86.hpp"
// clang-format on

extern const F16Conversions CONVERSIONS;
const F16Conversions CONVERSIONS{
    [](const std::uint16_t* half, float* value) {
      const switchyard::FloatMode mode(false);
      switchyard::V16::store(value, switchyard::V16::load_f16(half));
    },
    [](const float* value, std::uint16_t* half) {
      const switchyard::FloatMode mode(false);
      switchyard::V16::store_f16(half, switchyard::V16::load(value));
    },
};
