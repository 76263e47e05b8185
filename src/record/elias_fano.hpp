// Elias–Fano code of ascending sets: of each id the lowest bits as they are, the rest in unary.
// P. Elias, "Efficient Storage and Retrieval by Content and Address of Static Files", J. ACM 21(2), 1974.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace switchyard {

// A set of `topk` ids below `experts` takes topk · low bits and, in a second array, `high` = topk + ⌈experts / 2^low⌉
// bits. `low` is the largest of the numbers for which their sum is least.
struct EliasFano {
  std::int32_t experts = 0;
  std::int32_t topk = 0;
  int low = 0;
  int high = 0;

  EliasFano(std::int32_t experts_, std::int32_t topk_) noexcept;

  std::size_t low_bytes(std::size_t sets) const noexcept;
  std::size_t high_bytes(std::size_t sets) const noexcept;
  std::size_t bytes(std::size_t sets) const noexcept { return low_bytes(sets) + high_bytes(sets); }

  // `ids` [sets,K], each set ascending and below E; `to` has bytes(sets) bytes.
  template <class Id>
  void encode(const Id* ids, std::size_t sets, std::span<std::byte> to) const;

  // Sets first..first + count − 1 of the `sets` in `from`, which has bytes(sets) bytes, to `ids` [count,K]. False: those
  // bytes are not the code of sets below E; `ids` is then undefined.
  template <class Id>
  [[nodiscard]] bool decode(std::span<const std::byte> from, std::size_t sets, std::size_t first, std::size_t count,
                            Id* ids) const;
};

extern template void EliasFano::encode(const std::uint8_t*, std::size_t, std::span<std::byte>) const;
extern template void EliasFano::encode(const std::uint16_t*, std::size_t, std::span<std::byte>) const;
extern template bool EliasFano::decode(std::span<const std::byte>, std::size_t, std::size_t, std::size_t,
                                       std::uint8_t*) const;
extern template bool EliasFano::decode(std::span<const std::byte>, std::size_t, std::size_t, std::size_t,
                                       std::uint16_t*) const;

}  // namespace switchyard
