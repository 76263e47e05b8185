#include "record/elias_fano.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "record/bits.hpp"
#include "record/ids.hpp"
#include "record/record_kernels.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kLanes = 8;
constexpr std::size_t kChunkIds = 4096;  // what is decoded at a time: its parts stay in the first-level cache
// Of a damaged set no more ones are stored than bits are read, at most 3 · kMaxRecordTopk + 1; each store has 8 lanes.
constexpr std::size_t kChunkPadding = 3 * kMaxRecordTopk + 1 + kLanes;

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

// The high parts of a set whose bits are the lowest `length` of `word`, at most 8 · kBytes of them, where `ones` ones
// and done − ones zeros went before: as many lanes are written as there are ones, and up to 7 more.
template <int kBytes>
std::size_t decode_word(std::uint64_t word, std::size_t done, std::size_t ones, std::uint8_t* to) noexcept {
  for (std::size_t bit = 0; bit < 8 * kBytes; bit += 8, word >>= 8) {
    const std::uint64_t byte = word & 0xff;
    const std::uint64_t lanes = kUnary.zeros[byte] + (done + bit - ones) * 0x0101010101010101;
    std::memcpy(to + ones, &lanes, sizeof(lanes));
    ones += kUnary.ones[byte];
  }
  return ones;
}

constexpr std::size_t kWordBits = 56;  // what one load has, from any bit of a byte on

// The high parts of `sets` sets of `length` bits, from bit `at` on, to `to` [sets,K]. Whether each set has K ones and
// then a zero, so that all of its parts are below length − K.
template <int kBytes>
bool decode_short(std::span<const std::byte> bits, std::size_t at, std::size_t length, std::size_t sets,
                  std::size_t topk, std::uint8_t* to) noexcept {
  const std::uint64_t mask = ~std::uint64_t{0} >> (64 - length);
  std::uint64_t last = 0;
  std::size_t wrong = 0;
  for (std::size_t set = 0; set < sets; ++set, at += length, to += topk) {
    const std::uint64_t word = (load_word(bits, at / 8) >> (at % 8)) & mask;
    last |= word;
    wrong |= decode_word<kBytes>(word, 0, 0, to) ^ topk;
  }
  return wrong == 0 && last >> (length - 1) == 0;
}

bool decode_long(std::span<const std::byte> bits, std::size_t at, std::size_t length, std::size_t sets,
                 std::size_t topk, std::uint8_t* to) noexcept {
  bool sound = true;
  for (std::size_t set = 0; set < sets; ++set, at += length, to += topk) {
    std::size_t ones = 0;
    std::uint64_t last = 0;
    for (std::size_t done = 0; done < length; done += kWordBits) {
      const std::size_t part = std::min(length - done, kWordBits);
      const std::size_t from = at + done;
      const std::uint64_t word = (load_word(bits, from / 8) >> (from % 8)) & (~std::uint64_t{0} >> (64 - part));
      last = word >> (part - 1);
      ones = decode_word<kWordBits / 8>(word, done, ones, to);
    }
    sound &= ones == topk && last == 0;
  }
  return sound;
}

using DecodeHigh = bool (*)(std::span<const std::byte>, std::size_t, std::size_t, std::size_t, std::size_t,
                            std::uint8_t*) noexcept;

DecodeHigh decode_high_of(std::size_t length) noexcept {
  constexpr DecodeHigh kShort[] = {decode_short<1>, decode_short<2>, decode_short<3>, decode_short<4>,
                                   decode_short<5>, decode_short<6>, decode_short<7>};
  return length <= kWordBits ? kShort[(length - 1) / 8] : decode_long;
}

// Lanes of a word do not reach into their neighbours: a high part is below E / 2^shift.
void join(const std::uint8_t* low, const std::uint8_t* high, std::size_t count, int shift, std::uint8_t* ids) noexcept {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    std::uint64_t lows = 0;
    std::uint64_t highs = 0;
    std::memcpy(&lows, low + i, sizeof(lows));
    std::memcpy(&highs, high + i, sizeof(highs));
    lows |= highs << shift;
    std::memcpy(ids + i, &lows, sizeof(lows));
  }
  for (; i < count; ++i) ids[i] = static_cast<std::uint8_t>(low[i] | high[i] << shift);
}

template <class Low>
void join(const Low* low, const std::uint8_t* high, std::size_t count, int shift, std::uint16_t* ids) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    const auto part = static_cast<std::uint16_t>(static_cast<std::uint16_t>(high[i]) << shift);
    ids[i] = static_cast<std::uint16_t>(low[i] | part);
  }
}

// The ones of sets one after the other in a zeroed array: they stand at ascending places, so a word is complete when the
// next one is reached.
class UnaryWriter {
 public:
  explicit UnaryWriter(std::span<std::byte> to) : to_(to) {}

  // `kTopk` slots, or `topk` of them if that is 0.
  template <std::size_t kTopk, class Id>
  void add(const Id* ids, std::size_t sets, std::size_t topk, int low, std::size_t length) noexcept {
    const std::size_t slots = kTopk > 0 ? kTopk : topk;
    const std::uint64_t high_bits = (0xffU >> low) * 0x0101010101010101;
    std::uint64_t word = word_;
    std::size_t fill = fill_;
    for (std::size_t set = 0; set < sets; ++set, ids += slots) {
      std::uint64_t bits = 0;
      if constexpr (kTopk == kLanes && sizeof(Id) == 1) {
        std::uint64_t places = 0;  // of all 8 ones
        std::memcpy(&places, ids, sizeof(places));
        places = (places >> low & high_bits) + 0x0706050403020100;
        for (std::size_t lane = 0; lane < 64; lane += 8) bits |= std::uint64_t{1} << (places >> lane & 63);
      } else {
        for (std::size_t k = 0; k < slots; ++k) bits |= std::uint64_t{1} << ((ids[k] >> low) + k);
      }
      word |= bits << fill;
      fill += length;
      if (fill < 64) continue;
      word_ = word;
      store();
      fill -= 64;
      word = fill == 0 ? 0 : bits >> (length - fill);
    }
    word_ = word;
    fill_ = fill;
  }
  void store() noexcept {
    std::memcpy(to_.data() + at_, &word_, std::min(sizeof(word_), to_.size() - at_));
    at_ = std::min(at_ + sizeof(word_), to_.size());
  }

  // For sets of any length.
  template <class Id>
  void add_long(const Id* ids, std::size_t topk, int low, std::size_t length) noexcept {
    std::size_t word = 0;
    for (std::size_t k = 0; k < topk; ++k) {
      const std::size_t bit = fill_ + (ids[k] >> low) + k;
      for (; word < bit / 64; ++word, word_ = 0) store();
      word_ |= std::uint64_t{1} << (bit % 64);
    }
    fill_ += length;
    for (; word < fill_ / 64; ++word, word_ = 0) store();
    fill_ %= 64;
  }

 private:
  std::span<std::byte> to_;
  std::size_t at_ = 0;
  std::uint64_t word_ = 0;
  std::size_t fill_ = 0;  // bits of word_
};

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
      const Id* from = ids + done;  // a captured pointer would be read again for every id
      for (std::size_t i = 0; i < part; ++i) low_parts[i] = static_cast<Low>(from[i] & mask);
      pack_bits(low_parts.data(), part, low, to.subspan(done * static_cast<std::size_t>(low) / 8));
    }
  };
  low <= 8 ? lows(std::uint8_t{}) : lows(std::uint16_t{});

  UnaryWriter highs(to.subspan(low_bytes(sets)));
  const auto k = static_cast<std::size_t>(topk);
  const auto length = static_cast<std::size_t>(high);
  if (length > 64) {
    for (std::size_t set = 0; set < sets; ++set) highs.add_long(ids + set * k, k, low, length);
  } else if (k == 8) {
    highs.add<8>(ids, sets, k, low, length);
  } else {
    highs.add<0>(ids, sets, k, low, length);
  }
  highs.store();
}

template <class Id>
bool EliasFano::decode(std::span<const std::byte> from, std::size_t sets, std::size_t first, std::size_t count,
                       Id* ids) const {
  const std::span<const std::byte> lows = from.first(low_bytes(sets));
  const std::span<const std::byte> highs = from.subspan(low_bytes(sets));
  const auto k = static_cast<std::size_t>(topk);
  const auto bits = static_cast<std::size_t>(high);
  const std::size_t chunk = kChunkIds / k;
  const DecodeHigh decode_high = decode_high_of(bits);
  std::array<std::uint8_t, kChunkIds + kChunkPadding> high_parts;
  const auto parts = [&]<class Low>(Low) {
    std::array<Low, kChunkIds> low_parts;
    bool sound = true;
    for (std::size_t done = 0; done < count; done += chunk) {
      const std::size_t part = std::min(chunk, count - done);
      unpack_bits(lows, (first + done) * k, part * k, low, low_parts.data());
      sound &= decode_high(highs, (first + done) * bits, bits, part, k, high_parts.data());
      join(low_parts.data(), high_parts.data(), part * k, low, ids + done * k);
      // Otherwise there is no id between E and the next multiple of 2^low.
      if (experts % (1 << low) != 0) sound &= all_below(ids + done * k, part * k, experts);
    }
    return sound;
  };
  if constexpr (sizeof(Id) == 1) {
    return parts(std::uint8_t{});
  } else {
    return low <= 8 ? parts(std::uint8_t{}) : parts(std::uint16_t{});
  }
}

template void EliasFano::encode(const std::uint8_t*, std::size_t, std::span<std::byte>) const;
template void EliasFano::encode(const std::uint16_t*, std::size_t, std::span<std::byte>) const;
template bool EliasFano::decode(std::span<const std::byte>, std::size_t, std::size_t, std::size_t, std::uint8_t*) const;
template bool EliasFano::decode(std::span<const std::byte>, std::size_t, std::size_t, std::size_t,
                                std::uint16_t*) const;

}  // namespace switchyard
