// Where the tensors of one layer stand in a checkpoint.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_config.hpp"
#include "checkpoint/stored_weight.hpp"
#include "switchyard/experts.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard {

// A place and the prefix that goes with it, "model.layers.{layer}."; no place: none fits.
struct PlaceChoice {
  const Place* place = nullptr;
  const char* prefix = nullptr;

  // What a layer's names begin with.
  std::string layer_name(std::int32_t layer) const;
  // A name of the place in full.
  std::string name(const char* pattern, std::int32_t layer, std::int32_t expert = 0) const;
};

// "x.weight" → "x.bias"
std::string bias_name(std::string weight);

// The place of the family that most of the layer's tensors fit, by name and by shape; if not one does, none. Orientations
// have the same names. A single tensor may fit both of them, but gate and up together with down never do.
PlaceChoice choose_place(const TensorFile& file, const ModelConfig& config, std::int32_t layer);

// The names that a layer's experts may have, for messages.
std::vector<std::string> possible_names(const ModelConfig& config, std::int32_t layer);

// The experts of a layer, or its shared expert.
struct ExpertPlace {
  const ExpertLayout* layout = nullptr;
  PlaceChoice choice;
  std::int32_t layer = 0;
  ExpertShape shape;
  bool named_biases = false;  // every weight has a bias, named .bias in place of .weight
};
ExpertPlace routed_place(const ModelConfig& config, const PlaceChoice& choice, std::int32_t layer);
ExpertPlace shared_place(const ModelConfig& config, const PlaceChoice& choice, std::int32_t layer);

// Gate (with up if they are fused), up, down and their biases.
inline constexpr std::size_t kExpertParts = 6;
constexpr bool is_bias(std::size_t part) { return part >= kExpertParts / 2; }
using ExpertNames = std::array<NamedShape, kExpertParts>;
using ExpertFiles = std::array<StoredWeight, kExpertParts>;  // no codes: there is none

// Those of all experts together are the same for every `expert`.
ExpertNames expert_names(const ExpertPlace& place, std::int32_t expert);

// Where an expert stands in its tensors.
std::int32_t index_of(const ExpertPlace& place, std::int32_t expert);

// The same as matrices.
ExpertTensors expert_views(const ExpertPlace& place, const ExpertFiles& files, std::int32_t expert);

}  // namespace switchyard
