#include "checkpoint/block.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "experts/weight_view.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

std::vector<float> read_floats(const Tensor& tensor) {
  std::vector<float> values(tensor.bytes / dtype_bytes(tensor.dtype));
  read_row({tensor.data, tensor.dtype, 0, 1}, 0, 0, static_cast<std::int64_t>(values.size()), values.data());
  return values;
}

template <class Id>
std::vector<std::int64_t> widened(const Tensor& tensor) {
  std::vector<Id> ids(tensor.bytes / sizeof(Id));
  if (!ids.empty()) std::memcpy(ids.data(), tensor.data, tensor.bytes);
  return {ids.begin(), ids.end()};
}

std::vector<std::int64_t> read_ids(const Tensor& tensor) {
  if (tensor.dtype == DType::i16) return widened<std::int16_t>(tensor);
  if (tensor.dtype == DType::i32) return widened<std::int32_t>(tensor);
  return widened<std::int64_t>(tensor);
}

void check_table(const std::string& file_name, const std::string& name, const std::vector<std::int64_t>& table,
                 const ModelConfig& config) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i] >= 0 && table[i] < config.experts + config.identity_experts) continue;
    const auto topk = static_cast<std::size_t>(config.router.topk);
    fail(Code::bad_data, "model: {}: tensor {} row {} slot {} names expert {}, expected 0..{}", file_name, name,
         i / topk, i % topk, table[i], config.experts + config.identity_experts - 1);
  }
}

// The views that are a matrix or a vector of LayerWeights.
WeightView* find_view(LayerWeights& weights, Role role) {
  switch (role) {
    case Role::router:
      return &weights.router;
    case Role::shared_gate:
      return &weights.shared_gate;
    case Role::latent_in:
      return &weights.latent_in;
    case Role::latent_out:
      return &weights.latent_out;
    case Role::latent_in_bias:
      return &weights.latent_in_bias;
    case Role::latent_out_bias:
      return &weights.latent_out_bias;
    case Role::output_bias:
      return &weights.output_bias;
    case Role::logit_bias:
    case Role::selection_bias:
    case Role::table:
    case Role::expert:
    case Role::shared:
    case Role::expert_bias:
      break;
  }
  return nullptr;
}

}  // namespace

std::vector<BlockTensor> block_tensors(const ModelConfig& config, const PlaceChoice& choice, std::int32_t layer) {
  const Place& place = *choice.place;
  const std::int64_t logits = config.experts + config.identity_experts;
  const std::int64_t hidden = config.hidden;
  std::vector<BlockTensor> tensors;
  const auto add = [&](bool wanted, Role role, const char* pattern, std::vector<std::int64_t> shape) {
    if (wanted) tensors.push_back({role, {choice.name(pattern, layer), std::move(shape)}});
  };
  const bool table = std::binary_search(config.table_layers.begin(), config.table_layers.end(), layer);
  add(true, Role::router, place.router, {logits, hidden});
  add(config.family->router.logit_bias, Role::logit_bias, place.logit_bias, {logits});
  add(config.selection_bias && !table, Role::selection_bias, place.selection_bias, {logits});
  add(table, Role::table, place.table, {-1, config.router.topk});
  add(config.shared_ffn > 0 && config.family->shared.gate, Role::shared_gate, place.shared_gate, {1, hidden});
  add(config.latent > 0, Role::latent_in, place.latent_in, {config.latent, hidden});
  add(config.latent > 0, Role::latent_out, place.latent_out, {hidden, config.latent});
  add(config.family->output_bias, Role::output_bias, place.output_bias, {hidden});
  if (config.latent > 0 && config.biases) {
    tensors.push_back({Role::latent_in_bias, {bias_name(choice.name(place.latent_in, layer)), {config.latent}}});
    tensors.push_back({Role::latent_out_bias, {bias_name(choice.name(place.latent_out, layer)), {hidden}}});
  }
  return tensors;
}

BlockWeights read_block(const TensorFile& file, const std::string& file_name, const ModelConfig& config,
                        const PlaceChoice& choice, std::int32_t layer, std::vector<const Tensor*>& used) {
  BlockWeights block;
  LayerWeights& weights = block.weights;
  weights.experts = config.experts;
  weights.hidden = config.hidden;
  weights.ffn = config.ffn;
  weights.function = config.function(layer);
  weights.shared_ffn = config.shared_ffn;
  weights.shared_scale = config.shared_scale;
  weights.identity_experts = config.identity_experts;
  weights.weight_site = config.family->weight_site;
  weights.latent = config.latent;
  weights.narrow_router = config.family->router.narrow;
  block.router = config.router;
  const auto stored = [&](const NamedShape& wanted) {
    const StoredWeight weight = find_weight(file, file_name, wanted, config.quantization);
    const std::string reason = check_values(weight, file_name, config.quantization);
    if (!reason.empty()) fail(Code::not_supported, "model: {}: {}", file_name, reason);
    for (const Tensor* tensor : weight.tensors()) {
      if (tensor != nullptr) used.push_back(tensor);
    }
    return weight;
  };
  for (const BlockTensor& wanted : block_tensors(config, choice, layer)) {
    if (WeightView* view = find_view(weights, wanted.role)) {
      *view = matrix_of(stored(wanted.wanted), 0);
      continue;
    }
    const Tensor& tensor = file.at(wanted.wanted.name);
    used.push_back(&tensor);
    if (wanted.role == Role::selection_bias) {
      block.selection_bias = read_floats(tensor);
      block.router.selection_bias = {block.selection_bias.data(), DType::f32};
    } else if (wanted.role == Role::logit_bias) {
      block.logit_bias = read_floats(tensor);
      block.router.logit_bias = block.logit_bias.data();
    } else {
      block.table = read_ids(tensor);
      check_table(file_name, tensor.name, block.table, config);
      block.router.table = {block.table.data(), DType::i64};
      block.router.table_rows = tensor.shape[0];
    }
  }
  if (config.shared_ffn > 0) {
    const ExpertPlace shared = shared_place(config, choice, layer);
    weights.shared_function = shared.shape.function;
    ExpertFiles tensors{};
    const ExpertNames names = expert_names(shared, 0);
    for (std::size_t part = 0; part < kExpertParts; ++part) {
      if (!names[part].name.empty()) tensors[part] = stored(names[part]);
    }
    weights.shared = expert_views(shared, tensors, 0);
  }
  return block;
}

}  // namespace switchyard
