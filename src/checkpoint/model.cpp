#include "switchyard/model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <span>
#include <unordered_set>
#include <utility>

#include "checkpoint/block.hpp"
#include "checkpoint/fingerprint.hpp"
#include "checkpoint/json_text.hpp"
#include "checkpoint/layout.hpp"
#include "checkpoint/model_config.hpp"
#include "fail.hpp"
#include "format_text.hpp"
#include "layer/pack_cache.hpp"
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
  info.weight_site = config.family->weight_site;
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
  info.quantization = config.quantization.method;
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
  sizes.reserve(shape.size());
  for (const std::int64_t size : shape) sizes.push_back(size < 0 ? "any" : std::to_string(size));
  return format_text("[{}]", fmt::join(sizes, ","));
}

}  // namespace

struct Model::Impl {
  std::string file_name;
  std::string config_text;
  TensorFile file;
  ModelConfig config;
  PlaceChoice place;
  ModelInfo info;
  bool shared_noted = false;

  Impl(const fs::path& tensors, std::string text, ModelConfig read)
      : file_name(tensors.string()),
        config_text(std::move(text)),
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
    if (!config.quantization.refused.empty()) return;  // with names and shapes of its own
    if (place.place == nullptr) {
      fail(Code::bad_data, "model: {}: found no experts of layer {}, expected a tensor named {}", file_name, first,
           fmt::join(possible_names(config, first), " or "));
    }
    for (const std::int32_t layer : info.moe_layers) check_layer(layer);
    if (!info.unsupported.empty()) return;
    std::string reason = misfit_of(expert_files(routed_place(config, place, first), 0));
    if (!reason.empty()) refuse(std::move(reason));
  }

  // Calls visit(NamedShape, Role) for all tensors of a layer.
  template <class Visit>
  void for_each_tensor(std::int32_t layer, const Visit& visit) const {
    for (const BlockTensor& tensor : block_tensors(config, place, layer)) visit(tensor.wanted, tensor.role);
    const auto experts = [&](const ExpertPlace& where, std::int32_t count, Role role) {
      for (std::int32_t expert = 0; expert < count; ++expert) {
        const ExpertNames names = expert_names(where, expert);
        for (std::size_t part = 0; part < names.size(); ++part) {
          if (!names[part].name.empty()) visit(names[part], is_bias(part) ? Role::expert_bias : role);
        }
      }
    };
    const ExpertPlace routed = routed_place(config, place, layer);
    if (info.shared_ffn > 0) experts(shared_place(config, place, layer), 1, Role::shared);
    experts(routed, routed.layout->storage == Storage::single ? config.experts : 1, Role::expert);
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

  // What the first routed weight is stored as.
  void note_weights(std::int32_t layer) {
    for (const NamedShape& name : expert_names(routed_place(config, place, layer), 0)) {
      if (name.name.empty()) continue;
      const std::optional<StoredWeight> weight = find_if_supported(name);
      if (!weight) return;
      if (weight->parts.codes == nullptr) continue;
      info.weights = weight->parts.codes->dtype;
      info.codes = weight->view.codes;
      if (weight->parts.scales == nullptr) return;
      const WeightScales& scales = weight->view.scales;
      info.scales = scales.dtype;
      info.out_block = scales.out_block == kWholeBlock ? 0 : scales.out_block;
      info.in_block = scales.in_block == kWholeBlock ? 0 : scales.in_block;
      return;
    }
  }

  void note_shared(DType dtype) {
    info.shared_weights = !shared_noted || info.shared_weights == dtype ? dtype : DType::f32;
    shared_noted = true;
  }

  // Nothing, and a reason noted, for what cannot be read.
  std::optional<StoredWeight> find_if_supported(const NamedShape& wanted) {
    try {
      return find_weight(file, file_name, wanted, config.quantization);
    } catch (const Error& error) {
      if (error.code() != Code::not_supported) throw;
      refuse(error.what());
      return std::nullopt;
    }
  }

  void refuse(std::string reason) {
    if (std::find(info.unsupported.begin(), info.unsupported.end(), reason) == info.unsupported.end()) {
      info.unsupported.push_back(std::move(reason));
    }
  }

  [[noreturn]] void fail_absent(const NamedShape& wanted) const {
    fail(Code::bad_data, "model: {}: has no tensor {}, expected one of shape {}", file_name, wanted.name,
         shape_text(wanted.shape));
  }

  void check_shape(const Tensor& tensor, const NamedShape& wanted, std::int64_t spare) const {
    if (fits(tensor.shape, wanted.shape, spare)) return;
    fail(Code::bad_data, "model: {}: tensor {} has shape {}, expected {}", file_name, wanted.name,
         shape_text(tensor.shape), shape_text(wanted.shape));
  }

  void check_table(const NamedShape& wanted) {
    const Tensor* tensor = file.find(wanted.name);
    if (tensor == nullptr) fail_absent(wanted);
    if (!is_id(tensor->dtype)) {
      return refuse(format_text("the table of experts is {}, supported: i16, i32, i64", dtype_name(tensor->dtype)));
    }
    check_shape(*tensor, wanted, 0);
  }

  void check(const NamedShape& wanted, Role role) {
    if (role == Role::table) return check_table(wanted);
    const std::optional<StoredWeight> weight = find_if_supported(wanted);
    if (!weight) return;
    if (weight->parts.codes == nullptr) fail_absent(wanted);
    if (role == Role::shared) note_shared(weight->parts.codes->dtype);
    if (weight->view.codes != Codes::plain) return;
    const Tensor& tensor = *weight->parts.codes;
    const bool of_expert = role == Role::expert || role == Role::shared || role == Role::expert_bias;
    check_shape(tensor, wanted, of_expert ? config.identity_experts : 0);
    if (role == Role::expert && config.quantization.method.empty() && tensor.dtype != info.weights) {
      refuse(format_text("routed experts are {} and {}, supported: one type for all", dtype_name(info.weights),
                         dtype_name(tensor.dtype)));
    }
  }

  void check_layer(std::int32_t layer) {
    for_each_tensor(layer, [&](const NamedShape& wanted, Role role) { check(wanted, role); });
  }

  Fingerprint source_of(std::int32_t layer) const {
    std::vector<const Tensor*> tensors;
    for_each_tensor(layer, [&](const NamedShape& name, Role role) {
      if (role == Role::table) return tensors.push_back(&file.at(name.name));
      for (const Tensor* tensor : find_weight(file, file_name, name, config.quantization).tensors()) {
        if (tensor != nullptr) tensors.push_back(tensor);
      }
    });
    return fingerprint(config_text, file, layer, tensors);
  }

  // What an MoE layer is made of but for its experts.
  BlockWeights block(std::int32_t index, std::vector<const Tensor*>& used) const {
    if (!info.unsupported.empty()) {
      fail(Code::not_supported, "model: {}: {}", file_name, fmt::join(info.unsupported, "; "));
    }
    const auto& layers = info.moe_layers;
    if (!std::binary_search(layers.begin(), layers.end(), index)) {
      fail(Code::invalid_argument, "model: layer {} has no experts, expected one of [{}]", index,
           fmt::join(layers, ","));
    }
    return read_block(file, file_name, config, place, index, used);
  }

  ExpertFiles expert_files(const ExpertPlace& routed, std::int32_t expert) const {
    ExpertFiles files{};
    const ExpertNames names = expert_names(routed, expert);
    for (std::size_t part = 0; part < kExpertParts; ++part) {
      if (!names[part].name.empty()) files[part] = find_weight(file, file_name, names[part], config.quantization);
    }
    return files;
  }

  // Empty: the values are such as can be read.
  std::string misfit_of(const ExpertFiles& files) const {
    for (const StoredWeight& weight : files) {
      if (weight.parts.codes == nullptr) continue;
      std::string reason = check_values(weight, file_name, config.quantization);
      if (!reason.empty()) return reason;
    }
    return {};
  }

  void release_expert(const ExpertPlace& routed, std::int32_t expert) const {
    for (const StoredWeight& weight : expert_files(routed, expert)) {
      if (weight.parts.codes != nullptr) release_matrix(file, weight, index_of(routed, expert));
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
  std::string text = read_json_file(config, "config");
  const ModelConfig read = read_model_config(text, config.string());
  return Model(std::make_unique<Impl>(find_tensors(folder), std::move(text), read));
}

const ModelInfo& Model::info() const noexcept { return impl_->info; }

std::size_t Model::workspace_bytes(std::int32_t index, const LayerOptions& options, std::int64_t max_tokens) const {
  std::vector<const Tensor*> used;
  const BlockWeights block = impl_->block(index, used);
  return Layer::workspace_bytes(block.weights, block.router, options, max_tokens);
}

Layer Model::layer(std::int32_t index, const LayerOptions& options, const Progress& progress,
                   const fs::path& cache) const {
  const Impl& model = *impl_;
  std::vector<const Tensor*> used;
  BlockWeights block = model.block(index, used);
  const ExpertPlace routed = routed_place(model.config, model.place, index);
  const auto finish = [&](std::int32_t expert) {
    model.release_expert(routed, expert);
    if (progress) progress(expert + 1, model.config.experts);
  };
  block.weights.expert = [&](std::int32_t expert) {
    if (expert > 0) finish(expert - 1);
    const ExpertFiles files = model.expert_files(routed, expert);
    const std::string reason = model.misfit_of(files);
    if (!reason.empty()) fail(Code::not_supported, "model: {}: {}", model.file_name, reason);
    return expert_views(routed, files, expert);
  };
  auto parts = std::make_unique<Layer::Parts>(plan_parts(block.weights, block.router, options));
  if (cache.empty()) {
    pack_parts(*parts, block.weights);
    finish(model.config.experts - 1);
  } else {
    const fs::path path = packed_path(cache, model.file_name, index, *parts);
    const Fingerprint source = model.source_of(index);
    if (!map_packed(*parts, path, source)) {
      lay_out_parts(*parts, block.weights);
      PackedFile file(path, *parts);
      pack_parts(*parts, block.weights);
      finish(model.config.experts - 1);
      file.finish(*parts, source);
    } else if (progress) {
      progress(model.config.experts, model.config.experts);
    }
  }
  for (const Tensor* tensor : used) model.file.release(*tensor);
  return Layer(std::move(parts));
}

}  // namespace switchyard
