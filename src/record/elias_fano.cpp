#include "record/elias_fano.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "record/bits.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kMaxTopk = 64;
constexpr std::size_t kChunkIds = 4096;  // what is decoded at a time: its parts stay in the first-level cache
// Of a damaged set no more ones are stored than bits are read, at most 3 · kMaxTopk + 1; each store has 8 lanes.
constexpr std::size_t kChunkPadding = 3 * kMaxTopk + 1 + kLanes;

// For every byte, how many zeros stand before each of its ones, and how many ones there are.
struct Unary {
  std::array<std::uint64_t, 256> zeros{};
  std::array<std::uint8_t, 256> ones{};
};

constexpr Unary make_unary() {
  Unary table;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::uint64_t lanes = 0;
    std::uint8_t count = 0;
    for (unsigned bit = 0; bit < 8; ++bit) {
      if ((byte >> bit & 1) == 0) continue;
      lanes |= std::uint64_t{bit - count} << (8 * count);
      ++count;
    }
    table.zeros[byte] = lanes;
    table.ones[byte] = count;
  }
  return table;
}

constexpr Unary kUnary = make_unary();

// The high parts of one set, whose bits begin at bit `at`: as many lanes are written as there are ones, and 7 more.
// Whether there were `topk` ones and a zero at the end.
bool decode_high(std::span<const std::byte> bits, std::size_t at, std::size_t length, std::size_t topk,
                 std::uint8_t* to) noexcept {
  std::size_t ones = 0;
  std::uint64_t last = 0;
  for (std::size_t done = 0; done < length;) {
    std::uint64_t word = load_word(bits, (at + done) / 8) >> ((at + done) % 8);
    const std::size_t part = std::min<std::size_t>(length - done, 56);
    word &= ~std::uint64_t{0} >> (64 - part);
    last = word >> (part - 1);
    for (std::size_t bit = 0; bit < part; bit += 8, word >>= 8) {
      const std::uint64_t byte = word & 0xff;
      const std::uint64_t lanes = kUnary.zeros[byte] + (done + bit - ones) * 0x0101010101010101;
      std::memcpy(to + ones, &lanes, sizeof(lanes));
      ones += kUnary.ones[byte];
    }
    done += part;
  }
  return ones == topk && last == 0;
}

// The ids, and whether all are below E.
template <class Low, class Id>
bool join(const Low* low, const std::uint8_t* high, std::size_t count, int shift, std::int32_t experts, Id* ids) {
  Id most = 0;
  for (std::size_t i = 0; i < count; ++i) {
    ids[i] = static_cast<Id>(low[i] | static_cast<unsigned>(high[i]) << shift);
    most = std::max(most, ids[i]);
  }
  return static_cast<std::int32_t>(most) < experts;
}

}  // namespace

EliasFano::EliasFano(std::int32_t experts_, std::int32_t topk_) noexcept : experts(experts_), topk(topk_) {
  const auto high_bits = [&](int l) { return topk + ((experts - 1) >> l) + 1; };
  for (int l = 1; l <= 16; ++l) {
    if (topk * l + high_bits(l) <= topk * low + high_bits(low)) low = l;
  }
  high = high_bits(low);
}

std::size_t EliasFano::low_bytes(std::size_t sets) const noexcept {
  return bytes_of_bits(sets * static_cast<std::size_t>(topk * low));
}

std::size_t EliasFano::high_bytes(std::size_t sets) const noexcept {
  return bytes_of_bits(sets * static_cast<std::size_t>(high));
}

template <class Id>
void EliasFano::encode(const Id* ids, std::size_t sets, std::span<std::byte> to) const {
  const std::size_t count = sets * static_cast<std::size_t>(topk);
  const auto lows = [&]<class Low>(Low) {
    std::array<Low, kChunkIds> low_parts;
    const auto mask = static_cast<Low>((1U << low) - 1);
    for (std::size_t done = 0; done < count; done += kChunkIds) {
      const std::size_t part = std::min(kChunkIds, count - done);
      for (std::size_t i = 0; i < part; ++i) low_parts[i] = static_cast<Low>(ids[done + i] & mask);
      pack_bits(low_parts.data(), part, low, to.subspan(done * static_cast<std::size_t>(low) / 8));
    }
  };
  low <= 8 ? lows(std::uint8_t{}) : lows(std::uint16_t{});

  // Ones stand at ascending places, so a word is complete when the next one is reached.
  const std::span<std::byte> highs = to.subspan(low_bytes(sets));
  std::memset(highs.data(), 0, highs.size());
  std::uint64_t word = 0;
  std::size_t word_at = 0;
  const auto store = [&] {
    std::memcpy(highs.data() + word_at, &word, std::min(sizeof(word), highs.size() - word_at));
  };
  std::size_t begin = 0;
  for (std::size_t set = 0; set < sets; ++set, ids += topk, begin += static_cast<std::size_t>(high)) {
    for (std::int32_t k = 0; k < topk; ++k) {
      const std::size_t at = begin + static_cast<std::size_t>((ids[k] >> low) + k);
      if (at / 64 * 8 != word_at) {
        store();
        word = 0;
        word_at = at / 64 * 8;
      }
      word |= std::uint64_t{1} << (at % 64);
    }
  }
  if (sets > 0) store();
}

template <class Id>
bool EliasFano::decode(std::span<const std::byte> from, std::size_t sets, std::size_t first, std::size_t count,
                       Id* ids) const {
  const std::span<const std::byte> lows = from.first(low_bytes(sets));
  const std::span<const std::byte> highs = from.subspan(low_bytes(sets));
  const auto k = static_cast<std::size_t>(topk);
  const auto bits = static_cast<std::size_t>(high);
  const std::size_t chunk = kChunkIds / k;
  std::array<std::uint8_t, kChunkIds + kChunkPadding> high_parts;
  const auto parts = [&]<class Low>(Low) {
    std::array<Low, kChunkIds> low_parts;
    bool sound = true;
    for (std::size_t done = 0; done < count; done += chunk) {
      const std::size_t part = std::min(chunk, count - done);
      unpack_bits(lows, (first + done) * k, part * k, low, low_parts.data());
      for (std::size_t set = 0; set < part; ++set) {
        sound &= decode_high(highs, (first + done + set) * bits, bits, k, high_parts.data() + set * k);
      }
      sound &= join(low_parts.data(), high_parts.data(), part * k, low, experts, ids + done * k);
    }
    return sound;
  };
  return low <= 8 ? parts(std::uint8_t{}) : parts(std::uint16_t{});
}

template void EliasFano::encode(const std::uint8_t*, std::size_t, std::span<std::byte>) const;
template void EliasFano::encode(const std::uint16_t*, std::size_t, std::span<std::byte>) const;
template bool EliasFano::decode(std::span<const std::byte>, std::size_t, std::size_t, std::size_t, std::uint8_t*) const;
template bool EliasFano::decode(std::span<const std::byte>, std::size_t, std::size_t, std::size_t,
                                std::uint16_t*) const;

}  // namespace switchyard
