#include "npy.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>

#include "files.hpp"
#include "switchyard/error.hpp"
#include "switchyard/npy.hpp"

namespace switchyard::cli {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are read and written as they stand in memory");

constexpr std::size_t kAlignment = 64;  // of the data in the file
constexpr std::array<DType, 7> kKinds{DType::f32, DType::f16, DType::i16,    DType::i32,
                                      DType::i64, DType::u8,  DType::boolean};

void write_elements(const std::filesystem::path& path, const char* descr, std::span<const std::int64_t> shape,
                    std::span<const std::byte> elements) {
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}{}), }}", descr,
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  std::string prelude("\x93NUMPY\1\0", 8);
  const std::size_t end = prelude.size() + 2 + header.size() + 1;
  header.append((kAlignment - end % kAlignment) % kAlignment, ' ');
  header += '\n';
  prelude += {static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  write_file(path, "npy", {std::as_bytes(std::span(prelude)), std::as_bytes(std::span(header)), elements});
}

}  // namespace

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& file) {
  NpyHeader header = read_npy_header(bytes, file);
  if (std::find(kKinds.begin(), kKinds.end(), header.dtype) == kKinds.end()) {
    throw Error(Code::not_supported,
                fmt::format("npy: {}: elements {}, expected one of '<f4', '<f2', '<i2', '<i4', '<i8', '|u1', '|b1'",
                            file, dtype_name(header.dtype)));
  }
  const auto data = bytes.subspan(header.data_offset);
  if (data.size() != header.data_bytes) {
    throw Error(Code::bad_data, fmt::format("npy: {}: {} bytes of data, expected {} for shape ({})", file, data.size(),
                                            header.data_bytes, fmt::join(header.shape, ", ")));
  }
  return {header.dtype, std::move(header.shape), {data.begin(), data.end()}};
}

NpyArray read_npy(const std::filesystem::path& path) { return parse_npy(read_file(path, "npy"), path.string()); }

void write_npy(const std::filesystem::path& path, std::span<const std::int64_t> shape, std::span<const float> values) {
  write_elements(path, "<f4", shape, std::as_bytes(values));
}

void write_npy(const std::filesystem::path& path, std::span<const std::int64_t> shape,
               std::span<const std::int32_t> values) {
  write_elements(path, "<i4", shape, std::as_bytes(values));
}

}  // namespace switchyard::cli
