// NumPy's file of one array, as switchyard/npy.hpp reads its header; f32, f16, i16, i32, i64, u8 and bool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "switchyard/types.hpp"

namespace switchyard::cli {

struct NpyArray {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

// Throws bad_data for every damage, not_supported for arrays of another kind; `file` is used in messages. Nothing
// outside of `bytes` is read.
NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& file);

// Throws what parse_npy does, and io.
NpyArray read_npy(const std::filesystem::path& path);

// f32 or i32, version 1. Throws io.
void write_npy(const std::filesystem::path& path, std::span<const std::int64_t> shape, std::span<const float> values);
void write_npy(const std::filesystem::path& path, std::span<const std::int64_t> shape,
               std::span<const std::int32_t> values);

}  // namespace switchyard::cli
