// What config.json says of quantised weights. Most of it the tensors say themselves; this is the rest.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/config.hpp"

namespace switchyard {

struct Quantization {
  std::string method;                              // quant_method; empty: the configuration names none
  std::array<std::int64_t, 2> block = {128, 128};  // outputs and inputs that share a scale where scales are a grid
  std::vector<std::int64_t> groups;  // inputs that share a scale of integers, ascending; 0: all; none: unknown
  std::int32_t bits = 4;             // of GPTQ's codes
  std::int32_t zero_offset = 1;      // what has to be added to GPTQ's zeros
  std::string refused;               // why such weights cannot be read; empty: they can
};

// Of the configuration or of the text model inside it. Throws bad_data for values that cannot be.
Quantization read_quantization(const Config& root, const Config& text_model);

}  // namespace switchyard
