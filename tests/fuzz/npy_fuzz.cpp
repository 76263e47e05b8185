// Bytes as the beginning of an .npy file.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "switchyard/error.hpp"
#include "switchyard/npy.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  using switchyard::Code;
  const std::span data(reinterpret_cast<const std::byte*>(bytes), size);
  try {
    const switchyard::NpyHeader header = switchyard::read_npy_header(data, "input");
    if (header.data_offset > size || header.data_offset != switchyard::npy_data_offset(data, "input")) std::abort();
    std::size_t elements = 1;
    for (const std::int64_t each : header.shape) {
      if (each < 0) std::abort();
      elements *= static_cast<std::size_t>(each);
    }
    if (elements * switchyard::dtype_bytes(header.dtype) != header.data_bytes) std::abort();
  } catch (const switchyard::Error& error) {
    if (error.code() != Code::bad_data && error.code() != Code::not_supported) std::abort();
  }
  return 0;
}
