#include "input.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

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

}  // namespace

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
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % dtype_bytes(tensor.dtype) != 0) {
    result.copy.assign(tensor.data, tensor.data + tensor.bytes);
    result.data = result.copy.data();
  }
  return result;
}

Activations InputFile::npy_activations(std::int64_t hidden) const {
  if (npy_->shape.size() != 2 || npy_->shape[1] != hidden) {
    throw Error(Code::bad_data, fmt::format("run: {}: the array has shape ({}), expected (tokens, {})", path_,
                                            fmt::join(npy_->shape, ", "), hidden));
  }
  return {DType::f32, npy_->shape[0], hidden, npy_->values.data(), {}};
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
