// Codes for numbers, to nearest even whatever is halfway; arithmetic of the default floating-point mode. NaN and infinities
// have no code here: who quantises makes their scale NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace switchyard {

// Adding it leaves the nearest integer to a float below 2^22 in the low bits.
inline constexpr float kNearestInteger = 12582912.0F;  // 1.5 · 2^23

// Beyond 448: 448.
inline std::uint8_t round_e4m3(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7fffffffU;
  const std::uint32_t normal = ((size + 0x7ffffU + (size >> 20 & 1U)) >> 20) - (120U << 3);
  // Steps of 2^-9 below 2^-6.
  const std::uint32_t denormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0x1p14F) - std::bit_cast<std::uint32_t>(0x1p14F);
  const std::uint32_t code = size < std::bit_cast<std::uint32_t>(0x1p-6F) ? denormal : normal;
  return static_cast<std::uint8_t>((code < 0x7eU ? code : 0x7eU) | (bits >> 24 & 0x80U));
}

// Beyond 6: 6.
inline std::uint8_t round_e2m1(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7fffffffU;
  const std::uint32_t normal = ((size + 0x1fffffU + (size >> 22 & 1U)) >> 22) - (126U << 1);
  const std::uint32_t denormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0x1p22F) - std::bit_cast<std::uint32_t>(0x1p22F);
  const std::uint32_t code = size < std::bit_cast<std::uint32_t>(1.0F) ? denormal : normal;
  return static_cast<std::uint8_t>((code < 7U ? code : 7U) | (bits >> 28 & 8U));
}

// The nearest integer of lowest .. highest, plus `offset`.
inline std::uint8_t round_integer(float value, float lowest, float highest, std::int32_t offset) {
  const float bounded = value < lowest ? lowest : value > highest ? highest : value;
  const float code = (bounded + kNearestInteger) - kNearestInteger;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(code) + offset);
}

// The power of two of a group in the MX formats: floor(log2(largest)) − largest exponent of an element (OCP Microscaling
// Formats v1.0, 6.3), as e8m0.
inline std::uint8_t mx_scale(float largest, std::uint32_t element_exponent) {
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(largest) >> 23;
  return static_cast<std::uint8_t>(exponent > element_exponent ? exponent - element_exponent : 0U);
}

inline std::uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) {
    return static_cast<std::uint16_t>(((bits & 0x80000000U) | 0x7fc00000U) >> 16);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace switchyard
