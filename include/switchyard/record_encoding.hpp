// RecordEncoding: how a blob of a record holds ids, and which way is the smallest. docs/record_store.md specifies every one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/record.hpp"

namespace switchyard {

// How a blob holds its ids; the numbers stand in files.
enum class RecordEncoding : std::int32_t {
  raw = 0,
  packed = 1,
  elias_fano = 2,
  raw_zstd = 16,
  packed_zstd = 17,
  elias_fano_zstd = 18,
};
SWITCHYARD_API const char* record_encoding_name(RecordEncoding encoding) noexcept;

// The ids of a blob: `sets` times K, below E. Canonical: every set ascends. What takes one throws invalid_argument
// unless 1 ≤ K ≤ 64, K ≤ E ≤ 65536 and 0 ≤ sets ≤ 2^40.
struct IdShape {
  std::int32_t experts = 0;
  std::int32_t topk = 0;
  SlotOrder order = SlotOrder::kept;
  std::int64_t sets = 0;

  std::size_t ids() const noexcept { return static_cast<std::size_t>(sets * topk); }
  std::size_t id_bytes() const noexcept { return experts <= 256 ? 1 : 2; }
  std::size_t bytes() const noexcept { return ids() * id_bytes(); }
};

// Bytes of an encoding, before zstd if it has that. Throws invalid_argument for an encoding that is none of the above.
SWITCHYARD_API std::size_t encoded_bytes(RecordEncoding encoding, const IdShape& shape);

// Decodes, and keeps the memory that takes. One per thread.
class SWITCHYARD_API IdDecoder {
 public:
  IdDecoder();
  ~IdDecoder();
  IdDecoder(IdDecoder&&) noexcept;
  IdDecoder& operator=(IdDecoder&&) noexcept;

  // Sets first..first + count − 1 to `ids` [count,K] of u8 or u16. Reads nothing outside of `from`. Throws bad_data
  // unless `from` is a blob of this encoding and shape as far as it was looked at (all ids that it writes are below E),
  // and invalid_argument unless 0 ≤ first ≤ first + count ≤ sets.
  void decode(RecordEncoding encoding, const IdShape& shape, std::span<const std::byte> from, std::int64_t first,
              std::int64_t count, void* ids);

 private:
  struct Zstd;
  std::unique_ptr<Zstd> zstd_;
  std::vector<std::byte> plain_;
};

// Encodes in the smallest way. Compressing costs much more than all else, so it is tried as long as it pays: after a
// blob for which it did not, the next tries are farther apart, up to 1 in 64 blobs. One per thread.
class SWITCHYARD_API IdEncoder {
 public:
  explicit IdEncoder(bool compress = true);
  ~IdEncoder();
  IdEncoder(IdEncoder&&) noexcept;
  IdEncoder& operator=(IdEncoder&&) noexcept;

  struct Result {
    RecordEncoding encoding = RecordEncoding::raw;
    std::span<const std::byte> bytes;  // until the next call
  };
  // `ids` [sets,K] of u8 or u16. Throws invalid_argument for an id that is not below E, and for sets that do not ascend
  // where the encoding needs that.
  Result encode(const IdShape& shape, const void* ids);
  // In this one encoding, whatever its size. Throws as encode, and for an encoding that is none of the above.
  Result encode_as(RecordEncoding encoding, const IdShape& shape, const void* ids);

 private:
  struct Zstd;
  bool try_now();

  std::unique_ptr<Zstd> zstd_;  // none: not wanted
  std::vector<std::byte> plain_;
  std::vector<std::byte> compressed_;
  std::vector<std::byte> other_;
  int interval_ = 1;
  int wait_ = 0;
};

}  // namespace switchyard
