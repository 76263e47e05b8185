// The safetensors format: https://github.com/huggingface/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "switchyard/tensor_file.hpp"

namespace switchyard {

// The length of the header, in front of it.
inline constexpr std::size_t kSafetensorsPrefix = 8;

// Lists the tensors of a whole file in memory, in the order of their place. `name` is used in messages. Throws
// bad_data.
std::vector<Tensor> parse_safetensors(std::span<const std::byte> file, const std::string& name);

// Bytes of a dense tensor; nothing if a size is negative or the sizes other than 0 multiply to more than a size_t.
std::optional<std::size_t> tensor_bytes(DType dtype, std::span<const std::int64_t> shape) noexcept;

// The name of a type in a header: "F32".
const char* safetensors_dtype(DType dtype) noexcept;

}  // namespace switchyard
