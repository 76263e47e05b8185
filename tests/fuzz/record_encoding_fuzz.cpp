// Bytes as a blob of a record: the first four say of which shape and in which encoding.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/record_encoding.hpp"

namespace {

using namespace switchyard;

constexpr RecordEncoding kEncodings[] = {RecordEncoding::raw,         RecordEncoding::packed,
                                         RecordEncoding::elias_fano,  RecordEncoding::raw_zstd,
                                         RecordEncoding::packed_zstd, RecordEncoding::elias_fano_zstd};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  constexpr std::size_t kHead = 4;
  if (size < kHead) return 0;
  const std::int32_t experts = bytes[0] * 256 + bytes[1] + 1;
  const std::int32_t topk = std::min(experts, bytes[2] % 64 + 1);
  const RecordEncoding encoding = kEncodings[bytes[3] % std::size(kEncodings)];
  const std::span blob(reinterpret_cast<const std::byte*>(bytes) + kHead, size - kHead);
  // As many sets as the blob can be the whole of, so that not all inputs have a wrong size.
  IdShape shape{experts, topk, SlotOrder::canonical, 64};
  const std::size_t of_64 = std::max<std::size_t>(1, encoded_bytes(encoding, shape));
  shape.sets = static_cast<std::int64_t>(std::min<std::size_t>(blob.size() * 64 / of_64, 4096));
  std::vector<std::byte> ids(shape.bytes());
  IdDecoder decoder;
  try {
    decoder.decode(encoding, shape, blob, 0, shape.sets, ids.data());
  } catch (const Error& error) {
    if (error.code() != Code::bad_data) std::abort();
    return 0;
  }
  for (std::size_t i = 0; i < shape.ids(); ++i) {
    std::uint16_t id = 0;
    std::memcpy(&id, ids.data() + i * shape.id_bytes(), shape.id_bytes());
    if (id >= experts) std::abort();
  }
  // What was accepted has parts that are the same alone.
  const std::int64_t half = shape.sets / 2;
  std::vector<std::byte> part(static_cast<std::size_t>((shape.sets - half) * topk) * shape.id_bytes());
  decoder.decode(encoding, shape, blob, half, shape.sets - half, part.data());
  if (!std::equal(part.begin(), part.end(), ids.end() - static_cast<std::ptrdiff_t>(part.size()))) std::abort();
  return 0;
}
