// What config.json says of the MoE layers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/families.hpp"
#include "checkpoint/quantization.hpp"
#include "switchyard/experts.hpp"
#include "switchyard/route.hpp"

namespace switchyard {

struct ModelConfig {
  const Family* family = nullptr;
  std::string model_type;
  std::int32_t layers = 0;
  std::vector<std::int32_t> moe_layers;    // ascending
  std::vector<std::int32_t> table_layers;  // those of them that take their experts from a table
  std::int32_t experts = 0;
  std::int32_t identity_experts = 0;
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  std::int64_t shared_ffn = 0;
  float shared_scale = 1.0F;
  std::int64_t latent = 0;
  bool biases = false;          // Family::bias_key
  RouterOptions router;         // without arrays
  bool selection_bias = false;  // but in table_layers
  Quantization quantization;
  std::vector<std::string> unsupported;  // each with its reason

  // Of the routed experts and of the shared one in that layer.
  ExpertFunction function(std::int32_t layer) const;
  ExpertFunction shared_function(std::int32_t layer) const;

  ExpertFunction function_of_all;
  std::vector<float> limits;  // per layer in place of function_of_all's; empty: none
  std::vector<float> shared_limits;
};

// `file` is used in messages. Throws bad_data, and not_supported for an unknown model_type.
ModelConfig read_model_config(std::string_view text, const std::string& file);

// Fills layers, moe_layers and table_layers.
void read_schedule(const Config& config, ModelConfig& model);

}  // namespace switchyard
