// How a vocabulary of kernels converts f16: kLanes values at a time.
#pragma once

#include <cstdint>

struct F16Conversions {
  void (*widen)(const std::uint16_t* half, float* value);
  void (*narrow)(const float* value, std::uint16_t* half);
};
