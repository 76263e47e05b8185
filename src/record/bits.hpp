// Numbers of a fixed width, one after the other without gaps, the lowest bit first.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace switchyard {

static_assert(std::endian::native == std::endian::little, "stored numbers are little-endian");

constexpr std::size_t bytes_of_bits(std::size_t bits) noexcept { return (bits + 7) / 8; }

// The 8 bytes from `at` on; those beyond the end are 0.
inline std::uint64_t load_word(std::span<const std::byte> from, std::size_t at) noexcept {
  std::uint64_t word = 0;
  if (at + sizeof(word) <= from.size()) {
    std::memcpy(&word, from.data() + at, sizeof(word));
  } else if (at < from.size()) {
    std::memcpy(&word, from.data() + at, from.size() - at);
  }
  return word;
}

// `from` has `count` numbers below 2^width; `to` has bytes_of_bits(count · width) bytes or more. Width 0..8 for bytes,
// 9..16 for u16. Bits of the last byte after the last number are 0; any bytes of `to` after it may become 0.
void pack_bits(const std::uint8_t* from, std::size_t count, int width, std::span<std::byte> to) noexcept;
void pack_bits(const std::uint16_t* from, std::size_t count, int width, std::span<std::byte> to) noexcept;

// Numbers first..first + count − 1 of `from`. What lies beyond its end reads as 0.
void unpack_bits(std::span<const std::byte> from, std::size_t first, std::size_t count, int width,
                 std::uint8_t* to) noexcept;
void unpack_bits(std::span<const std::byte> from, std::size_t first, std::size_t count, int width,
                 std::uint16_t* to) noexcept;

}  // namespace switchyard
