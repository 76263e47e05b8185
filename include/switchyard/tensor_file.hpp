// Tensors in files: safetensors (single or sharded), mapped, and its writer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// A tensor in mapped memory, row-major, little-endian, of any alignment. Lives as long as the TensorFile it came from.
struct Tensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
};

struct FileState {
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;  // since 1970
};

// A safetensors file, or a sharded set through its index (`*.safetensors.index.json`): maps, reads no tensor. Movable;
// reading from several threads is fine. Format: https://github.com/huggingface/safetensors (8-byte header length, JSON
// header, data).
//
// Every damage throws bad_data naming file, tensor and reason; a file that cannot be opened throws io. Nothing outside
// of the file is ever read. A file that is cut short while it is mapped is beyond what a mapping can report.
class SWITCHYARD_API TensorFile {
 public:
  static TensorFile open(const std::filesystem::path& path);
  ~TensorFile();
  TensorFile(TensorFile&&) noexcept;
  TensorFile& operator=(TensorFile&&) noexcept;

  // In the order of their place in the file (shard by shard).
  std::span<const Tensor> tensors() const noexcept;
  // Of every file, as it was when it was mapped.
  std::span<const FileState> files() const noexcept;
  // nullptr if there is none of that name.
  const Tensor* find(std::string_view name) const noexcept;
  // Throws bad_data naming the file and the tensor.
  const Tensor& at(std::string_view name) const;
  // Lets go of the memory pages that hold the tensor; reading it again brings them back from the file.
  void release(const Tensor& tensor) const noexcept;
  // The same for a part of a tensor; does nothing for memory that is not this file's.
  void release(const std::byte* data, std::size_t bytes) const noexcept;

 private:
  struct Impl;
  explicit TensorFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Checks a safetensors header (JSON text, without the length) against `data_bytes` bytes of data and lists its tensors,
// with data pointers relative to `data`. `file` is used in messages. Throws bad_data.
SWITCHYARD_API std::vector<Tensor> parse_safetensors_header(std::string_view json, const std::byte* data,
                                                            std::size_t data_bytes, const std::string& file);

// Writes tensors to one safetensors file, replacing it only when all is written. Throws io, invalid_argument for
// duplicate names.
SWITCHYARD_API void write_safetensors(const std::filesystem::path& path, std::span<const Tensor> tensors);

}  // namespace switchyard
