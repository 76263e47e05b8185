// Few rows times panels of codes: with one tile nothing reads a decoded block twice, so codes are decoded to registers
// where they are used; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

constexpr int kPanelVectors = kPanel / V::kWidth;

// Where the scales of codes go.
enum class Scaling {
  weights,  // a weight is code · by
  twice,    // a weight is code · by · factor
  sums,     // a sum is multiplied by `factor`, 1 / by, before the codes of a group are added, and by `by` after them
};

// Registers for codes that are held, of 16: 4 to 12 have sums, and the rest what is being decoded.
constexpr int kMostHeld = 4;

// sum[r] += row r · one part of one word of the columns from `column` on, in turns of as many as can be held. A weight is
// decoded where it is used. Always inlined, as all that it calls: arrays that are passed on stay in registers only if the
// compiler sees their uses before it takes arrays apart.
template <int kPart, class Code, Scaling kScaling, int kRows, int kColumns>
__attribute__((always_inline)) inline void stream_part(V::R (&sum)[kRows][kColumns], const float* rows,
                                                       const GroupScales& scales, const std::byte* words,
                                                       std::int64_t column) {
  using Held = typename Code::template Held<kPart>;
  constexpr int kHeld = (sizeof(Held) + sizeof(V::R) - 1) / sizeof(V::R);
  constexpr int kTurn = kColumns * kHeld <= kMostHeld ? kColumns : kMostHeld / kHeld;
  for (int first = 0; first < kColumns; first += kTurn) {
    const std::int64_t at = column + first * V::kWidth;
    Held held[kTurn];
    for (int n = 0; n < kTurn; ++n) {
      held[n] = Held::hold(words + (first + n) * V::kWidth * 4);
    }
    for_steps<kPartSteps>([&](auto step) __attribute__((always_inline)) {
      constexpr int kStep = decltype(step)::kValue;
      V::R value[kTurn];
      for (int n = 0; n < kTurn; ++n) {
        if constexpr (kScaling == Scaling::sums) {
          value[n] = held[n].template step<kStep>();
        } else {
          constexpr bool kTwice = kScaling == Scaling::twice;
          const V::R by = V::load(scales.by + at + n * V::kWidth);
          value[n] = scaled_step<kStep, kTwice>(held[n], by, kTwice ? V::load(scales.factor + at + n * V::kWidth) : by);
        }
      }
      for (int r = 0; r < kRows; ++r) {
        const V::R row = V::broadcast(rows + r * kBlock + kPart * kPartSteps + kStep);
        for (int n = 0; n < kTurn; ++n) {
          sum[r][first + n] = V::fma(row, value[n], sum[r][first + n]);
        }
      }
    });
    V::hold_loads();
  }
  if constexpr (kPart + 1 < Code::kParts) {
    stream_part<kPart + 1, Code, kScaling>(sum, rows, scales, words, column);
  }
}

// sum[r] += row r · words [kPanel] of the columns from `column` on, over `lines` lines of the row tile.
template <class Code, Scaling kScaling, int kRows, int kColumns>
__attribute__((always_inline)) inline void stream_lines(V::R (&sum)[kRows][kColumns], const float* rows,
                                                        const GroupScales& scales, const std::byte* words,
                                                        std::int64_t lines, std::int64_t column) {
  // What is passed over now is read when the next columns take their turn.
  constexpr std::int64_t kAhead = kStreamAhead * kPanelVectors / kColumns;
  words += column * 4;
  for (std::int64_t line = 0; line < lines; ++line, rows += kRows * kBlock) {
#pragma GCC unroll 1
    for (int at = 0; at < kBlock; at += Code::kParts * kPartSteps, words += kPanel * 4) {
      V::prefetch(words + kAhead);
      if constexpr (kColumns * V::kWidth * 4 > 64) {
        V::prefetch(words + kAhead + 64);
      }
      stream_part<0, Code, kScaling>(sum, rows + at, scales, words, column);
    }
  }
}

template <int kRows, int kColumns>
inline void multiply_sums(V::R (&sum)[kRows][kColumns], const float* by) {
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kColumns; ++n) {
      sum[r][n] = V::mul(sum[r][n], V::load(by + n * V::kWidth));
    }
  }
}

// The scales of what a panel is streamed by: kDecodeDepth steps, whose codes stay in L1 while columns take turns.
struct BlockScales {
  GroupScales group[kDecodeDepth / kShortestGroup];
  std::int64_t first;
  std::int64_t last;
};

// sums [kRows][kPanel] (+)= rows · steps begin .. end of a panel's words, as many columns at a time as registers have room
// for.
template <int kRows, class Code, Scaling kScaling>
void stream_block(const GemmArgs& g, const BlockScales& scales, const float* rows, const std::byte* words,
                  std::int64_t begin, std::int64_t end, float* sums) {
  constexpr int kColumns = V::stream_vectors(kRows);
  for (std::int64_t column = 0; column < kPanel; column += kColumns * V::kWidth) {
    V::R sum[kRows][kColumns];
    load_sums(sum, sums + column, begin > 0);
    for (std::int64_t group = scales.first; group <= scales.last; ++group) {
      const GroupScales& own = scales.group[group - scales.first];
      const std::int64_t from = group == scales.first ? begin : group * g.scales.group;
      const std::int64_t until = group == scales.last ? end : (group + 1) * g.scales.group;
      if constexpr (kScaling == Scaling::sums) {
        multiply_sums(sum, own.factor + column);
      }
      stream_lines<Code, kScaling>(sum, rows + from * kRows, own, words + from * kPanel * code_bits(g.format) / 8,
                                   (until - from) / kBlock, column);
      if constexpr (kScaling == Scaling::sums) {
        multiply_sums(sum, own.by + column);
      }
    }
    store_sums(sum, sums + column);
  }
}

inline void invert_scales(GroupScales& scales) {
  for (std::int64_t at = 0; at < kPanel; at += kLanes) {
    V16::store(scales.factor + at, V16::div(V16::set(1.0F), V16::load(scales.by + at)));
  }
}

// The sums of all rows and one panel.
template <int kRows, class Code, bool kScaleSums = false>
void stream_floats(const GemmArgs& g, const std::byte* panel, const GemmScratch& scratch) {
  const std::byte* words = panel + g.scales.end(g.padded_depth);
  for (std::int64_t begin = 0, end = 0; begin < g.padded_depth; begin = end) {
    end = begin + kDecodeDepth < g.padded_depth ? begin + kDecodeDepth : g.padded_depth;
    BlockScales scales;
    scales.first = begin / g.scales.group;
    scales.last = (end - 1) / g.scales.group;
    bool has_factor = false;
    for (std::int64_t group = scales.first; group <= scales.last; ++group) {
      GroupScales& own = scales.group[group - scales.first];
      load_group<Code>(g, panel, group, own);
      has_factor |= own.has_factor;
      if constexpr (kScaleSums) {
        invert_scales(own);
      }
    }
    const auto stream = kScaleSums   ? stream_block<kRows, Code, Scaling::sums>
                        : has_factor ? stream_block<kRows, Code, Scaling::twice>
                                     : stream_block<kRows, Code, Scaling::weights>;
    stream(g, scales, scratch.tiles, words, begin, end, scratch.sums);
  }
}

// Multiplying by a power of two commutes with rounding while nothing leaves f32's range, so sums may be scaled instead of
// weights, with the same bits. Elements of rows that are 0 or of a size in [2^-60, 2^20], and scales in [2^-24, 2^8], see to
// that. Products, and so sums, are multiples of 2^-83 · 1/2 · 2^-24, and sums are less than 2^20 · 8 · 2^8 · kLargestDepth; divided
// by scale · E2m1::kScale, which is in [2^-49, 2^7], they are multiples of 2^-115 and less than 2^96.
constexpr float kSmallestRow = 0x1p-60F;
constexpr float kLargestRow = 0x1p20F;
constexpr std::uint8_t kSmallestScale = 127 - 24;
constexpr std::uint8_t kLargestScale = 127 + 8;
constexpr std::int64_t kLargestDepth = std::int64_t{1} << 16;

inline bool has_moderate_rows(const GemmArgs& g, const float* tile) {
  const V16 smallest = V16::set(kSmallestRow);
  const V16 zero = V16::set(0.0F);
  std::uint32_t moderate = 0xffff;
  for (std::int64_t at = 0; at < g.row_count * g.padded_depth; at += kLanes) {
    const V16 x = V16::load(tile + at);
    const V16 size = magnitude(x);
    moderate &= V16::at_least(V16::choose_equal(x, zero, smallest, size), smallest);
    moderate &= V16::at_least(V16::set(kLargestRow), size);
  }
  return moderate == 0xffff && g.padded_depth <= kLargestDepth;
}

inline bool has_moderate_scales(const GemmArgs& g, const std::byte* panel) {
  const auto* scale = reinterpret_cast<const std::uint8_t*>(panel + g.scales.begin());
  std::uint8_t out = 0;
  for (std::int64_t i = 0; i < g.scales.groups(g.padded_depth) * kPanel; ++i) {
    out |= static_cast<std::uint8_t>(scale[i] < kSmallestScale) | static_cast<std::uint8_t>(scale[i] > kLargestScale);
  }
  return out == 0;
}

// For moderate rows and scales that are powers of two.
template <int kRows>
void stream_mxfp4(const GemmArgs& g, const std::byte* panel, const GemmScratch& scratch) {
  const auto stream = has_moderate_scales(g, panel) ? stream_floats<kRows, E2m1, true> : stream_floats<kRows, E2m1>;
  stream(g, panel, scratch);
}

// sum[r] += row r · one word of every column.
template <class Words, int kRows>
inline void add_word(V::R (&sum)[kRows][kPanelVectors], const float* rows, const std::byte* words) {
  for (int n = 0; n < kPanelVectors; ++n) {
    const Words held = Words::hold(words + n * V::kWidth * 4);
    for_steps<Words::kSteps>([&](auto step) __attribute__((always_inline)) {
      constexpr int kStep = decltype(step)::kValue;
      const V::R value = held.template step<kStep>();
      for (int r = 0; r < kRows; ++r) {
        sum[r][n] = V::words(sum[r][n], V::broadcast(rows + r * kWordBlock + kStep), value);
      }
    });
  }
}

// Sums of integers leave room for a column's codes beside those of the whole panel.
template <int kRows, class Words>
void stream_integers(const GemmArgs& g, const std::byte* panel, const GemmScratch& scratch) {
  constexpr std::int64_t kSteps = Words::kSteps * V::kWordSteps;
  const std::byte* words = panel + g.scales.end(g.padded_depth);
  const std::int64_t groups = g.scales.groups(g.padded_depth);
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::int64_t k = group * g.scales.group;
    const std::int64_t end = k + g.scales.group < g.padded_depth ? k + g.scales.group : g.padded_depth;
    V::R sum[kRows][kPanelVectors];
    load_sums(sum, scratch.words, false);
    for (std::int64_t word = k / kSteps; word < end / kSteps; ++word) {
      const std::byte* from = words + word * kPanel * 4;
      V::prefetch(from + kStreamAhead);
      V::prefetch(from + kStreamAhead + 64);
      const std::int64_t at = word * Words::kSteps;
      add_word<Words>(sum, scratch.tiles + at / kWordBlock * kRows * kWordBlock + at % kWordBlock, from);
    }
    store_sums(sum, scratch.words);
    join_group(g, panel, group, groups, scratch.words, scratch.row_sums, scratch.sums, 0, kRows);
  }
}

using Stream = void (*)(const GemmArgs&, const std::byte*, const GemmScratch&);

template <Format kFormat, int kRows>
constexpr Stream make_stream() {
  if constexpr (kFormat == Format::i8) {
    return stream_integers<kRows, V::Bytes>;
  } else if constexpr (kFormat == Format::i4) {
    return stream_integers<kRows, V::HalfBytes>;
  } else if constexpr (code_bits(kFormat) == 8) {
    return stream_floats<kRows, E4m3>;
  } else if constexpr (kFormat == Format::mxfp4) {
    return stream_mxfp4<kRows>;
  } else {
    return stream_floats<kRows, E2m1>;
  }
}

template <Format kFormat>
Stream find_stream(std::int64_t rows) {
  return with_rows<stream_rows(kFormat)>(rows,
                                         [](auto number) { return make_stream<kFormat, decltype(number)::value>(); });
}

// Null: the rows go by tiles, else they are one.
Stream stream_of(const GemmArgs& g, const float* tile) {
  if (g.row_count > stream_rows(g.format)) {
    return nullptr;
  }
  switch (g.format) {
    case Format::i8:
      return find_stream<Format::i8>(g.row_count);
    case Format::i4:
      return find_stream<Format::i4>(g.row_count);
    case Format::f8_e4m3:
    case Format::mxfp8:
      return find_stream<Format::mxfp8>(g.row_count);
    case Format::mxfp4:
      if (g.scales.dtype == DType::f8_e8m0 && has_moderate_rows(g, tile)) {
        return find_stream<Format::mxfp4>(g.row_count);
      }
      [[fallthrough]];
    case Format::nvfp4:
      return find_stream<Format::nvfp4>(g.row_count);
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace switchyard
