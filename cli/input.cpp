#include "input.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

#include "switchyard/error.hpp"

namespace switchyard::cli {
namespace {

template <class Element>
std::vector<std::int64_t> widen(const Tensor& tensor) {
  std::vector<Element> elements(tensor.bytes / sizeof(Element));
  if (!elements.empty()) std::memcpy(elements.data(), tensor.data, tensor.bytes);
  return {elements.begin(), elements.end()};
}

bool is_aligned(const Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.data) % dtype_bytes(tensor.dtype) == 0;
}

const Tensor& only_tensor(const TensorFile& file, const std::string& path, const char* step) {
  if (file.tensors().size() == 1) return file.tensors().front();
  throw Error(Code::bad_data, fmt::format("{}: {}: {} tensors, expected one, or its name as {}:NAME", step, path,
                                          file.tensors().size(), path));
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) {
    text += (text.empty() ? "" : ", ") + (size < 0 ? std::string("any") : fmt::format("{}", size));
  }
  return "(" + text + ")";
}

bool fits(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& wanted) {
  return std::equal(shape.begin(), shape.end(), wanted.begin(), wanted.end(),
                    [](std::int64_t size, std::int64_t want) { return want < 0 || size == want; });
}

}  // namespace

FileArray read_array(const std::string& place, const char* step) {
  constexpr std::string_view kEnd = ".safetensors:";
  const std::size_t end = place.rfind(kEnd);
  const bool named = end != std::string::npos;
  const std::string path = named ? place.substr(0, end + kEnd.size() - 1) : place;
  FileArray array;
  array.place = place;
  if (std::filesystem::path(path).extension() == ".npy") {
    NpyArray read = read_npy(path);
    array.dtype = read.dtype;
    array.shape = std::move(read.shape);
    array.copy = std::move(read.bytes);
    array.data = array.copy.data();
    return array;
  }
  array.file = TensorFile::open(path);
  const Tensor& tensor = named ? array.file->at(place.substr(end + kEnd.size())) : only_tensor(*array.file, path, step);
  array.dtype = tensor.dtype;
  array.shape = tensor.shape;
  array.data = tensor.data;
  if (!is_aligned(tensor)) {
    array.copy.assign(tensor.data, tensor.data + tensor.bytes);
    array.data = array.copy.data();
  }
  return array;
}

void check_array(const FileArray& array, const char* step, std::initializer_list<DType> dtypes,
                 const std::vector<std::int64_t>& shape) {
  if (std::find(dtypes.begin(), dtypes.end(), array.dtype) == dtypes.end()) {
    std::string wanted;
    for (const DType dtype : dtypes) wanted += (wanted.empty() ? "" : ", ") + std::string(dtype_name(dtype));
    throw Error(Code::bad_data, fmt::format("{}: {}: elements are {}, expected {}", step, array.place,
                                            dtype_name(array.dtype), wanted));
  }
  if (!fits(array.shape, shape)) {
    throw Error(Code::bad_data, fmt::format("{}: {}: shape {}, expected {}", step, array.place, shape_text(array.shape),
                                            shape_text(shape)));
  }
}

InputFile::InputFile(const std::filesystem::path& path) : path_(path.string()) {
  if (path.extension() == ".npy") {
    npy_ = read_npy(path);
  } else {
    tensors_ = TensorFile::open(path);
  }
}

bool InputFile::has(std::string_view name) const noexcept { return npy_ || tensors_->find(name) != nullptr; }

Activations InputFile::activations(const std::string& name, std::int64_t hidden) const {
  if (npy_) return npy_activations(hidden);
  const Tensor& tensor = tensors_->at(name);
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::bf16) {
    throw Error(Code::bad_data,
                fmt::format("run: {}: {} is {}, expected f32 or bf16", path_, name, dtype_name(tensor.dtype)));
  }
  if (tensor.shape.size() != 2 || tensor.shape[1] != hidden) {
    throw Error(Code::bad_data, fmt::format("run: {}: {} has shape ({}), expected (tokens, {})", path_, name,
                                            fmt::join(tensor.shape, ", "), hidden));
  }
  Activations result{tensor.dtype, tensor.shape[0], hidden, tensor.data, {}};
  if (!is_aligned(tensor)) {
    result.copy.assign(tensor.data, tensor.data + tensor.bytes);
    result.data = result.copy.data();
  }
  return result;
}

Activations InputFile::npy_activations(std::int64_t hidden) const {
  if (npy_->dtype != DType::f32) {
    throw Error(Code::not_supported,
                fmt::format("run: {}: the array is {}, expected f32", path_, dtype_name(npy_->dtype)));
  }
  if (npy_->shape.size() != 2 || npy_->shape[1] != hidden) {
    throw Error(Code::bad_data, fmt::format("run: {}: the array has shape ({}), expected (tokens, {})", path_,
                                            fmt::join(npy_->shape, ", "), hidden));
  }
  return {DType::f32, npy_->shape[0], hidden, npy_->bytes.data(), {}};
}

std::vector<std::int64_t> InputFile::experts(const std::string& name, std::int64_t tokens, std::int64_t topk) const {
  return ids(name, {tokens, topk});
}

std::vector<std::int64_t> InputFile::token_ids(const std::string& name, std::int64_t tokens) const {
  return ids(name, {tokens});
}

std::vector<std::int64_t> InputFile::ids(const std::string& name, const std::vector<std::int64_t>& shape) const {
  const Tensor& tensor = tensors_->at(name);
  if (tensor.shape != shape) {
    throw Error(Code::bad_data, fmt::format("run: {}: {} has shape ({}), expected ({})", path_, name,
                                            fmt::join(tensor.shape, ", "), fmt::join(shape, ", ")));
  }
  if (tensor.dtype == DType::i32) return widen<std::int32_t>(tensor);
  if (tensor.dtype == DType::i64) return widen<std::int64_t>(tensor);
  throw Error(Code::bad_data,
              fmt::format("run: {}: {} is {}, expected i32 or i64", path_, name, dtype_name(tensor.dtype)));
}

}  // namespace switchyard::cli
