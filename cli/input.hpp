// The files that `run` and `route` read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "npy.hpp"
#include "switchyard/tensor_file.hpp"
#include "switchyard/types.hpp"

namespace switchyard::cli {

// Activations as the file has them; a copy only where the file's bytes are not aligned.
struct Activations {
  DType dtype = DType::f32;
  std::int64_t tokens = 0;
  std::int64_t hidden = 0;
  const void* data = nullptr;
  std::vector<std::byte> copy;

  ConstMatrix matrix() const { return {data, dtype, tokens, hidden}; }
};

// One array of a file; its data is aligned to its elements.
struct FileArray {
  std::string place;  // for messages
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;
  std::optional<TensorFile> file;  // what data may point into, or
  std::vector<std::byte> copy;     // that
};

// `place`: FILE.npy, FILE.safetensors with one tensor, or FILE.safetensors:TENSOR. Messages begin with `step`. Throws
// io, bad_data, not_supported.
FileArray read_array(const std::string& place, const char* step);

// Throws bad_data unless the array has one of these types and this shape, where −1 stands for any size.
void check_array(const FileArray& array, const char* step, std::initializer_list<DType> dtypes,
                 const std::vector<std::int64_t>& shape);

// Tensors by name of a .safetensors file, or the one array of an .npy file under every name.
class InputFile {
 public:
  // Throws io, bad_data, not_supported.
  explicit InputFile(const std::filesystem::path& path);

  bool is_npy() const noexcept { return npy_.has_value(); }
  bool has(std::string_view name) const noexcept;

  // [T,hidden], f32 or bf16. Throws bad_data naming file and tensor.
  Activations activations(const std::string& name, std::int64_t hidden) const;
  // [tokens,topk], i32 or i64. Throws bad_data naming file and tensor.
  std::vector<std::int64_t> experts(const std::string& name, std::int64_t tokens, std::int64_t topk) const;
  // [tokens], i32 or i64. Throws bad_data naming file and tensor.
  std::vector<std::int64_t> token_ids(const std::string& name, std::int64_t tokens) const;

 private:
  Activations npy_activations(std::int64_t hidden) const;
  std::vector<std::int64_t> ids(const std::string& name, const std::vector<std::int64_t>& shape) const;

  std::string path_;
  std::optional<TensorFile> tensors_;
  std::optional<NpyArray> npy_;
};

}  // namespace switchyard::cli
