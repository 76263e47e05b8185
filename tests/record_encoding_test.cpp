// Encodings of the record: round trips, sizes, parts, and bytes that are no code.
#include "switchyard/record_encoding.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>

#include "checkpoint_files.hpp"
#include "record/elias_fano.hpp"
#include "record_rows.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

constexpr RecordEncoding kEncodings[] = {RecordEncoding::raw,         RecordEncoding::packed,
                                         RecordEncoding::elias_fano,  RecordEncoding::raw_zstd,
                                         RecordEncoding::packed_zstd, RecordEncoding::elias_fano_zstd};

struct Case {
  std::int32_t experts;
  std::int32_t topk;
};
// Models first, then borders of the id types, of words and of sets.
constexpr Case kCases[] = {{256, 8}, {384, 8},  {128, 8}, {512, 10},  {128, 4},  {512, 22},   {64, 8},
                           {60, 4},  {8, 2},    {1, 1},   {2, 1},     {2, 2},    {3, 2},      {64, 64},
                           {65, 64}, {255, 8},  {257, 8}, {8192, 64}, {8192, 1}, {65536, 64}, {65536, 1},
                           {511, 7}, {1000, 3}, {160, 6}, {4096, 33}, {256, 64}, {32768, 9},  {256, 1}};

IdShape shape_of(const Case& c, SlotOrder order, std::int64_t sets) { return {c.experts, c.topk, order, sets}; }

bool fits(RecordEncoding encoding, SlotOrder order) {
  return order == SlotOrder::canonical ||
         (encoding != RecordEncoding::elias_fano && encoding != RecordEncoding::elias_fano_zstd);
}

std::vector<std::byte> make_ids(const IdShape& shape, std::uint32_t seed) {
  return random_rows({shape.experts, shape.topk, {0}, shape.order, ""}, shape.sets, seed);
}

// A copy of exactly these bytes on the heap: reading one more is what the sanitizer reports.
struct Exact {
  explicit Exact(std::span<const std::byte> from) : size(from.size()), bytes(std::make_unique<std::byte[]>(size)) {
    std::copy(from.begin(), from.end(), bytes.get());
  }
  std::span<const std::byte> span() const { return {bytes.get(), size}; }
  std::size_t size;
  std::unique_ptr<std::byte[]> bytes;
};

TEST(RecordEncoding, RoundTrips) {
  IdEncoder encoder;
  IdDecoder decoder;
  for (const Case& c : kCases) {
    for (const SlotOrder order : {SlotOrder::kept, SlotOrder::canonical}) {
      for (const std::int64_t sets : {0, 1, 7, 64, 255, 1024}) {
        const IdShape shape = shape_of(c, order, sets);
        const auto ids = make_ids(shape, static_cast<std::uint32_t>(c.experts + sets));
        for (const RecordEncoding encoding : kEncodings) {
          if (!fits(encoding, order)) continue;
          SCOPED_TRACE(fmt::format("E {} K {} sets {} {}", c.experts, c.topk, sets, record_encoding_name(encoding)));
          const Exact code(encoder.encode_as(encoding, shape, ids.data()).bytes);
          std::vector<std::byte> back(shape.bytes(), std::byte{0xa5});
          decoder.decode(encoding, shape, code.span(), 0, sets, back.data());
          ASSERT_EQ(back, ids);
        }
      }
    }
  }
}

TEST(RecordEncoding, AnyPart) {
  IdEncoder encoder;
  IdDecoder decoder;
  std::mt19937 random(5);
  for (const Case& c : kCases) {
    const IdShape shape = shape_of(c, SlotOrder::canonical, 67);
    const auto ids = make_ids(shape, 3);
    const std::size_t set_bytes = static_cast<std::size_t>(c.topk) * shape.id_bytes();
    for (const RecordEncoding encoding : kEncodings) {
      const Exact code(encoder.encode_as(encoding, shape, ids.data()).bytes);
      for (int i = 0; i < 20; ++i) {
        const auto first = static_cast<std::int64_t>(random() % 68);
        const auto count = static_cast<std::int64_t>(random() % static_cast<unsigned>(68 - first));
        std::vector<std::byte> part(static_cast<std::size_t>(count) * set_bytes);
        decoder.decode(encoding, shape, code.span(), first, count, part.data());
        ASSERT_TRUE(std::equal(part.begin(), part.end(), ids.begin() + first * static_cast<std::int64_t>(set_bytes)))
            << c.experts << ' ' << c.topk << ' ' << first << ' ' << count;
      }
    }
  }
}

// k·l + k + ⌈E/2^l⌉ bits of a set, for the l that makes it least; the figures of known models.
TEST(RecordEncoding, SizesByFormula) {
  for (const Case& c : kCases) {
    std::int64_t least = std::int64_t{1} << 40;
    for (int l = 0; l < 20; ++l) {
      const std::int64_t buckets = (c.experts + (std::int64_t{1} << l) - 1) / (std::int64_t{1} << l);
      least = std::min(least, c.topk * l + c.topk + buckets);
    }
    const EliasFano code(c.experts, c.topk);
    EXPECT_EQ(c.topk * code.low + code.high, least) << c.experts << ' ' << c.topk;
    const IdShape block = shape_of(c, SlotOrder::canonical, 256 * 4);
    EXPECT_EQ(encoded_bytes(RecordEncoding::elias_fano, block), static_cast<std::size_t>(least * 256 * 4 / 8));
    int width = 0;
    while ((1 << width) < c.experts) ++width;
    EXPECT_EQ(encoded_bytes(RecordEncoding::packed, block), static_cast<std::size_t>(width * c.topk * 256 * 4 / 8));
  }
  const auto bits = [](std::int32_t experts, std::int32_t topk) {
    const EliasFano code(experts, topk);
    return topk * code.low + code.high;
  };
  EXPECT_EQ(bits(64, 8), 40);
  EXPECT_EQ(bits(128, 8), 48);
  EXPECT_EQ(bits(256, 8), 56);
  EXPECT_EQ(bits(384, 8), 60);
  EXPECT_EQ(bits(512, 10), 76);
  EXPECT_EQ(bits(512, 22), 142);
}

TEST(RecordEncoding, TheSmallestIsTaken) {
  IdEncoder encoder;
  const auto best = [&](const Case& c, SlotOrder order) {
    const IdShape shape = shape_of(c, order, 1024);
    return encoder.encode(shape, make_ids(shape, 9).data()).encoding;
  };
  EXPECT_EQ(best({256, 8}, SlotOrder::kept), RecordEncoding::raw);
  EXPECT_EQ(best({256, 8}, SlotOrder::canonical), RecordEncoding::elias_fano);
  EXPECT_EQ(best({384, 8}, SlotOrder::kept), RecordEncoding::packed);
  EXPECT_EQ(best({128, 1}, SlotOrder::canonical), RecordEncoding::packed);
}

TEST(RecordEncoding, CompressesWhatRepeatsAndGivesUpOnWhatDoesNot) {
  const IdShape shape = shape_of({256, 8}, SlotOrder::canonical, 1024);
  std::vector<std::byte> same(shape.bytes());
  for (std::size_t i = 0; i < same.size(); ++i) same[i] = static_cast<std::byte>(i % 8);
  const auto random = make_ids(shape, 1);
  IdEncoder encoder;
  EXPECT_GE(static_cast<int>(encoder.encode(shape, same.data()).encoding), 16);
  // Tries are 1, 2, 4, … blobs apart, then 64; what repeats is found again by then.
  for (int i = 0; i < 200; ++i) EXPECT_EQ(encoder.encode(shape, random.data()).encoding, RecordEncoding::elias_fano);
  int until = 0;
  while (static_cast<int>(encoder.encode(shape, same.data()).encoding) < 16) ASSERT_LT(++until, 64);
  EXPECT_GT(until, 0);
  EXPECT_GE(static_cast<int>(encoder.encode(shape, same.data()).encoding), 16);
  IdEncoder plain(false);
  EXPECT_EQ(plain.encode(shape, same.data()).encoding, RecordEncoding::elias_fano);
}

TEST(RecordEncoding, SizesThatAreWrong) {
  IdEncoder encoder;
  IdDecoder decoder;
  const IdShape shape = shape_of({384, 8}, SlotOrder::canonical, 9);
  const auto ids = make_ids(shape, 2);
  std::vector<std::byte> back(shape.bytes());
  for (const RecordEncoding encoding : kEncodings) {
    const auto result = encoder.encode_as(encoding, shape, ids.data());
    const std::vector<std::byte> code(result.bytes.begin(), result.bytes.end());
    for (std::size_t size = 0; size < code.size(); ++size) {
      const Exact cut{std::span(code).first(size)};
      expect_error(Code::bad_data, {"record", record_encoding_name(encoding)},
                   [&] { decoder.decode(encoding, shape, cut.span(), 0, shape.sets, back.data()); });
    }
    std::vector<std::byte> longer = code;
    longer.push_back(std::byte{0});
    expect_error(Code::bad_data, {"record"},
                 [&] { decoder.decode(encoding, shape, longer, 0, shape.sets, back.data()); });
  }
}

TEST(RecordEncoding, WhatCannotBeEncoded) {
  IdEncoder encoder;
  IdDecoder decoder;
  std::vector<std::byte> ids{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{9}, std::byte{8}, std::byte{0}};
  const IdShape shape = shape_of({10, 2}, SlotOrder::canonical, 3);
  const auto refused = [&](const IdShape& asked, RecordEncoding encoding) {
    expect_error(Code::invalid_argument, {"record"}, [&] { encoder.encode_as(encoding, asked, ids.data()); });
  };
  refused(shape, RecordEncoding::elias_fano);  // 8 before 0
  refused(shape, RecordEncoding::elias_fano_zstd);
  refused(shape_of({10, 2}, SlotOrder::kept, 2), RecordEncoding::elias_fano);
  for (const RecordEncoding encoding : kEncodings) refused(shape_of({9, 2}, SlotOrder::canonical, 2), encoding);
  expect_error(Code::invalid_argument, {"record", "below 9"}, [&] {
    encoder.encode(shape_of({9, 2}, SlotOrder::kept, 2), ids.data());
  });
  for (const IdShape& wrong : {shape_of({0, 1}, SlotOrder::kept, 1), shape_of({65537, 1}, SlotOrder::kept, 1),
                               shape_of({10, 0}, SlotOrder::kept, 1), shape_of({10, 11}, SlotOrder::kept, 1),
                               shape_of({100, 65}, SlotOrder::kept, 1), shape_of({10, 2}, SlotOrder::kept, -1),
                               shape_of({10, 2}, SlotOrder::kept, std::int64_t{1} << 62)}) {
    refused(wrong, RecordEncoding::raw);
    expect_error(Code::invalid_argument, {"record"}, [&] { encoded_bytes(RecordEncoding::raw, wrong); });
    expect_error(Code::invalid_argument, {"record"},
                 [&] { decoder.decode(RecordEncoding::raw, wrong, ids, 0, 0, ids.data()); });
  }
  const IdShape sound = shape_of({10, 2}, SlotOrder::kept, 3);
  for (const int number : {-16, -1, 3, 15, 19, 32}) {
    const auto unknown = static_cast<RecordEncoding>(number);
    refused(sound, unknown);
    expect_error(Code::invalid_argument, {"record"}, [&] { encoded_bytes(unknown, sound); });
    expect_error(Code::bad_data, {"record"}, [&] { decoder.decode(unknown, sound, ids, 0, 3, ids.data()); });
  }
  for (const auto& [first, count] : {std::pair{-1, 1}, std::pair{0, -1}, std::pair{0, 4}, std::pair{4, 0}}) {
    expect_error(Code::invalid_argument, {"record", "of its 3"},
                 [&] { decoder.decode(RecordEncoding::raw, sound, ids, first, count, ids.data()); });
  }
}

TEST(RecordEncoding, OnePairThatDoesNotAscend) {
  IdEncoder encoder;
  for (const Case& c : {Case{100, 2}, Case{256, 3}, Case{256, 8}, Case{384, 8}, Case{512, 10}, Case{1000, 64}}) {
    const IdShape shape = shape_of(c, SlotOrder::canonical, 29);
    std::vector<std::byte> ids = make_ids(shape, 5);
    const std::size_t id_bytes = shape.id_bytes();
    EXPECT_NO_THROW(encoder.encode_as(RecordEncoding::elias_fano, shape, ids.data()));
    for (std::size_t i = 0; i + 1 < shape.ids(); ++i) {
      if (i % static_cast<std::size_t>(c.topk) == static_cast<std::size_t>(c.topk) - 1) continue;
      std::vector<std::byte> equal = ids;
      std::copy_n(ids.data() + i * id_bytes, id_bytes, equal.data() + (i + 1) * id_bytes);
      expect_error(Code::invalid_argument, {"record", "do not ascend"},
                   [&] { encoder.encode_as(RecordEncoding::elias_fano, shape, equal.data()); });
    }
  }
}

// Whatever the bytes: an error, or ids below E.
TEST(RecordEncoding, DamagedBytes) {
  IdEncoder encoder;
  IdDecoder decoder;
  std::mt19937 random(11);
  int refused = 0;
  for (const Case& c : kCases) {
    const IdShape shape = shape_of(c, SlotOrder::canonical, 33);
    const auto ids = make_ids(shape, 4);
    for (const RecordEncoding encoding : kEncodings) {
      const auto result = encoder.encode_as(encoding, shape, ids.data());
      const std::vector<std::byte> code(result.bytes.begin(), result.bytes.end());
      for (int i = 0; i < 40 && !code.empty(); ++i) {
        std::vector<std::byte> damaged = code;
        if (i % 4 == 0) std::generate(damaged.begin(), damaged.end(), [&] { return static_cast<std::byte>(random()); });
        damaged[random() % damaged.size()] ^= static_cast<std::byte>(1U << random() % 8);
        const Exact exact(damaged);
        std::vector<std::byte> back(shape.bytes());
        try {
          decoder.decode(encoding, shape, exact.span(), 0, shape.sets, back.data());
        } catch (const Error& error) {
          ASSERT_EQ(error.code(), Code::bad_data) << error.what();
          ++refused;
          continue;
        }
        for_each_id(shape.experts, back, [&](std::int32_t id) { ASSERT_LT(id, shape.experts); });
      }
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(RecordEncoding, SetsOfKeptOrderHaveNoEliasFano) {
  const IdShape canonical = shape_of({256, 8}, SlotOrder::canonical, 8);
  IdEncoder encoder;
  IdDecoder decoder;
  const auto ids = make_ids(canonical, 8);
  const Exact code(encoder.encode_as(RecordEncoding::elias_fano, canonical, ids.data()).bytes);
  std::vector<std::byte> back(canonical.bytes());
  expect_error(Code::bad_data, {"elias_fano", "expected canonical"}, [&] {
    decoder.decode(RecordEncoding::elias_fano, shape_of({256, 8}, SlotOrder::kept, 8), code.span(), 0, 8, back.data());
  });
}

TEST(SortSlots, AsOneByOne) {
  for (const Case& c : kCases) {
    const RecordSchema schema{c.experts, c.topk, {1, 4, 9}, SlotOrder::kept, ""};
    auto rows = random_rows(schema, 77, 6);
    auto expected = rows;
    for (std::size_t at = 0; at < rows.size(); at += rows.size() / (77 * 3)) {
      if (c.experts <= 256) {
        auto* ids = reinterpret_cast<std::uint8_t*>(expected.data()) + at;
        std::sort(ids, ids + c.topk);
      } else {
        auto* ids = reinterpret_cast<std::uint16_t*>(expected.data() + at);
        std::sort(ids, ids + c.topk);
      }
    }
    sort_slots(schema, rows.data(), 77);
    EXPECT_EQ(rows, expected) << c.experts << ' ' << c.topk;
  }
}

}  // namespace
