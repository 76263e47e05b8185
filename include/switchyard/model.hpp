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
  std::string model_type;                       // as config.json has it
  std::string family;                           // the row of the family table
  std::int32_t layers = 0;                      // all layers of the model
  std::vector<std::int32_t> moe_layers;         // indices of those with experts, ascending
  std::int32_t experts = 0;                     // E
  std::int64_t hidden = 0;                      // H
  std::int64_t ffn = 0;                         // F
  std::int64_t shared_ffn = 0;                  // 0: no shared expert
  bool shared_gate = false;                     // the shared expert has a sigmoid gate
  float shared_scale = 1.0F;                    // see LayerWeights
  std::int32_t identity_experts = 0;            // see LayerWeights
  WeightSite weight_site = WeightSite::output;  // see LayerWeights
  bool output_bias = false;                     // the block adds one to its output
  std::int64_t latent = 0;                      // see LayerWeights
  ExpertFunction function;                 // of the first MoE layer's routed experts; limits may differ between layers
  ExpertFunction shared_function;          // the same of its shared expert
  RouterOptions router;                    // its arrays are null: the tensors are read with a layer
  bool selection_bias = false;             // the router has one
  bool logit_bias = false;                 // the router has one
  bool narrow_router = false;              // see LayerWeights
  std::vector<std::int32_t> table_layers;  // those MoE layers that take the experts from a table by token id
  std::string layout;                      // e.g. "per expert, gate_proj/up_proj/down_proj [out,in]"
  DType weights = DType::f32;              // type of the expert tensors, codes if they are quantised
  DType shared_weights = DType::f32;       // the same of the shared expert's, f32 if they have several types
  std::string quantization;                // quant_method as config.json has it; empty: none
  Codes codes = Codes::plain;              // what an element of the routed experts is, in the first MoE layer
  DType scales = DType::f32;               // type of what codes are multiplied with; nothing of plain ones
  std::int64_t out_block = 0;              // outputs that share a scale; 0: all
  std::int64_t in_block = 0;               // inputs that share a scale; 0: all
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
  // Throws not_supported as ModelInfo::unsupported says, invalid_argument if that layer is not an MoE layer, bad_data
  // if its table of experts names none.
  //
  // With the name of a folder in `cache`, the packed form is kept in a file there and mapped the next time, by any
  // number of processes: same bits, no packing, no copy. All of the file is read and checked before it is used; one
  // that is damaged, of another version of this library or of weights that have changed is replaced, and so a folder
  // that can only be read is enough as long as its files fit. The folder is made if it is missing. Throws io, before
  // packing, where a file is needed and cannot be made or has no room (on filesystems that can reserve it), and after it
  // where the file cannot be written; nothing of it stays. What counts as a change: docs/memory.md. A file that is cut
  // short while it is mapped is beyond what a mapping can report.
  Layer layer(std::int32_t index, const LayerOptions& options = {}, const Progress& progress = {},
              const std::filesystem::path& cache = {}) const;

  // Bytes of workspace that a forward of `index` with up to max_tokens will need, known without packing: the same
  // number as layer(index, options).workspace_bytes(max_tokens). Throws as layer does.
  std::size_t workspace_bytes(std::int32_t index, const LayerOptions& options, std::int64_t max_tokens) const;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The known values of model_type, sorted; those too that are known not to run.
SWITCHYARD_API std::vector<std::string> known_model_types();

}  // namespace switchyard
