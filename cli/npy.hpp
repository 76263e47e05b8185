// NumPy's file of one array: versions 1 and 2, f32, little-endian, row-major.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace switchyard::cli {

struct NpyArray {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

// Throws bad_data for every damage, not_supported for arrays of another kind; `file` is used in messages. Nothing
// outside of `bytes` is read.
NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& file);

// Throws what parse_npy does, and io.
NpyArray read_npy(const std::filesystem::path& path);

// Version 1. Throws io.
void write_npy(const std::filesystem::path& path, std::span<const std::int64_t> shape, std::span<const float> values);

}  // namespace switchyard::cli
