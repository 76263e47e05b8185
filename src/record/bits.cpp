#include "record/bits.hpp"

#include <algorithm>

namespace switchyard {
namespace {

constexpr std::size_t kGroup = 8;  // numbers: `width` bytes of them end at a byte

constexpr std::uint64_t low_bits(int count) noexcept { return count == 0 ? 0 : ~std::uint64_t{0} >> (64 - count); }

// Halves of `bits` bits, in every lane of 2 · `lane` bits, are moved to lanes of their own, or back.
constexpr std::uint64_t repeated(std::uint64_t pattern, int lane) noexcept {
  std::uint64_t all = 0;
  for (int at = 0; at < 64; at += lane) all |= pattern << at;
  return all;
}

class Halves {
 public:
  Halves(int bits, int lane) noexcept
      : low_(repeated(low_bits(bits), 2 * lane)), shift_(lane - bits), high_(low_ << bits), moved_(low_ << lane) {}
  std::uint64_t apart(std::uint64_t x) const noexcept { return (x & low_) | (x & high_) << shift_; }
  std::uint64_t together(std::uint64_t x) const noexcept { return (x & low_) | (x & moved_) >> shift_; }

 private:
  std::uint64_t low_;
  int shift_;
  std::uint64_t high_;
  std::uint64_t moved_;
};

// 8 numbers: 64 bits of lanes of 8, or twice 64 bits of lanes of 16.
class Bytes {
 public:
  explicit Bytes(int width) noexcept : to32_(4 * width, 32), to16_(2 * width, 16), to8_(width, 8) {}

  void unpack(std::span<const std::byte> from, std::size_t at, std::uint8_t* to) const noexcept {
    const std::uint64_t ids = to8_.apart(to16_.apart(to32_.apart(load_word(from, at))));
    std::memcpy(to, &ids, sizeof(ids));
  }
  // Writes the group's bytes and then zeros, as many bytes as it has numbers of the type.
  void pack(const std::uint8_t* from, std::byte* to) const noexcept {
    std::uint64_t ids = 0;
    std::memcpy(&ids, from, sizeof(ids));
    ids = to32_.together(to16_.together(to8_.together(ids)));
    std::memcpy(to, &ids, sizeof(ids));
  }

 private:
  Halves to32_;
  Halves to16_;
  Halves to8_;
};

class Shorts {
 public:
  explicit Shorts(int width) noexcept : width_(width), to32_(2 * width, 32), to16_(width, 16) {}

  void unpack(std::span<const std::byte> from, std::size_t at, std::uint16_t* to) const noexcept {
    const std::size_t half = static_cast<std::size_t>(width_) / 2;
    const std::uint64_t ids[2] = {spread(load_word(from, at)), spread(load_word(from, at + half) >> (width_ % 2 * 4))};
    std::memcpy(to, ids, sizeof(ids));
  }
  void pack(const std::uint16_t* from, std::byte* to) const noexcept {
    std::uint64_t ids[2];
    std::memcpy(ids, from, sizeof(ids));
    for (std::uint64_t& half : ids) half = to32_.together(to16_.together(half));
    const int bits = 4 * width_;
    std::uint64_t words[2] = {ids[0], ids[1]};
    if (bits < 64) {
      words[0] |= ids[1] << bits;
      words[1] >>= 64 - bits;
    }
    std::memcpy(to, words, sizeof(words));
  }

 private:
  std::uint64_t spread(std::uint64_t x) const noexcept { return to16_.apart(to32_.apart(x)); }

  int width_;
  Halves to32_;
  Halves to16_;
};

template <class Lanes, class Id>
void pack(const Id* from, std::size_t count, int width, std::span<std::byte> to) noexcept {
  if (width == 0) return;
  const Lanes lanes(width);
  const auto bytes = static_cast<std::size_t>(width);
  std::size_t done = 0;
  std::size_t at = 0;
  // The zeros behind a group make room for the next one.
  for (; count - done >= kGroup && to.size() - at >= kGroup * sizeof(Id); done += kGroup, at += bytes) {
    lanes.pack(from + done, to.data() + at);
  }
  for (; done < count; done += kGroup, at += bytes) {
    const std::size_t rest = std::min(count - done, kGroup);
    Id last[kGroup] = {};
    std::copy_n(from + done, rest, last);
    std::byte packed[sizeof(last)];
    lanes.pack(last, packed);
    std::copy_n(packed, bytes_of_bits(rest * bytes), to.data() + at);
  }
}

template <class Lanes, class Id>
void unpack(std::span<const std::byte> from, std::size_t first, std::size_t count, int width, Id* to) noexcept {
  if (width == 0) {
    std::fill_n(to, count, Id{0});
    return;
  }
  const Lanes lanes(width);
  const auto bytes = static_cast<std::size_t>(width);
  const auto part = [&](std::size_t group, std::size_t begin, std::size_t end) {
    Id ids[kGroup];
    lanes.unpack(from, group * bytes, ids);
    to = std::copy(ids + begin, ids + end, to);
  };
  const std::size_t last = first + count;
  if (count == 0) return;
  if (first / kGroup == last / kGroup) return part(first / kGroup, first % kGroup, last % kGroup);
  std::size_t group = first / kGroup;
  if (first % kGroup != 0) part(group++, first % kGroup, kGroup);
  for (; group < last / kGroup; ++group, to += kGroup) lanes.unpack(from, group * bytes, to);
  if (last % kGroup != 0) part(group, 0, last % kGroup);
}

}  // namespace

void pack_bits(const std::uint8_t* from, std::size_t count, int width, std::span<std::byte> to) noexcept {
  pack<Bytes>(from, count, width, to);
}
void pack_bits(const std::uint16_t* from, std::size_t count, int width, std::span<std::byte> to) noexcept {
  pack<Shorts>(from, count, width, to);
}
void unpack_bits(std::span<const std::byte> from, std::size_t first, std::size_t count, int width,
                 std::uint8_t* to) noexcept {
  unpack<Bytes>(from, first, count, width, to);
}
void unpack_bits(std::span<const std::byte> from, std::size_t first, std::size_t count, int width,
                 std::uint16_t* to) noexcept {
  unpack<Shorts>(from, first, count, width, to);
}

}  // namespace switchyard
