// Where the experts of one layer stand in a checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/families.hpp"
#include "switchyard/experts.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard {

struct NamedShape {
  std::string name;
  std::vector<std::int64_t> shape;
};

// A layout and the prefix that goes with it, "model.layers.{layer}.".
struct LayoutChoice {
  const ExpertLayout* layout = nullptr;
  const char* prefix = nullptr;
};

// The alternative of the family that most of the layer's tensors fit, by name and by shape; no layout if not one does.
// Orientations have the same names. A single tensor may fit both of them, but gate and up together with down never do.
LayoutChoice choose_layout(const TensorFile& file, const Family& family, const ExpertShape& shape, std::int32_t layer);

// "model.layers.{layer}." and layer 3 → "model.layers.3."
std::string layer_prefix(const char* prefix, std::int32_t layer);

bool is_per_expert(const ExpertLayout& layout) noexcept;

// Gate, up (not if fused) and down of an expert; those of all experts together are the same for every `expert`.
std::vector<NamedShape> expert_names(const ExpertLayout& layout, const std::string& prefix, const ExpertShape& shape,
                                     std::int32_t expert);

// One expert's part of each of those tensors.
std::vector<std::span<const std::byte>> expert_slices(const ExpertLayout& layout, const ExpertShape& shape,
                                                      std::span<const Tensor* const> tensors, std::int32_t expert);

// The same as matrices. The tensors have the shapes of expert_names.
ExpertTensors expert_views(const ExpertLayout& layout, const ExpertShape& shape, std::span<const Tensor* const> tensors,
                           std::int32_t expert);

}  // namespace switchyard
