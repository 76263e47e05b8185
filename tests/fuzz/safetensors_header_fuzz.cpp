// Bytes as a safetensors file, and as a header in front of the same bytes as data.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "checkpoint/safetensors.hpp"
#include "switchyard/error.hpp"

namespace {

using switchyard::Code;
using switchyard::Tensor;

// Only damage may be reported, and what is accepted must lie inside of the data.
template <class Parse>
void check(std::span<const std::byte> data, const Parse& parse) {
  try {
    for (const Tensor& tensor : parse()) {
      if (tensor.data < data.data() || tensor.bytes > data.size()) std::abort();
      if (static_cast<std::size_t>(tensor.data - data.data()) > data.size() - tensor.bytes) std::abort();
      if (switchyard::tensor_bytes(tensor.dtype, tensor.shape) != tensor.bytes) std::abort();
    }
  } catch (const switchyard::Error& error) {
    if (error.code() != Code::bad_data) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::span data(reinterpret_cast<const std::byte*>(bytes), size);
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  check(data, [&] { return switchyard::parse_safetensors(data, "input"); });
  // The first byte stands for how much data there is, so that whole headers can be valid.
  const std::size_t data_bytes = size == 0 ? 0 : bytes[0] % size;
  check(data, [&] {
    return switchyard::parse_safetensors_header(text.substr(size == 0 ? 0 : 1), data.data(), data_bytes, "input");
  });
  return 0;
}
