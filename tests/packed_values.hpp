// What packed codes stand for, read here once more from docs/formats.md.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "elements.hpp"
#include "experts/packed.hpp"

namespace packed_values {

using namespace switchyard;

inline double e4m3_value(unsigned code) {
  const int exponent = static_cast<int>(code >> 3 & 15);
  const auto mantissa = static_cast<double>(code & 7);
  const double sign = code >= 128 ? -1 : 1;
  if ((code & 127) == 127) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return sign * (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

inline double e2m1_value(unsigned code) {
  constexpr double kValues[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8) != 0 ? -kValues[code & 7] : kValues[code & 7];
}

inline double e8m0_value(unsigned code) {
  return code == 255 ? std::numeric_limits<double>::quiet_NaN() : std::ldexp(1.0, static_cast<int>(code) - 127);
}

inline const std::byte* panel_of(const PackedMatrices& packed, std::int64_t panel) {
  return packed.matrix(0) + panel * packed.panel_bytes();
}

// Of column `column` of a panel, contraction step k.
inline double scale(const PackedMatrices& packed, std::int64_t panel, std::int64_t column, std::int64_t k) {
  const PanelScales& scales = packed.scales();
  const std::byte* from = panel_of(packed, panel) + (packed.format() == Format::nvfp4 ? 64 : 0);
  const std::int64_t at = k / scales.group * 32 + column;
  switch (scales.dtype) {
    case DType::f32:
      return elements::load<float>(from, at);
    case DType::bf16:
      return elements::bf16_value(elements::load<std::uint16_t>(from, at));
    case DType::f8_e8m0:
      return e8m0_value(elements::load<std::uint8_t>(from, at));
    default:
      return e4m3_value(elements::load<std::uint8_t>(from, at));
  }
}

inline double factor(const PackedMatrices& packed, std::int64_t panel, std::int64_t column) {
  return packed.format() == Format::nvfp4 ? elements::load<float>(panel_of(packed, panel), column % 16) : 1;
}

// The number that a code stands for.
inline double code(const PackedMatrices& packed, std::int64_t panel, std::int64_t column, std::int64_t k) {
  const std::int64_t bits = code_bits(packed.format());
  const std::byte* codes = panel_of(packed, panel) + packed.panel_bytes() - packed.padded_depth() * 32 * bits / 8;
  if (bits == 8) {
    const auto byte = elements::load<std::uint8_t>(codes, (k / 4 * 32 + column) * 4 + k % 4);
    return packed.format() == Format::i8 ? byte - 128.0 : e4m3_value(byte);
  }
  const auto byte = elements::load<std::uint8_t>(codes, (k / 8 * 32 + column) * 4 + k % 4);
  const unsigned half = k % 8 < 4 ? byte & 15U : byte >> 4;
  return packed.format() == Format::i4 ? half - 8.0 : e2m1_value(half);
}

// A weight, rounded once.
inline float value(const PackedMatrices& packed, std::int64_t panel, std::int64_t column, std::int64_t k) {
  return static_cast<float>(code(packed, panel, column, k) * scale(packed, panel, column, k) *
                            factor(packed, panel, column));
}

}  // namespace packed_values
