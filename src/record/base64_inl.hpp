// Base64 of RFC 4648, group by group: what is left over between vectors, and where a vector saw a bad character.
// Included inside an unnamed namespace.

// For each character, its 6 bits where they stand in the group's 3 bytes, seen as a little-endian number.
struct Base64Table {
  static constexpr std::uint32_t kBad = 1U << 24;
  std::uint32_t bits[4][256] = {};

  constexpr Base64Table() {
    for (auto& place : bits) {
      for (auto& entry : place) {
        entry = kBad;
      }
    }
    constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::uint32_t value = 0; value < 64; ++value) {
      const auto c = static_cast<unsigned char>(kAlphabet[value]);
      bits[0][c] = value << 2;
      bits[1][c] = value >> 4 | (value & 15U) << 12;
      bits[2][c] = value >> 2 << 8 | (value & 3U) << 22;
      bits[3][c] = value << 16;
    }
  }
};
constexpr Base64Table kBase64Table;

inline std::size_t decode_groups(const char* from, std::size_t groups, std::byte* to) {
  const auto* c = reinterpret_cast<const unsigned char*>(from);
  for (std::size_t g = 0; g < groups; ++g, c += 4, to += 3) {
    const std::uint32_t bits = kBase64Table.bits[0][c[0]] | kBase64Table.bits[1][c[1]] | kBase64Table.bits[2][c[2]] |
                               kBase64Table.bits[3][c[3]];
    if ((bits & Base64Table::kBad) != 0) {
      return g;
    }
    __builtin_memcpy(to, &bits, 3);
  }
  return groups;
}
