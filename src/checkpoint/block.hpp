// The tensors of a layer beside its experts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/layout.hpp"
#include "switchyard/layer.hpp"

namespace switchyard {

enum class Role {
  router,
  logit_bias,
  selection_bias,
  table,
  shared_gate,
  latent_in,
  latent_out,
  latent_in_bias,
  latent_out_bias,
  output_bias,
  expert,       // a weight of a routed one
  shared,       // of the shared one
  expert_bias,  // of either
};

struct BlockTensor {
  Role role = Role::router;
  NamedShape wanted;
};

// What this layer needs.
std::vector<BlockTensor> block_tensors(const ModelConfig& config, const PlaceChoice& choice, std::int32_t layer);

// What a Layer is made of but for its experts, and the arrays that its router's options point to.
struct BlockWeights {
  LayerWeights weights;
  RouterOptions router;
  std::vector<float> selection_bias;
  std::vector<float> logit_bias;
  std::vector<std::int64_t> table;
};

// Reads arrays and makes views; the tensors have the shapes of block_tensors. Notes them in `used`. Throws bad_data,
// naming `file_name`, for a table that names no expert, and what check_values throws.
BlockWeights read_block(const TensorFile& file, const std::string& file_name, const ModelConfig& config,
                        const PlaceChoice& choice, std::int32_t layer, std::vector<const Tensor*>& used);

}  // namespace switchyard
