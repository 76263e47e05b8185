// Few rows times panels: with one tile nothing reads a decoded block twice, so codes are decoded to registers where they
// are used; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Where the scales of codes go.
enum class Scaling {
  weights,  // a weight is code · by
  twice,    // a weight is code · by · second
  sums,     // a sum is multiplied by `second`, 1 / by, before the codes of a group are added, and by `by` after them
};

// Registers for codes that are held, of 16: 4 to 12 have sums, and the rest what is being decoded.
constexpr int kMostHeld = 4;
constexpr int kStreamSums = 16;                   // rows times panels, at most
constexpr int kLineVectors = 64 / 4 / V::kWidth;  // in a cache line
// The scales of what a panel is streamed by: kDecodeDepth steps, whose codes stay in L1 while columns take turns.
constexpr std::int64_t kBlockGroups = kDecodeDepth / kShortestGroup;

// Vectors of columns of one panel, or those of several panels one after the other.
struct Columns {
  const std::byte* words;  // of the first one
  std::int64_t panel_bytes;
  const GroupScales* scales;  // of the first panel; those of the next stand kBlockGroups further
  std::int64_t first;         // column in its panel
  std::int64_t ahead;         // bytes from a word to the one that is asked for

  const std::byte* vector(int n) const {
    return words + n / kPanelVectors * panel_bytes + n % kPanelVectors * V::kWidth * 4;
  }
  const float* by(int n) const { return scales[n / kPanelVectors * kBlockGroups].by + offset(n); }
  const float* second(int n) const { return scales[n / kPanelVectors * kBlockGroups].second + offset(n); }

 private:
  std::int64_t offset(int n) const { return first + n % kPanelVectors * V::kWidth; }
};

// sum[r] += row r · one part of one word of the columns, in turns of as many as can be held. A weight is decoded where it
// is used. Always inlined, as all that it calls: arrays that are passed on stay in registers only if the compiler sees their
// uses before it takes arrays apart.
template <int kPart, class Code, Scaling kScaling, int kRows, int kColumns>
__attribute__((always_inline)) inline void stream_part(V::R (&sum)[kRows][kColumns], const float* rows,
                                                       const Columns& columns) {
  using Held = typename Code::template Held<kPart>;
  constexpr int kHeld = (sizeof(Held) + sizeof(V::R) - 1) / sizeof(V::R);
  constexpr int kTurn = kColumns * kHeld <= kMostHeld ? kColumns : kMostHeld / kHeld;
  for (int first = 0; first < kColumns; first += kTurn) {
    Held held[kTurn];
    for (int n = 0; n < kTurn; ++n) {
      held[n] = Held::hold(columns.vector(first + n));
    }
    for_steps<kPartSteps>([&](auto step) __attribute__((always_inline)) {
      constexpr int kStep = decltype(step)::kValue;
      V::R value[kTurn];
      for (int n = 0; n < kTurn; ++n) {
        if constexpr (kScaling == Scaling::sums) {
          value[n] = held[n].template step<kStep>();
        } else {
          constexpr bool kTwice = kScaling == Scaling::twice;
          const V::R by = V::load(columns.by(first + n));
          value[n] = scaled_step<kStep, kTwice>(held[n], by, kTwice ? V::load(columns.second(first + n)) : by);
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
    stream_part<kPart + 1, Code, kScaling>(sum, rows, columns);
  }
}

// sum[r] += row r · columns, over `lines` lines of the row tile.
template <class Code, Scaling kScaling, int kRows, int kColumns>
__attribute__((always_inline)) inline void stream_lines(V::R (&sum)[kRows][kColumns], const float* rows,
                                                        Columns columns, std::int64_t lines) {
  for (std::int64_t line = 0; line < lines; ++line, rows += kRows * kBlock) {
#pragma GCC unroll 1
    for (int at = 0; at < kBlock; at += Code::kParts * kPartSteps, columns.words += kPanel * 4) {
      for (int n = 0; n < kColumns; n += kLineVectors) {
        ask_streamed(columns.vector(n) + columns.ahead);
      }
      stream_part<0, Code, kScaling>(sum, rows + at, columns);
    }
  }
}

template <int kRows, int kColumns>
inline void multiply_sums(V::R (&sum)[kRows][kColumns], const Columns& columns, bool by) {
  for (int n = 0; n < kColumns; ++n) {
    const V::R value = V::load(by ? columns.by(n) : columns.second(n));
    for (int r = 0; r < kRows; ++r) {
      sum[r][n] = V::mul(sum[r][n], value);
    }
  }
}

// A block of some panels: steps begin .. end, and what reading it needs.
struct PanelBlock {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t group;  // of the first step
  std::int64_t groups;
  const GroupScales* scales;  // [panels][kBlockGroups]
  std::int64_t ahead;         // as in Columns
};

// sums [kPanels][kRows][kPanel] (+)= rows · a block of the panels whose words are given, as many columns at a time as
// registers have room for.
template <int kRows, int kPanels, class Code, Scaling kScaling>
void stream_block(const GemmArgs& g, const PanelBlock& block, const float* rows, const std::byte* words, float* sums) {
  constexpr int kColumns = kPanels > 1 ? kPanels * kPanelVectors : V::stream_vectors(kRows);
  for (std::int64_t column = 0; column < kPanel; column += kColumns * V::kWidth) {
    V::R sum[kRows][kColumns];
    load_sums(sum, sums + column, block.begin > 0);
    const GroupScales* scales = block.scales;
    std::int64_t until = block.group * g.scales.group;
    for (std::int64_t from = block.begin; from < block.end; from = until, ++scales) {
      until = until + g.scales.group < block.end ? until + g.scales.group : block.end;
      const Columns columns{words + from * kPanel * Code::kBits / 8 + column * 4, g.panel_bytes, scales, column,
                            block.ahead};
      if constexpr (kScaling == Scaling::sums) {
        multiply_sums(sum, columns, false);
      }
      stream_lines<Code, kScaling>(sum, rows + from * kRows, columns, (until - from) / kBlock);
      if constexpr (kScaling == Scaling::sums) {
        multiply_sums(sum, columns, true);
      }
    }
    store_sums(sum, sums + column);
  }
}

// Multiplying by a power of two commutes with rounding while nothing leaves f32's range, so sums may be scaled instead of
// weights, with the same bits. Elements of rows that are 0 or of a size in [2^-60, 2^20], and scales in [2^-24, 2^8], of
// this group and of all before it, see to that. Products, and so sums, are multiples of 2^-83 · 1/2 · 2^-24, and sums are
// less than 2^20 · 8 · 2^8 · kLargestDepth; divided by scale · E2m1::kScale, which is in [2^-49, 2^7], they are multiples of
// 2^-115 and less than 2^96.
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

// Of a block of `count` panels; scales are powers of two.
inline bool has_moderate_scales(const GemmArgs& g, const std::byte* panels, int count, const PanelBlock& block) {
  std::uint8_t out = 0;
  for (int panel = 0; panel < count; ++panel) {
    const auto* scale = reinterpret_cast<const std::uint8_t*>(panels + panel * g.panel_bytes + g.scales.begin());
    for (std::int64_t i = block.group * kPanel; i < (block.group + block.groups) * kPanel; ++i) {
      out |= static_cast<std::uint8_t>(scale[i] < kSmallestScale) | static_cast<std::uint8_t>(scale[i] > kLargestScale);
    }
  }
  return out == 0;
}

// load_group for Scaling::sums.
template <class Code>
inline void load_moderate_group(const GemmArgs& g, const std::byte* panel, std::int64_t group, GroupScales& to) {
  const V16 unit = V16::set(Code::template Held<0>::kScale);
  for (std::int64_t at = 0; at < kPanel; at += kLanes) {
    const V16 by = V16::mul(load_scales(g.scales, panel, group, at), unit);
    V16::store(to.by + at, by);
    V16::store(to.second + at, V16::div(V16::set(1.0F), by));
  }
}

// Asks for the scales of what is kCodesAhead away from a block of these panels, maybe in those after them, and says how far
// from a word of the block that is.
template <int kPanels, class Code>
inline std::int64_t look_ahead(const GemmArgs& g, const std::byte* panels, const PanelBlock& block) {
  constexpr std::int64_t kSteps = kCodesAhead * 8 / (kPanels * kPanel * Code::kBits);
  const bool later = block.begin + kSteps >= g.padded_depth;
  const std::int64_t panel = later ? kPanels * g.panel_bytes : 0;
  const std::int64_t step = block.begin + kSteps - (later ? g.padded_depth : 0);
  const std::int64_t group_bytes = kPanel * g.scales.size();
  const std::byte* scales = panels + panel + g.scales.begin() + step / g.scales.group * group_bytes;
  for (int i = 0; i < kPanels; ++i, scales += g.panel_bytes) {
    for (std::int64_t at = 0; at < block.groups * group_bytes; at += 64) {
      ask_streamed(scales + at);
    }
  }
  return panel + (step - block.begin) * kPanel * Code::kBits / 8;
}

// sums [kPanels][kRows][kPanel] of all rows and kPanels panels. kScaleSums: where scales allow it; rows do.
template <int kRows, int kPanels, class Code, bool kScaleSums = false>
void stream_floats(const GemmArgs& g, const std::byte* panels, const GemmScratch& scratch, float* sums) {
  const std::byte* words = panels + g.scales.end(g.padded_depth);
  GroupScales scales[kPanels * kBlockGroups];
  PanelBlock block{0, 0, 0, 0, scales, 0};
  bool scale_sums = kScaleSums;
  while (block.end < g.padded_depth) {
    block.begin = block.end;
    block.end = block.begin + kDecodeDepth < g.padded_depth ? block.begin + kDecodeDepth : g.padded_depth;
    block.group = block.begin / g.scales.group;
    block.groups = (block.end - 1) / g.scales.group + 1 - block.group;
    block.ahead = look_ahead<kPanels, Code>(g, panels, block);
    scale_sums = scale_sums && has_moderate_scales(g, panels, kPanels, block);
    bool twice = false;
    for (int panel = 0; panel < kPanels; ++panel) {
      const std::byte* from = panels + panel * g.panel_bytes;
      for (std::int64_t group = 0; group < block.groups; ++group) {
        GroupScales& own = scales[panel * kBlockGroups + group];
        if (scale_sums) {
          load_moderate_group<Code>(g, from, block.group + group, own);
        } else {
          load_group<Code>(g, from, block.group + group, own);
          twice |= own.twice;
        }
      }
    }
    auto stream = twice ? stream_block<kRows, kPanels, Code, Scaling::twice>
                        : stream_block<kRows, kPanels, Code, Scaling::weights>;
    if constexpr (kScaleSums) {
      stream = scale_sums ? stream_block<kRows, kPanels, Code, Scaling::sums> : stream;
    }
    stream(g, block, scratch.tiles, words, sums);
  }
}

// One panel of weights that are not codes.
template <int kRows, Math kMath>
void stream_panel(const GemmArgs& g, const std::byte* panel, const GemmScratch& scratch, float* sums) {
  constexpr std::int64_t kAhead = V::floats_ahead(kRows);
  tile<kRows, kMath>(scratch.tiles, panel, sums, g.padded_depth / line_of(kMath).depth, false,
                     {panel + kAhead, kAhead == 0 ? 0 : line_bytes(kMath), V::kStreamsNear}, nullptr);
}

using StreamRun = void (*)(const GemmArgs& g, const std::byte* panels, const GemmScratch& scratch, float* sums);

// Few rows times `panels` panels at once, and times one: sums [panels][rows][kPanel]. Null: the rows go by tiles.
struct Stream {
  StreamRun many;
  StreamRun one;
  int panels;
};

template <Format kFormat, Math kMath, int kRows, int kPanels>
constexpr StreamRun run_of() {
  if constexpr (!has_scales(kFormat)) {
    static_assert(kPanels == 1);
    return stream_panel<kRows, kMath>;
  } else if constexpr (kFormat == Format::mxfp4) {
    return stream_floats<kRows, kPanels, E2m1, true>;
  } else if constexpr (code_bits(kFormat) == 8) {
    return stream_floats<kRows, kPanels, E4m3>;
  } else {
    return stream_floats<kRows, kPanels, E2m1>;
  }
}

template <Format kFormat, Math kMath = math_of(kFormat)>
Stream find_stream(std::int64_t rows) {
  return with_rows<V::stream_rows(kFormat)>(rows, [](auto number) -> Stream {
    constexpr int kRows = decltype(number)::value;
    constexpr int kPanels = V::stream_panels(kFormat, kRows);
    static_assert(kPanels * kRows <= kStreamSums);
    return {run_of<kFormat, kMath, kRows, kPanels>(), run_of<kFormat, kMath, kRows, 1>(), kPanels};
  });
}

// Of sums that are not those of groups.
Stream stream_of(const GemmArgs& g, const float* tile) {
  if (has_group_sums(g.math) || g.row_count > V::stream_rows(g.format)) {
    return {nullptr, nullptr, 0};
  }
  switch (g.format) {
    case Format::f32:
      return find_stream<Format::f32>(g.row_count);
    case Format::bf16:
      return g.math == Math::bf16 ? find_stream<Format::bf16, Math::bf16>(g.row_count)
                                  : find_stream<Format::bf16>(g.row_count);
    case Format::f8_e4m3:
    case Format::mxfp8:
      return find_stream<Format::mxfp8>(g.row_count);
    case Format::mxfp4:
      if (g.scales.dtype == DType::f8_e8m0 && has_moderate_rows(g, tile)) {
        return find_stream<Format::mxfp4>(g.row_count);
      }
      [[fallthrough]];
    default:
      return find_stream<Format::nvfp4>(g.row_count);
  }
}

}  // namespace
}  // namespace switchyard
