// Bytes as base64: plain and AVX2 code agree, and what is accepted encodes to the same text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "record/record_kernels.hpp"
#include "switchyard/base64.hpp"
#include "switchyard/error.hpp"

namespace switchyard {

extern const RecordKernels kRecordKernelsPlain;

}  // namespace switchyard

namespace {

void compare_kernels(std::string_view text) {
  const std::size_t groups = text.size() / 4;
  std::vector<std::byte> plain(3 * groups);
  std::vector<std::byte> current(3 * groups);
  const std::size_t done = switchyard::kRecordKernelsPlain.decode_base64(text.data(), groups, plain.data());
  if (switchyard::record_kernels().decode_base64(text.data(), groups, current.data()) != done) std::abort();
  if (done > 0 && std::memcmp(plain.data(), current.data(), 3 * done) != 0) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(bytes), size);
  compare_kernels(text);
  try {
    std::vector<std::byte> decoded(switchyard::base64_bytes(text));
    switchyard::decode_base64(text, 0, decoded.size(), decoded.data());
    if (switchyard::encode_base64(decoded) != text) std::abort();
    const std::size_t begin = size == 0 ? 0 : bytes[0] % (decoded.size() + 1);
    std::vector<std::byte> part(decoded.size() - begin);
    switchyard::decode_base64(text, begin, decoded.size(), part.data());
    if (!std::equal(part.begin(), part.end(), decoded.begin() + static_cast<std::ptrdiff_t>(begin))) std::abort();
  } catch (const switchyard::Error& error) {
    if (error.code() != switchyard::Code::bad_data) std::abort();
  }
  return 0;
}
