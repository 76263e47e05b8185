// Numbers in memory of any element type, and back: written here once more so that the library's conversions are tested.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "switchyard/types.hpp"

namespace elements {

using switchyard::ConstArray;
using switchyard::DType;

template <class T>
T load(const void* data, std::int64_t i) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(data) + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

inline std::uint32_t bits_of(float value) { return load<std::uint32_t>(&value, 0); }

// To nearest, ties to even.
inline std::uint16_t bf16_bits(float value) {
  const std::uint32_t bits = bits_of(value);
  if (std::isnan(value)) {
    return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

inline std::uint16_t f16_bits(float value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double size = std::abs(static_cast<double>(value));
  if (std::isnan(value)) {
    return static_cast<std::uint16_t>(sign | 0x7e00);
  }
  if (size >= 65520) {
    return static_cast<std::uint16_t>(sign | 0x7c00);
  }
  const int exponent = size < 0x1p-14 ? -14 : std::ilogb(size);
  const auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return static_cast<std::uint16_t>(sign + ((exponent + 14) << 10) + mantissa);
}

inline double f16_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  return sign * (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25));
}

inline double bf16_value(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  return load<float>(&wide, 0);
}

// A float of f32, bf16 or f16.
inline double value_at(ConstArray from, std::int64_t i) {
  switch (from.dtype) {
    case DType::bf16:
      return bf16_value(load<std::uint16_t>(from.data, i));
    case DType::f16:
      return f16_value(load<std::uint16_t>(from.data, i));
    default:
      return load<float>(from.data, i);
  }
}

// An id of i16, i32 or i64.
inline std::int64_t id_at(ConstArray from, std::int64_t i) {
  switch (from.dtype) {
    case DType::i16:
      return load<std::int16_t>(from.data, i);
    case DType::i32:
      return load<std::int32_t>(from.data, i);
    default:
      return load<std::int64_t>(from.data, i);
  }
}

template <class T>
void append(std::vector<std::byte>& to, T value) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof(T));
}

// Elements of one type that own their memory.
struct Elements {
  DType dtype = DType::f32;
  std::vector<std::byte> bytes;

  ConstArray view() const { return {bytes.data(), dtype}; }
  bool operator==(const Elements&) const = default;
};

template <class T>
Elements of(DType dtype, const std::vector<T>& values) {
  Elements out{dtype, {}};
  for (const T value : values) {
    switch (dtype) {
      case DType::bf16:
        append(out.bytes, bf16_bits(static_cast<float>(value)));
        break;
      case DType::f16:
        append(out.bytes, f16_bits(static_cast<float>(value)));
        break;
      case DType::i16:
        append(out.bytes, static_cast<std::int16_t>(value));
        break;
      case DType::i32:
        append(out.bytes, static_cast<std::int32_t>(value));
        break;
      case DType::i64:
        append(out.bytes, static_cast<std::int64_t>(value));
        break;
      default:
        append(out.bytes, static_cast<float>(value));
    }
  }
  return out;
}

// The values as `dtype` holds them, in f32.
inline std::vector<float> rounded(DType dtype, const std::vector<float>& values) {
  const Elements narrow = of(dtype, values);
  std::vector<float> out(values.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(value_at(narrow.view(), static_cast<std::int64_t>(i)));
  }
  return out;
}

}  // namespace elements
