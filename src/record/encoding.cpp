#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "fail.hpp"
#include "record/bits.hpp"
#include "record/elias_fano.hpp"
#include "record/ids.hpp"
#include "record/known_encoding.hpp"
#include "record/record_kernels.hpp"
#include "switchyard/record_encoding.hpp"

namespace switchyard {
namespace {

constexpr int kZstdLevel = 1;
// Ids that agree over fewer bytes do so by chance: such matches save 2 % at most, and decoding takes up to twice as long.
constexpr int kZstdMinMatch = 7;
constexpr int kMostWait = 64;
constexpr int kCompressed = 16;  // added to what is compressed
// What is compressed cannot be read in part, so it has to be smaller by this share of the other.
constexpr std::size_t kWorthWhile = 32;

constexpr std::int64_t kMostSets = std::int64_t{1} << 40;

void check(const IdShape& shape) {
  if (shape.experts < 1 || shape.experts > kMaxRecordExperts || shape.topk < 1 ||
      shape.topk > std::min(shape.experts, kMaxRecordTopk) || shape.sets < 0 || shape.sets > kMostSets) {
    fail(Code::invalid_argument, "record: found {} sets of {} of {} experts, expected sets of 1 to {} of at most {}",
         shape.sets, shape.topk, shape.experts, kMaxRecordTopk, kMaxRecordExperts);
  }
}

RecordEncoding plain_of(RecordEncoding encoding) noexcept {
  return static_cast<RecordEncoding>(static_cast<int>(encoding) % kCompressed);
}
RecordEncoding compressed_of(RecordEncoding plain) noexcept {
  return static_cast<RecordEncoding>(static_cast<int>(plain) + kCompressed);
}
bool is_compressed(RecordEncoding encoding) noexcept { return static_cast<int>(encoding) >= kCompressed; }

void check(RecordEncoding encoding) {
  if (!is_known_encoding(static_cast<std::int64_t>(encoding))) {
    fail(Code::invalid_argument, "record: found encoding {}, expected one of RecordEncoding",
         static_cast<int>(encoding));
  }
}

bool ids_are_below(const IdShape& shape, const void* ids, std::size_t count) {
  return with_ids(shape.id_bytes(), ids, [&](const auto* id) { return all_below(id, count, shape.experts); });
}

// What is given to be encoded.
void check(const IdShape& shape, RecordEncoding plain, const void* ids) {
  if (!ids_are_below(shape, ids, shape.ids())) {
    fail(Code::invalid_argument, "record: ids to encode have an expert that is not below {}", shape.experts);
  }
  if (plain != RecordEncoding::elias_fano) return;
  if (shape.order != SlotOrder::canonical ||
      !record_kernels().all_ascend(ids, shape.id_bytes(), shape.sets, shape.topk)) {
    fail(Code::invalid_argument, "record: ids to encode as elias_fano have sets that do not ascend");
  }
}

[[noreturn]] void fail_at_id(const IdShape& shape, RecordEncoding encoding) {
  fail(Code::bad_data, "record: a blob in the encoding {} is not made of sets of {} experts below {}",
       record_encoding_name(encoding), shape.topk, shape.experts);
}

int id_bits(std::int32_t experts) noexcept { return std::bit_width(static_cast<std::uint32_t>(experts - 1)); }

// Bytes of an encoding that does not compress.
std::size_t plain_bytes(RecordEncoding plain, const IdShape& shape) noexcept {
  switch (plain) {
    case RecordEncoding::packed:
      return bytes_of_bits(shape.ids() * static_cast<std::size_t>(id_bits(shape.experts)));
    case RecordEncoding::elias_fano:
      return EliasFano(shape.experts, shape.topk).bytes(static_cast<std::size_t>(shape.sets));
    default:
      return shape.bytes();
  }
}

// `to` becomes the bytes of an encoding that does not compress.
void encode_plain(RecordEncoding plain, const IdShape& shape, const void* ids, std::vector<std::byte>& to) {
  to.resize(plain_bytes(plain, shape));
  switch (plain) {
    case RecordEncoding::packed:
      with_ids(shape.id_bytes(), ids,
               [&](const auto* from) { pack_bits(from, shape.ids(), id_bits(shape.experts), to); });
      break;
    case RecordEncoding::elias_fano:
      with_ids(shape.id_bytes(), ids, [&](const auto* from) {
        EliasFano(shape.experts, shape.topk).encode(from, static_cast<std::size_t>(shape.sets), to);
      });
      break;
    default:
      if (!to.empty()) std::memcpy(to.data(), ids, to.size());
  }
}

void decode_plain(RecordEncoding encoding, const IdShape& shape, std::span<const std::byte> from, std::int64_t first,
                  std::int64_t count, void* ids) {
  const std::size_t expected = plain_bytes(encoding, shape);
  if (from.size() != expected) {
    fail(Code::bad_data, "record: a blob in the encoding {} has {} bytes, expected {}", record_encoding_name(encoding),
         from.size(), expected);
  }
  const auto first_id = static_cast<std::size_t>(first * shape.topk);
  const auto id_count = static_cast<std::size_t>(count * shape.topk);
  if (encoding == RecordEncoding::elias_fano) {
    if (shape.order != SlotOrder::canonical) {
      fail(Code::bad_data,
           "record: a blob in the encoding elias_fano has rows whose order is kept, expected canonical");
    }
    const EliasFano code(shape.experts, shape.topk);
    with_ids(shape.id_bytes(), ids, [&](auto* to) {
      if (!code.decode(from, static_cast<std::size_t>(shape.sets), static_cast<std::size_t>(first),
                       static_cast<std::size_t>(count), to)) {
        fail_at_id(shape, encoding);
      }
    });
    return;
  }
  if (encoding == RecordEncoding::raw) {
    if (id_count > 0) std::memcpy(ids, from.data() + first_id * shape.id_bytes(), id_count * shape.id_bytes());
  } else {
    with_ids(shape.id_bytes(), ids,
             [&](auto* to) { unpack_bits(from, first_id, id_count, id_bits(shape.experts), to); });
  }
  if (!ids_are_below(shape, ids, id_count)) fail_at_id(shape, encoding);
}

}  // namespace

const char* record_encoding_name(RecordEncoding encoding) noexcept {
  switch (encoding) {
    case RecordEncoding::raw:
      return "raw";
    case RecordEncoding::packed:
      return "packed";
    case RecordEncoding::elias_fano:
      return "elias_fano";
    case RecordEncoding::raw_zstd:
      return "raw_zstd";
    case RecordEncoding::packed_zstd:
      return "packed_zstd";
    case RecordEncoding::elias_fano_zstd:
      return "elias_fano_zstd";
  }
  return "unknown";
}

std::size_t encoded_bytes(RecordEncoding encoding, const IdShape& shape) {
  check(encoding);
  check(shape);
  return plain_bytes(plain_of(encoding), shape);
}

struct IdDecoder::Zstd {
  std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context{ZSTD_createDCtx(), ZSTD_freeDCtx};
};

IdDecoder::IdDecoder() = default;
IdDecoder::~IdDecoder() = default;
IdDecoder::IdDecoder(IdDecoder&&) noexcept = default;
IdDecoder& IdDecoder::operator=(IdDecoder&&) noexcept = default;

void IdDecoder::decode(RecordEncoding encoding, const IdShape& shape, std::span<const std::byte> from,
                       std::int64_t first, std::int64_t count, void* ids) {
  check(shape);
  if (first < 0 || count < 0 || first > shape.sets - count) {
    fail(Code::invalid_argument, "record: asked for {} sets from {} on of a blob, expected some of its {}", count,
         first, shape.sets);
  }
  if (!is_known_encoding(static_cast<std::int64_t>(encoding))) {
    fail(Code::bad_data, "record: a blob has the encoding {}, which is not known", static_cast<int>(encoding));
  }
  const RecordEncoding plain = plain_of(encoding);
  if (!is_compressed(encoding)) return decode_plain(plain, shape, from, first, count, ids);
  if (!zstd_) zstd_ = std::make_unique<Zstd>();
  if (!zstd_->context) fail(Code::out_of_memory, "record: no memory to decompress a blob, expected some");
  const bool all_raw = plain == RecordEncoding::raw && count == shape.sets;
  if (!all_raw) plain_.resize(plain_bytes(plain, shape));
  const std::span<std::byte> to = all_raw ? std::span(static_cast<std::byte*>(ids), shape.bytes()) : std::span(plain_);
  const std::size_t got = ZSTD_decompressDCtx(zstd_->context.get(), to.data(), to.size(), from.data(), from.size());
  if (ZSTD_isError(got) != 0 || got != to.size()) {
    fail(Code::bad_data, "record: a blob in the encoding {} cannot be decompressed to {} bytes: {}",
         record_encoding_name(encoding), to.size(), ZSTD_isError(got) != 0 ? ZSTD_getErrorName(got) : "it holds fewer");
  }
  if (!all_raw) return decode_plain(plain, shape, plain_, first, count, ids);
  if (!ids_are_below(shape, ids, shape.ids())) fail_at_id(shape, encoding);
}

struct IdEncoder::Zstd {
  std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context{ZSTD_createCCtx(), ZSTD_freeCCtx};

  Zstd() {
    if (!context) fail(Code::out_of_memory, "record: no memory to compress a blob, expected some");
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, kZstdLevel);
    ZSTD_CCtx_setParameter(context.get(), ZSTD_c_minMatch, kZstdMinMatch);
  }
  void compress(std::span<const std::byte> from, std::vector<std::byte>& to) const {
    to.resize(ZSTD_compressBound(from.size()));
    const std::size_t size = ZSTD_compress2(context.get(), to.data(), to.size(), from.data(), from.size());
    if (ZSTD_isError(size) != 0) fail(Code::internal, "record: zstd: {}, expected a blob", ZSTD_getErrorName(size));
    to.resize(size);
  }
};

IdEncoder::IdEncoder(bool compress) : zstd_(compress ? std::make_unique<Zstd>() : nullptr) {}
IdEncoder::~IdEncoder() = default;
IdEncoder::IdEncoder(IdEncoder&&) noexcept = default;
IdEncoder& IdEncoder::operator=(IdEncoder&&) noexcept = default;

bool IdEncoder::try_now() {
  if (!zstd_) return false;
  if (wait_ == 0) return true;
  --wait_;
  return false;
}

IdEncoder::Result IdEncoder::encode(const IdShape& shape, const void* ids) {
  check(shape);
  RecordEncoding plain = RecordEncoding::raw;
  for (const RecordEncoding other : {RecordEncoding::packed, RecordEncoding::elias_fano}) {
    if (other == RecordEncoding::elias_fano && shape.order != SlotOrder::canonical) continue;
    if (plain_bytes(other, shape) < plain_bytes(plain, shape)) plain = other;
  }
  check(shape, plain, ids);
  encode_plain(plain, shape, ids, plain_);
  if (!try_now()) return {plain, plain_};

  // Bytes of raw ids repeat as experts do; bits of the smaller code do only if it is a whole number of bytes wide.
  RecordEncoding best = compressed_of(plain);
  zstd_->compress(plain_, compressed_);
  if (plain != RecordEncoding::raw) {
    zstd_->compress({static_cast<const std::byte*>(ids), shape.bytes()}, other_);
    if (other_.size() < compressed_.size()) {
      best = RecordEncoding::raw_zstd;
      std::swap(compressed_, other_);
    }
  }
  const bool pays = compressed_.size() + plain_.size() / kWorthWhile < plain_.size();
  interval_ = pays ? 1 : std::min(2 * interval_, kMostWait);
  wait_ = interval_ - 1;
  return pays ? Result{best, compressed_} : Result{plain, plain_};
}

IdEncoder::Result IdEncoder::encode_as(RecordEncoding encoding, const IdShape& shape, const void* ids) {
  check(encoding);
  check(shape);
  check(shape, plain_of(encoding), ids);
  encode_plain(plain_of(encoding), shape, ids, plain_);
  if (!is_compressed(encoding)) return {encoding, plain_};
  if (!zstd_) zstd_ = std::make_unique<Zstd>();
  zstd_->compress(plain_, compressed_);
  return {encoding, compressed_};
}

}  // namespace switchyard
