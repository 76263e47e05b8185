#include "switchyard/model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "checkpoint/families.hpp"
#include "checkpoint/json_text.hpp"
#include "checkpoint/layout.hpp"
#include "experts/packed.hpp"
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
  info.shared_gate = config.shared_ffn > 0 && config.family->shared.scale != nullptr;
  info.router = config.router;
  info.selection_bias = config.family->selection_bias != nullptr;
  info.unsupported = config.unsupported;
  for (const Tensor& tensor : file.tensors()) info.file_bytes += tensor.bytes;
  return info;
}

}  // namespace

struct Model::Impl {
  std::string file_name;
  TensorFile file;
  const Family* family = nullptr;
  ExpertShape shape;
  LayoutChoice place;
  ModelInfo info;

  Impl(const fs::path& tensors, const ModelConfig& config)
      : file_name(tensors.string()),
        file(TensorFile::open(tensors)),
        family(config.family),
        shape{config.experts, config.hidden, config.ffn, {}},
        info(make_info(config, file)) {
    if (info.moe_layers.empty()) return;
    const std::int32_t first = info.moe_layers.front();
    place = choose_layout(file, *family, shape, first);
    if (place.layout != nullptr) {
      info.layout = place.layout->label;
      count_bytes();
    }
    if (!config.quantization.empty()) {  // with names and shapes of its own
      note_weights(first);
      return;
    }
    if (place.layout == nullptr) fail_no_layout(first);
    note_weights(first);
    for (const std::int32_t layer : info.moe_layers) check_layer(layer);
  }

  std::string prefix(std::int32_t layer) const { return layer_prefix(place.prefix, layer); }

  [[noreturn]] void fail_no_layout(std::int32_t layer) const {
    std::vector<std::string> names;
    for (const ExpertLayout& layout : family->layouts) {
      if (layout.gate == nullptr) continue;
      names.push_back(expert_names(layout, layer_prefix(family->prefixes[0], layer), shape, 0).front().name);
    }
    fail(Code::bad_data, "model: {}: found no experts of layer {}, expected a tensor named {}", file_name, layer,
         fmt::join(names, " or "));
  }

  // All tensors of the blocks count, those of a quantisation too.
  void count_bytes() {
    const std::string router = place.layout->router;
    const std::string block = router.substr(0, router.find('.') + 1);
    std::vector<std::string> prefixes;
    for (const std::int32_t layer : info.moe_layers) prefixes.push_back(prefix(layer) + block);
    for (const Tensor& tensor : file.tensors()) {
      const bool inside = std::any_of(prefixes.begin(), prefixes.end(),
                                      [&](const std::string& start) { return tensor.name.starts_with(start); });
      if (inside) info.moe_bytes += tensor.bytes;
    }
  }

  void note_weights(std::int32_t layer) {
    if (place.layout == nullptr) return;
    for (const NamedShape& name : expert_names(*place.layout, prefix(layer), shape, 0)) {
      if (const Tensor* tensor = file.find(name.name)) {
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
  void check(const NamedShape& wanted, bool of_expert) {
    const Tensor* tensor = file.find(wanted.name);
    if (tensor == nullptr) {
      fail(Code::bad_data, "model: {}: has no tensor {}, expected one of shape [{}]", file_name, wanted.name,
           fmt::join(wanted.shape, ","));
    }
    if (!is_float(tensor->dtype)) {
      return refuse(fmt::format("{} tensors are {}, supported: f32, bf16, f16",
                                of_expert ? "expert" : "router or shared", dtype_name(tensor->dtype)));
    }
    if (tensor->shape != wanted.shape) {
      fail(Code::bad_data, "model: {}: tensor {} has shape [{}], expected [{}]", file_name, wanted.name,
           fmt::join(tensor->shape, ","), fmt::join(wanted.shape, ","));
    }
    if (of_expert && is_float(info.weights) && tensor->dtype != info.weights) {
      refuse(fmt::format("expert tensors are {} and {}, supported: one type for all", dtype_name(info.weights),
                         dtype_name(tensor->dtype)));
    }
  }

  void check_layer(std::int32_t layer) {
    const std::string start = prefix(layer);
    check({start + place.layout->router, {shape.experts, shape.hidden}}, false);
    if (info.selection_bias) check({start + family->selection_bias, {shape.experts}}, false);
    if (info.shared_ffn > 0) {
      check({start + family->shared.gate, {info.shared_ffn, shape.hidden}}, true);
      check({start + family->shared.up, {info.shared_ffn, shape.hidden}}, true);
      check({start + family->shared.down, {shape.hidden, info.shared_ffn}}, true);
      if (info.shared_gate) check({start + family->shared.scale, {1, shape.hidden}}, false);
    }
    const std::int32_t tensors = is_per_expert(*place.layout) ? shape.experts : 1;
    for (std::int32_t expert = 0; expert < tensors; ++expert) {
      for (const NamedShape& name : expert_names(*place.layout, start, shape, expert)) check(name, true);
    }
  }

  std::vector<const Tensor*> expert_files(std::int32_t layer, std::int32_t expert) const {
    std::vector<const Tensor*> tensors;
    for (const NamedShape& name : expert_names(*place.layout, prefix(layer), shape, expert)) {
      tensors.push_back(&file.at(name.name));
    }
    return tensors;
  }

  void release_expert(std::int32_t layer, std::int32_t expert) const {
    for (const auto slice : expert_slices(*place.layout, shape, expert_files(layer, expert), expert)) {
      file.release(slice.data(), slice.size());
    }
  }

  // Empty if the family has none.
  std::vector<float> selection_bias(std::int32_t layer) const {
    if (!info.selection_bias) return {};
    const Tensor& tensor = file.at(prefix(layer) + family->selection_bias);
    std::vector<float> bias(static_cast<std::size_t>(shape.experts));
    read_row({tensor.data, tensor.dtype, 0, 1}, 0, 0, shape.experts, bias.data());
    return bias;
  }

  // Everything but the routed experts; notes the tensors in `used`.
  LayerWeights weights(std::int32_t layer, std::vector<const Tensor*>& used) const {
    const auto view = [&](const char* name) {
      const Tensor& tensor = file.at(prefix(layer) + name);
      used.push_back(&tensor);
      return WeightView{tensor.data, tensor.dtype, tensor.shape[1], 1};
    };
    LayerWeights weights;
    weights.experts = shape.experts;
    weights.hidden = shape.hidden;
    weights.ffn = shape.ffn;
    weights.function = shape.function;
    weights.router = view(place.layout->router);
    weights.shared_ffn = info.shared_ffn;
    if (info.shared_ffn > 0) {
      weights.shared = {view(family->shared.gate), view(family->shared.up), view(family->shared.down)};
      if (info.shared_gate) weights.shared_gate = view(family->shared.scale);
    }
    return weights;
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
  const auto& layers = model.info.moe_layers;
  if (!std::binary_search(layers.begin(), layers.end(), index)) {
    fail(Code::invalid_argument, "model: layer {} has no experts, expected one of [{}]", index, fmt::join(layers, ","));
  }
  if (!model.info.unsupported.empty()) {
    fail(Code::not_supported, "model: {}: {}", model.file_name, fmt::join(model.info.unsupported, "; "));
  }

  std::vector<const Tensor*> used;
  LayerWeights weights = model.weights(index, used);
  const auto finish = [&](std::int32_t expert) {
    model.release_expert(index, expert);
    if (progress) progress(expert + 1, model.shape.experts);
  };
  weights.expert = [&](std::int32_t expert) {
    if (expert > 0) finish(expert - 1);
    return expert_views(*model.place.layout, model.shape, model.expert_files(index, expert), expert);
  };
  RouterOptions router = model.info.router;
  const std::vector<float> bias = model.selection_bias(index);
  if (!bias.empty()) router.selection_bias = {bias.data(), DType::f32};
  Layer layer(weights, router, options);
  finish(model.shape.experts - 1);
  for (const Tensor* tensor : used) model.file.release(*tensor);
  return layer;
}

}  // namespace switchyard
