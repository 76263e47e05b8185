// Few rows times panels of codes: with one tile nothing reads a decoded block twice, so codes are decoded to registers
// where they are used; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

constexpr int kPanelVectors = kPanel / V::kWidth;

// 32 bits of a column as operands of a sum: add(sum, row, operand). kLine of them stand beside each other in a row tile.
template <class Code, bool kHasFactor>
struct FloatCodes {
  static constexpr int kParts = Code::kParts;
  static constexpr int kOperands = kPartSteps;  // of a part
  static constexpr std::int64_t kLine = kBlock;
  const GroupScales& scales;

  template <int kPart>
  void decode(const std::byte* words, std::int64_t column, V::R (&to)[kOperands]) const {
    const V::R by = V::load(scales.by + column);
    decode_part<Code, kPart, kHasFactor>(words, by, kHasFactor ? V::load(scales.factor + column) : by, to);
  }
  static V::R add(V::R sum, V::R row, V::R value) { return V::fma(row, value, sum); }
};

template <int kWordCodes>
struct IntegerCodes {
  static constexpr int kParts = 1;
  static constexpr int kOperands = kWordCodes / V::kWordSteps;
  static constexpr std::int64_t kLine = kWordBlock;

  template <int kPart>
  void decode(const std::byte* words, std::int64_t /*column*/, V::R (&to)[kOperands]) const {
    if constexpr (kWordCodes == 4) {
      V::bytes(words, to);
    } else {
      V::half_bytes(words, to);
    }
  }
  static V::R add(V::R sum, V::R row, V::R value) { return V::words(sum, row, value); }
};

// sum[r] += row r · one part of one word of every column. Column vectors take turns, so that their chains overlap.
template <int kPart, int kRows, class Codes>
inline void stream_part(V::R (&sum)[kRows][kPanelVectors], const float* rows, const Codes& codes,
                        const std::byte* words) {
  constexpr int kTurns = V::stream_vectors(kRows);
  for (int first = 0; first < kPanelVectors; first += kTurns) {
    V::R value[kTurns][Codes::kOperands];
    for (int n = 0; n < kTurns; ++n) {
      const std::int64_t column = (first + n) * V::kWidth;
      codes.template decode<kPart>(words + column * 4, column, value[n]);
    }
    for (int i = 0; i < Codes::kOperands; ++i) {
      for (int r = 0; r < kRows; ++r) {
        const V::R row = V::broadcast(rows + r * Codes::kLine + kPart * Codes::kOperands + i);
        for (int n = 0; n < kTurns; ++n) {
          sum[r][first + n] = Codes::add(sum[r][first + n], row, value[n][i]);
        }
      }
    }
  }
  if constexpr (kPart + 1 < Codes::kParts) {
    stream_part<kPart + 1>(sum, rows, codes, words);
  }
}

// sum[r] += row r · words begin .. end of every column.
template <int kRows, class Codes>
inline void stream_words(V::R (&sum)[kRows][kPanelVectors], const float* rows, const Codes& codes,
                         const std::byte* words, std::int64_t begin, std::int64_t end) {
  for (std::int64_t word = begin; word < end; ++word) {
    const std::byte* from = words + word * kPanel * 4;
    V::prefetch(from + kStreamAhead);
    V::prefetch(from + kStreamAhead + 64);
    const std::int64_t at = word * Codes::kParts * Codes::kOperands;
    stream_part<0>(sum, rows + at / Codes::kLine * kRows * Codes::kLine + at % Codes::kLine, codes, from);
  }
}

template <int kRows>
inline void clear_sums(V::R (&sum)[kRows][kPanelVectors]) {
  for (auto& row : sum) {
    for (V::R& value : row) value = V::zero();
  }
}

template <int kRows>
inline void store_sums(const V::R (&sum)[kRows][kPanelVectors], float* to) {
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kPanelVectors; ++n) V::store(to + r * kPanel + n * V::kWidth, sum[r][n]);
  }
}

// The sums of all rows and one panel.
template <int kRows, class Code>
void stream_floats(const GemmArgs& g, const std::byte* panel, const GemmScratch& scratch) {
  constexpr std::int64_t kSteps = Code::kParts * kPartSteps;
  const std::byte* words = panel + g.scales.end(g.padded_depth);
  V::R sum[kRows][kPanelVectors];
  clear_sums(sum);
  GroupScales scales;
  for (std::int64_t k = 0; k < g.padded_depth; k += g.scales.group) {
    const std::int64_t end = k + g.scales.group < g.padded_depth ? k + g.scales.group : g.padded_depth;
    load_group<Code>(g, panel, k / g.scales.group, scales);
    const auto add = [&](const auto& codes) {
      stream_words(sum, scratch.tiles, codes, words, k / kSteps, end / kSteps);
    };
    if (scales.has_factor) {
      add(FloatCodes<Code, true>{scales});
    } else {
      add(FloatCodes<Code, false>{scales});
    }
  }
  store_sums(sum, scratch.sums);
}

template <int kRows, int kSteps>
void stream_integers(const GemmArgs& g, const std::byte* panel, const GemmScratch& scratch) {
  const std::byte* words = panel + g.scales.end(g.padded_depth);
  const std::int64_t groups = g.scales.groups(g.padded_depth);
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t k = group * g.scales.group;
    const std::int64_t end = k + g.scales.group < g.padded_depth ? k + g.scales.group : g.padded_depth;
    V::R sum[kRows][kPanelVectors];
    clear_sums(sum);
    stream_words(sum, scratch.tiles, IntegerCodes<kSteps>{}, words, k / kSteps, end / kSteps);
    store_sums(sum, scratch.words);
    join_group(g, panel, group, groups, scratch.words, scratch.row_sums, scratch.sums, 0, kRows);
  }
}

using Stream = void (*)(const GemmArgs&, const std::byte*, const GemmScratch&);

template <Format kFormat, int kRows>
constexpr Stream make_stream() {
  if constexpr (kFormat == Format::i8) {
    return stream_integers<kRows, 4>;
  } else if constexpr (kFormat == Format::i4) {
    return stream_integers<kRows, 8>;
  } else if constexpr (code_bits(kFormat) == 8) {
    return stream_floats<kRows, E4m3>;
  } else {
    return stream_floats<kRows, E2m1>;
  }
}

template <Format kFormat, int kRows = stream_rows(kFormat)>
Stream find_stream(std::int64_t rows) {
  if constexpr (kRows == 1) {
    return make_stream<kFormat, 1>();
  } else {
    return rows == kRows ? make_stream<kFormat, kRows>() : find_stream<kFormat, kRows - 1>(rows);
  }
}

// Null: the rows go by tiles.
Stream stream_of(Format format, std::int64_t rows) {
  if (rows > stream_rows(format)) {
    return nullptr;
  }
  switch (format) {
    case Format::i8:
      return find_stream<Format::i8>(rows);
    case Format::i4:
      return find_stream<Format::i4>(rows);
    case Format::f8_e4m3:
    case Format::mxfp8:
      return find_stream<Format::mxfp8>(rows);
    case Format::mxfp4:
    case Format::nvfp4:
      return find_stream<Format::nvfp4>(rows);
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace switchyard
