// Model: the MoE layers of a Hugging Face checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/layer.hpp"

namespace switchyard {

// What the configuration and the tensors' headers say; no weight is read for it.
struct ModelInfo {
  std::string model_type;                  // as config.json has it
  std::string family;                      // the row of the family table
  std::int32_t layers = 0;                 // all layers of the model
  std::vector<std::int32_t> moe_layers;    // indices of those with experts, ascending
  std::int32_t experts = 0;                // E
  std::int64_t hidden = 0;                 // H
  std::int64_t ffn = 0;                    // F
  std::int64_t shared_ffn = 0;             // 0: no shared expert
  bool shared_gate = false;                // the shared expert has a sigmoid gate
  float shared_scale = 1.0F;               // see LayerWeights
  std::int32_t identity_experts = 0;       // see LayerWeights
  bool weight_on_input = false;            // see LayerWeights
  bool output_bias = false;                // the block adds one to its output
  std::int64_t latent = 0;                 // see LayerWeights
  ExpertFunction function;                 // of the first MoE layer's routed experts; limits may differ between layers
  ExpertFunction shared_function;          // the same of its shared expert
  RouterOptions router;                    // its arrays are null: the tensors are read with a layer
  bool selection_bias = false;             // the router has one
  bool logit_bias = false;                 // the router has one
  bool narrow_router = false;              // see LayerWeights
  std::vector<std::int32_t> table_layers;  // those MoE layers that take the experts from a table by token id
  std::string layout;                      // e.g. "per expert, gate_proj/up_proj/down_proj [out,in]"
  DType weights = DType::f32;              // type of the expert tensors
  std::size_t file_bytes = 0;              // all tensors
  std::size_t moe_bytes = 0;               // tensors of the MoE blocks
  std::string outside;                     // what of the family's block is left to the caller; empty: nothing
  std::vector<std::string> unsupported;    // what `layer` would refuse, each with its reason; empty: everything runs
};

class SWITCHYARD_API Model {
 public:
  // Progress of packing a layer, called from the calling thread after every expert.
  using Progress = std::function<void(std::int32_t done, std::int32_t of)>;

  // Maps a checkpoint folder (config.json and model.safetensors or model.safetensors.index.json); reads no weight yet.
  // Throws io, bad_data (tensors that do not fit, too), and not_supported for an unknown model_type, listing the known
  // ones. A model whose block is known and not run opens; its info says why, and may say nothing else.
  static Model open(const std::filesystem::path& folder);
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  const ModelInfo& info() const noexcept;

  // Packs MoE layer `index` (global layer index). Holds no more than one expert of the file's pages at a time.
  // Throws not_supported as ModelInfo::unsupported says, invalid_argument if that layer is not an MoE layer, bad_data if
  // its table of experts names none.
  Layer layer(std::int32_t index, const LayerOptions& options = {}, const Progress& progress = {}) const;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The known values of model_type, sorted; those too that are known not to run.
SWITCHYARD_API std::vector<std::string> known_model_types();

}  // namespace switchyard
