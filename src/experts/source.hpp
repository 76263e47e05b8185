// What is known of a matrix before its panels are packed.
#pragma once

#include <cstdint>
#include <vector>

#include "experts/packed.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

struct PackedMatrices::Source {
  const WeightView* view = nullptr;
  bool kept = false;    // its codes and scales are packed as they are
  float factor = 1.0F;  // of nvfp4
  std::vector<float> largest =
      {};  // fp8: magnitudes of blocks [features / kScaleBlock, groups]; NaN if one is not finite
};

// Features and inputs that share a scale where fp8 is made of other weights.
inline constexpr std::int64_t kScaleBlock = 128;

}  // namespace switchyard
