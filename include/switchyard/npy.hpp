// The header of NumPy's file of one array: versions 1 to 3, little-endian, row-major.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

struct NpyHeader {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::size_t data_offset = 0;  // of the first element in the file
  std::size_t data_bytes = 0;   // that an array of this shape has
};

// Bytes before the first element, from the beginning of a file: 12 bytes of it tell. Throws bad_data if it is none, or
// is shorter than that; not_supported for later versions. `name` stands in messages, here and below.
SWITCHYARD_API std::size_t npy_data_offset(std::span<const std::byte> beginning, const std::string& name);

// Reads nothing beyond the header, so `beginning` may end there. Throws as npy_data_offset; bad_data for every other
// damage too, a shape of 2^60 elements or more among it; not_supported for elements that are no plain numbers or
// booleans, and for column-major arrays.
SWITCHYARD_API NpyHeader read_npy_header(std::span<const std::byte> beginning, const std::string& name);

}  // namespace switchyard
