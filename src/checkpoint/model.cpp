#include "switchyard/model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <unordered_set>
#include <utility>

#include "checkpoint/block.hpp"
#include "checkpoint/json_text.hpp"
#include "checkpoint/layout.hpp"
#include "checkpoint/model_config.hpp"
#include "fail.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard {
namespace {

namespace fs = std::filesystem;

// A single file first, as transformers does.
fs::path find_tensors(const fs::path& folder) {
  fs::path single = folder / "model.safetensors";
  fs::path index = folder / "model.safetensors.index.json";
  std::error_code error;
  if (fs::exists(single, error)) return single;
  if (fs::exists(index, error)) return index;
  fail(Code::io, "model: {}: found neither model.safetensors nor model.safetensors.index.json, expected one of them",
       folder.string());
}

bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

bool is_id(DType dtype) { return dtype == DType::i16 || dtype == DType::i32 || dtype == DType::i64; }

ModelInfo make_info(const ModelConfig& config, const TensorFile& file) {
  ModelInfo info;
  info.model_type = config.model_type;
  info.family = config.family->name;
  info.layers = config.layers;
  info.moe_layers = config.moe_layers;
  info.experts = config.experts;
  info.hidden = config.hidden;
  info.ffn = config.ffn;
  info.shared_ffn = config.shared_ffn;
  info.shared_gate = config.shared_ffn > 0 && config.family->shared.gate;
  info.shared_scale = config.shared_scale;
  info.identity_experts = config.identity_experts;
  info.weight_on_input = config.family->weight_on_input;
  info.output_bias = config.family->output_bias;
  info.latent = config.latent;
  if (!config.moe_layers.empty()) {
    info.function = config.function(config.moe_layers.front());
    info.shared_function = config.shared_function(config.moe_layers.front());
  }
  info.router = config.router;
  info.selection_bias = config.selection_bias;
  info.logit_bias = config.family->router.logit_bias;
  info.narrow_router = config.family->router.narrow;
  info.table_layers = config.table_layers;
  if (config.family->outside != nullptr) info.outside = config.family->outside;
  info.unsupported = config.unsupported;
  for (const Tensor& tensor : file.tensors()) info.file_bytes += tensor.bytes;
  return info;
}

// A vector may be stored as a row, and a stack may hold rows for identity experts, which are not looked at.
bool fits(const std::vector<std::int64_t>& found, std::span<const std::int64_t> wanted, std::int64_t spare) {
  std::span<const std::int64_t> shape = found;
  if (wanted.size() == 1 && shape.size() == 2 && shape[0] == 1) shape = shape.subspan(1);
  if (shape.size() != wanted.size()) return false;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const bool held =
        wanted[i] < 0 || shape[i] == wanted[i] || (i == 0 && wanted.size() == 3 && shape[i] == wanted[i] + spare);
    if (!held) return false;
  }
  return true;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::vector<std::string> sizes;
  for (const std::int64_t size : shape) sizes.push_back(size < 0 ? "any" : std::to_string(size));
  return fmt::format("[{}]", fmt::join(sizes, ","));
}

}  // namespace

struct Model::Impl {
  std::string file_name;
  TensorFile file;
  ModelConfig config;
  PlaceChoice place;
  ModelInfo info;

  Impl(const fs::path& tensors, ModelConfig read)
      : file_name(tensors.string()),
        file(TensorFile::open(tensors)),
        config(std::move(read)),
        info(make_info(config, file)) {
    if (info.moe_layers.empty()) return;
    const std::int32_t first = info.moe_layers.front();
    place = choose_place(file, config, first);
    if (place.place != nullptr) {
      info.layout = place.place->experts->label;
      count_bytes();
      note_weights(first);
    }
    if (!config.quantization.empty()) return;  // with names and shapes of its own
    if (place.place == nullptr) {
      fail(Code::bad_data, "model: {}: found no experts of layer {}, expected a tensor named {}", file_name, first,
           fmt::join(possible_names(config, first), " or "));
    }
    for (const std::int32_t layer : info.moe_layers) check_layer(layer);
  }

  // Calls visit(NamedShape, Role) for all tensors of a layer.
  template <class Visit>
  void for_each_tensor(std::int32_t layer, const Visit& visit) const {
    for (const BlockTensor& tensor : block_tensors(config, place, layer)) visit(tensor.wanted, tensor.role);
    const auto experts = [&](const ExpertPlace& where, std::int32_t count) {
      for (std::int32_t expert = 0; expert < count; ++expert) {
        for (const NamedShape& name : expert_names(where, expert)) {
          if (!name.name.empty()) visit(name, Role::expert);
        }
      }
    };
    const ExpertPlace routed = routed_place(config, place, layer);
    if (info.shared_ffn > 0) experts(shared_place(config, place, layer), 1);
    experts(routed, routed.layout->storage == Storage::single ? config.experts : 1);
  }

  // Everything below the first part of a name in the layer counts, scales of a quantisation too.
  void count_bytes() {
    std::unordered_set<std::string> roots;
    for (const std::int32_t layer : info.moe_layers) {
      const std::size_t layer_end = place.layer_name(layer).size();
      for_each_tensor(layer, [&](const NamedShape& name, Role) {
        roots.insert(name.name.substr(0, name.name.find('.', layer_end)));
      });
    }
    for (const Tensor& tensor : file.tensors()) {
      for (auto end = tensor.name.find('.'); end != tensor.name.npos; end = tensor.name.find('.', end + 1)) {
        if (roots.contains(tensor.name.substr(0, end))) {
          info.moe_bytes += tensor.bytes;
          break;
        }
      }
    }
  }

  void note_weights(std::int32_t layer) {
    for (const NamedShape& name : expert_names(routed_place(config, place, layer), 0)) {
      if (const Tensor* tensor = name.name.empty() ? nullptr : file.find(name.name)) {
        info.weights = tensor->dtype;
        return;
      }
    }
  }

  void refuse(std::string reason) {
    if (std::find(info.unsupported.begin(), info.unsupported.end(), reason) == info.unsupported.end()) {
      info.unsupported.push_back(std::move(reason));
    }
  }

  // Tensors of a type that cannot be read may pack several values into one, so their shape says nothing.
  void check(const NamedShape& wanted, Role role) {
    const Tensor* tensor = file.find(wanted.name);
    if (tensor == nullptr) {
      fail(Code::bad_data, "model: {}: has no tensor {}, expected one of shape {}", file_name, wanted.name,
           shape_text(wanted.shape));
    }
    const bool table = role == Role::table;
    if (table ? !is_id(tensor->dtype) : !is_float(tensor->dtype)) {
      return refuse(fmt::format("{} tensors are {}, supported: {}",
                                role == Role::expert ? "expert" : "router or shared", dtype_name(tensor->dtype),
                                table ? "i16, i32, i64" : "f32, bf16, f16"));
    }
    if (!fits(tensor->shape, wanted.shape, role == Role::expert ? config.identity_experts : 0)) {
      fail(Code::bad_data, "model: {}: tensor {} has shape {}, expected {}", file_name, wanted.name,
           shape_text(tensor->shape), shape_text(wanted.shape));
    }
    if (role == Role::expert && is_float(info.weights) && tensor->dtype != info.weights) {
      refuse(fmt::format("expert tensors are {} and {}, supported: one type for all", dtype_name(info.weights),
                         dtype_name(tensor->dtype)));
    }
  }

  void check_layer(std::int32_t layer) {
    for_each_tensor(layer, [&](const NamedShape& wanted, Role role) { check(wanted, role); });
  }

  ExpertFiles expert_files(const ExpertPlace& routed, std::int32_t expert) const {
    ExpertFiles tensors{};
    const ExpertNames names = expert_names(routed, expert);
    for (std::size_t part = 0; part < kExpertParts; ++part) {
      if (!names[part].name.empty()) tensors[part] = &file.at(names[part].name);
    }
    return tensors;
  }

  void release_expert(const ExpertPlace& routed, std::int32_t expert) const {
    for (const Tensor* tensor : expert_files(routed, expert)) {
      if (tensor == nullptr) continue;
      const auto slice = expert_slice(routed, *tensor, expert);
      file.release(slice.data(), slice.size());
    }
  }
};

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

Model Model::open(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    fail(Code::io, "model: {}: is no folder, expected one with config.json and model.safetensors", folder.string());
  }
  const fs::path config = folder / "config.json";
  const ModelConfig read = read_model_config(read_json_file(config, "config"), config.string());
  return Model(std::make_unique<Impl>(find_tensors(folder), read));
}

const ModelInfo& Model::info() const noexcept { return impl_->info; }

Layer Model::layer(std::int32_t index, const LayerOptions& options, const Progress& progress) const {
  const Impl& model = *impl_;
  if (!model.info.unsupported.empty()) {
    fail(Code::not_supported, "model: {}: {}", model.file_name, fmt::join(model.info.unsupported, "; "));
  }
  const auto& layers = model.info.moe_layers;
  if (!std::binary_search(layers.begin(), layers.end(), index)) {
    fail(Code::invalid_argument, "model: layer {} has no experts, expected one of [{}]", index, fmt::join(layers, ","));
  }

  std::vector<const Tensor*> used;
  BlockWeights block = read_block(model.file, model.file_name, model.config, model.place, index, used);
  const ExpertPlace routed = routed_place(model.config, model.place, index);
  const auto finish = [&](std::int32_t expert) {
    model.release_expert(routed, expert);
    if (progress) progress(expert + 1, model.config.experts);
  };
  block.weights.expert = [&](std::int32_t expert) {
    if (expert > 0) finish(expert - 1);
    return expert_views(routed, model.expert_files(routed, expert), expert);
  };
  Layer layer(block.weights, block.router, options);
  finish(model.config.experts - 1);
  for (const Tensor* tensor : used) model.file.release(*tensor);
  return layer;
}

}  // namespace switchyard
