// How a blob holds ids, and which way is the smallest. docs/record_store.md specifies every one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "switchyard/record.hpp"
#include "switchyard/record_store.hpp"

namespace switchyard {

// The ids of a blob: `sets` times K, below E. Canonical: every set ascends.
struct IdShape {
  std::int32_t experts = 0;
  std::int32_t topk = 0;
  SlotOrder order = SlotOrder::kept;
  std::int64_t sets = 0;

  std::size_t ids() const noexcept { return static_cast<std::size_t>(sets * topk); }
  std::size_t id_bytes() const noexcept { return experts <= 256 ? 1 : 2; }
  std::size_t bytes() const noexcept { return ids() * id_bytes(); }
};

// ⌈log2 E⌉.
int id_bits(std::int32_t experts) noexcept;

// Bytes of an encoding that does not compress.
std::size_t encoded_bytes(RecordEncoding encoding, const IdShape& shape) noexcept;

// `ids` [sets,K] of u8 or u16 in an encoding that does not compress; `to` becomes its bytes. elias_fano: canonical only.
void encode_ids(RecordEncoding encoding, const IdShape& shape, const void* ids, std::vector<std::byte>& to);

// Decodes, and keeps what that needs. One per thread.
class IdDecoder {
 public:
  IdDecoder();
  ~IdDecoder();
  IdDecoder(IdDecoder&&) noexcept;
  IdDecoder& operator=(IdDecoder&&) noexcept;

  // Sets first..first + count − 1 to `ids` [count,K] of u8 or u16. Reads nothing outside of `from`. Throws bad_data
  // unless `from` is a blob of this encoding and shape as far as it was looked at; all ids that it writes are below E.
  void decode(RecordEncoding encoding, const IdShape& shape, std::span<const std::byte> from, std::int64_t first,
              std::int64_t count, void* ids);

 private:
  struct Zstd;
  std::unique_ptr<Zstd> zstd_;
  std::vector<std::byte> plain_;
};

// Encodes in the smallest way. Compressing costs much more than all else, so it is tried as long as it pays: after a
// blob for which it did not, the next tries are farther apart, up to 1 in 64 blobs. One per writer.
class IdEncoder {
 public:
  explicit IdEncoder(bool compress = true);
  ~IdEncoder();
  IdEncoder(IdEncoder&&) noexcept;
  IdEncoder& operator=(IdEncoder&&) noexcept;

  struct Result {
    RecordEncoding encoding = RecordEncoding::raw;
    std::span<const std::byte> bytes;  // until the next call
  };
  Result encode(const IdShape& shape, const void* ids);
  // In this one encoding, whatever its size.
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
