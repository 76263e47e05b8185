// Format: what packed weights are stored as.
#pragma once

#include <cstdint>

#include "switchyard/export.hpp"

namespace switchyard {

// Pinned numbers, shared with the C API. docs/formats.md has the layouts and the rounding of each.
enum class Format : std::int32_t {
  f32 = 0,
  bf16 = 1,
  i8 = 2,       // one scale per output feature; rows are quantised to i8, too
  i4 = 3,       // one scale per feature and group of 128 or 32 inputs; rows are quantised to i8
  f8_e4m3 = 4,  // blocks of 128 × 128, or one scale per feature
  mxfp4 = 5,    // e2m1, a power of two per feature and 32 inputs
  mxfp8 = 6,    // e4m3, the same
  nvfp4 = 7,    // e2m1, an e4m3 scale per feature and 16 inputs, one f32 factor per matrix
};
inline constexpr std::int32_t kFormats = 8;

// Whether activations may be bf16 (LayerOptions::activations): not beside f32, nor beside integers, for which rows are
// quantised.
constexpr bool takes_bf16_activations(Format format) {
  return format != Format::f32 && format != Format::i8 && format != Format::i4;
}

// "f32", "bf16", "int8", "int4", "fp8", "mxfp4", "mxfp8", "nvfp4".
SWITCHYARD_API const char* format_name(Format format) noexcept;

}  // namespace switchyard
