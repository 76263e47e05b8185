// Models and tensor files of the C API.
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "capi/capi.hpp"
#include "switchyard/model.hpp"
#include "switchyard/tensor_file.hpp"

struct switchyard_model {
  switchyard::Model model;
};

struct switchyard_tensor_file {
  switchyard::TensorFile file;
};

namespace switchyard::capi {
namespace {

switchyard_tensor from_tensor(const Tensor& tensor) {
  return {tensor.name.c_str(),
          static_cast<switchyard_dtype>(tensor.dtype),
          static_cast<std::int32_t>(tensor.shape.size()),
          tensor.shape.data(),
          tensor.data,
          tensor.bytes};
}

Tensor to_tensor(const switchyard_tensor& from) {
  Tensor tensor;
  tensor.name = &given(from.name, "write_safetensors: a tensor's name");
  tensor.dtype = to_dtype(from.dtype, "write_safetensors: a tensor");
  if (from.dims < 0) {
    fail(Code::invalid_argument, "write_safetensors: tensor {} has {} dims, expected 0 or more", tensor.name,
         from.dims);
  }
  if (from.dims > 0) {
    const std::int64_t* shape = &given(from.shape, "write_safetensors: a tensor's shape");
    tensor.shape.assign(shape, shape + from.dims);
  }
  tensor.data = static_cast<const std::byte*>(from.data);
  tensor.bytes = from.bytes;
  return tensor;
}

const char* entry(const std::vector<std::string>& list, std::size_t index) noexcept {
  return index < list.size() ? list[index].c_str() : nullptr;
}

switchyard_expert_function from_function(const ExpertFunction& from) {
  return {static_cast<switchyard_activation>(from.activation), from.gated ? 0 : 1, from.limit, from.alpha};
}

// NULL, with a count of 0, for none.
const std::int32_t* listed(const std::vector<std::int32_t>& layers, std::size_t* count) {
  if (count == nullptr) {
    return nullptr;
  }
  *count = layers.size();
  return layers.empty() ? nullptr : layers.data();
}

}  // namespace
}  // namespace switchyard::capi

using namespace switchyard;
using namespace switchyard::capi;

switchyard_status switchyard_model_open(const char* folder, switchyard_model** model) {
  return guard([&] {
    given(model, "model_open: model") = nullptr;
    *model = new switchyard_model{Model::open(&given(folder, "model_open: folder"))};
  });
}

void switchyard_model_destroy(switchyard_model* model) { delete model; }

switchyard_status switchyard_model_get_info(const switchyard_model* model, switchyard_model_info* info) {
  return guard([&] {
    check_result(info, "model_get_info: info");
    const ModelInfo& from = given(model, "model_get_info: model").model.info();
    switchyard_model_info result{};
    result.layers = from.layers;
    result.moe_layers = static_cast<std::int32_t>(from.moe_layers.size());
    result.experts = from.experts;
    result.hidden = from.hidden;
    result.ffn = from.ffn;
    result.shared_ffn = from.shared_ffn;
    result.shared_gate = from.shared_gate ? 1 : 0;
    result.weights = static_cast<switchyard_dtype>(from.weights);
    result.file_bytes = from.file_bytes;
    result.moe_bytes = from.moe_bytes;
    result.function = from_function(from.function);
    result.shared_function = from_function(from.shared_function);
    result.latent = from.latent;
    result.shared_scale = from.shared_scale;
    result.identity_experts = from.identity_experts;
    result.weight_site = static_cast<switchyard_weight_site>(from.weight_site);
    result.output_bias = from.output_bias ? 1 : 0;
    result.selection_bias = from.selection_bias ? 1 : 0;
    result.logit_bias = from.logit_bias ? 1 : 0;
    result.narrow_router = from.narrow_router ? 1 : 0;
    result.shared_weights = static_cast<switchyard_dtype>(from.shared_weights);
    result.codes = static_cast<switchyard_codes>(from.codes);
    result.scales = static_cast<switchyard_dtype>(from.scales);
    result.out_block = from.out_block;
    result.in_block = from.in_block;
    write_result(info, result);
  });
}

switchyard_status switchyard_model_router(const switchyard_model* model, switchyard_router_options* options) {
  return guard([&] {
    check_result(options, "model_router: options");
    write_result(options, from_router(given(model, "model_router: model").model.info().router));
  });
}

const char* switchyard_model_type(const switchyard_model* model) {
  return model ? model->model.info().model_type.c_str() : nullptr;
}

const char* switchyard_model_family(const switchyard_model* model) {
  return model ? model->model.info().family.c_str() : nullptr;
}

const char* switchyard_model_layout(const switchyard_model* model) {
  return model ? model->model.info().layout.c_str() : nullptr;
}

const char* switchyard_model_quantization(const switchyard_model* model) {
  return model ? model->model.info().quantization.c_str() : nullptr;
}

const int32_t* switchyard_model_moe_layers(const switchyard_model* model, size_t* count) {
  return model ? listed(model->model.info().moe_layers, count) : listed({}, count);
}

const int32_t* switchyard_model_table_layers(const switchyard_model* model, size_t* count) {
  return model ? listed(model->model.info().table_layers, count) : listed({}, count);
}

const char* switchyard_model_outside(const switchyard_model* model) {
  return model ? model->model.info().outside.c_str() : nullptr;
}

const char* switchyard_model_unsupported(const switchyard_model* model, size_t index) {
  return model ? entry(model->model.info().unsupported, index) : nullptr;
}

const char* switchyard_known_model_type(size_t index) {
  const char* type = nullptr;
  guard([&] {
    static const std::vector<std::string> types = known_model_types();
    type = entry(types, index);
  });
  return type;
}

switchyard_status switchyard_model_layer(const switchyard_model* model, int32_t index,
                                         const switchyard_layer_options* options, switchyard_progress progress,
                                         void* progress_context, switchyard_layer** layer) {
  return switchyard_model_layer_cached(model, index, options, nullptr, progress, progress_context, layer);
}

switchyard_status switchyard_model_layer_cached(const switchyard_model* model, int32_t index,
                                                const switchyard_layer_options* options, const char* cache,
                                                switchyard_progress progress, void* progress_context,
                                                switchyard_layer** layer) {
  return guard([&] {
    given(layer, "model_layer: layer") = nullptr;
    const Model& from = given(model, "model_layer: model").model;
    const switchyard_layer_options read = read_optional(options, "model_layer: options");
    Model::Progress report;
    if (progress != nullptr) {
      report = [=](std::int32_t done, std::int32_t of) { progress(progress_context, done, of); };
    }
    *layer = new_layer(from.layer(index, to_layer_options(read), report, cache == nullptr ? "" : cache), read);
  });
}

switchyard_status switchyard_model_workspace_bytes(const switchyard_model* model, int32_t index,
                                                   const switchyard_layer_options* options, int64_t max_tokens,
                                                   size_t* bytes) {
  return guard([&] {
    std::size_t& result = given(bytes, "model_workspace_bytes: bytes");
    const Model& from = given(model, "model_workspace_bytes: model").model;
    const switchyard_layer_options read = read_optional(options, "model_workspace_bytes: options");
    result = from.workspace_bytes(index, to_layer_options(read), max_tokens);
  });
}

switchyard_status switchyard_tensor_file_open(const char* path, switchyard_tensor_file** file) {
  return guard([&] {
    given(file, "tensor_file_open: file") = nullptr;
    *file = new switchyard_tensor_file{TensorFile::open(&given(path, "tensor_file_open: path"))};
  });
}

void switchyard_tensor_file_destroy(switchyard_tensor_file* file) { delete file; }

size_t switchyard_tensor_file_count(const switchyard_tensor_file* file) {
  return file ? file->file.tensors().size() : 0;
}

switchyard_status switchyard_tensor_file_get(const switchyard_tensor_file* file, size_t index,
                                             switchyard_tensor* tensor) {
  return guard([&] {
    switchyard_tensor& result = given(tensor, "tensor_file_get: tensor");
    const std::span<const Tensor> tensors = given(file, "tensor_file_get: file").file.tensors();
    if (index >= tensors.size()) {
      fail(Code::invalid_argument, "tensor_file_get: found index {}, expected less than {}, the number of tensors",
           index, tensors.size());
    }
    result = from_tensor(tensors[index]);
  });
}

switchyard_status switchyard_tensor_file_find(const switchyard_tensor_file* file, const char* name,
                                              switchyard_tensor* tensor) {
  return guard([&] {
    switchyard_tensor& result = given(tensor, "tensor_file_find: tensor");
    const TensorFile& from = given(file, "tensor_file_find: file").file;
    result = from_tensor(from.at(&given(name, "tensor_file_find: name")));
  });
}

void switchyard_tensor_file_release(const switchyard_tensor_file* file, const void* data, size_t bytes) {
  if (file) {
    file->file.release(static_cast<const std::byte*>(data), bytes);
  }
}

switchyard_status switchyard_write_safetensors(const char* path, const switchyard_tensor* tensors, size_t count) {
  return guard([&] {
    const char* target = &given(path, "write_safetensors: path");
    std::vector<Tensor> list;
    for (std::size_t i = 0; i < count; ++i) {
      list.push_back(to_tensor((&given(tensors, "write_safetensors: tensors"))[i]));
    }
    write_safetensors(target, list);
  });
}
