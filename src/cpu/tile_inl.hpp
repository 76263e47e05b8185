// Tiles: sums of a few rows times one panel; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

constexpr std::int64_t kBlock = 64 / sizeof(float);  // contraction steps per 64-byte line of a row tile
constexpr std::int64_t kWordBlock = kBlock / 2;      // 32-bit operands per line, where groups have sums of their own
constexpr int kPanelVectors = kPanel / V::kWidth;

// What is not decoded of a panel is run over all row tiles in blocks of 128 KiB, which stay in half of the smallest L2
// (512 KiB) with as much of what follows and is asked for meanwhile.
constexpr std::int64_t kPanelBlockBytes = 128 << 10;
// How far ahead codes are asked for when a panel is read once; decoding them leaves the processor little room to look ahead by
// itself. What memory sends to one core, up to 25 GB/s, in the 300 ns that a busy memory takes. fp8 gets 0.87 of memory's
// speed; with 2 KiB, 0.71.
constexpr std::int64_t kCodesAhead = 8 << 10;
// The same of codes that are operands, or nearly so: memory answers a core that mostly waits for it in half of that. int8
// takes 0.97 of the time that it takes with 8 KiB, fp8 0.98; with 2 KiB, mxfp4 takes 1.1. Scales and words are asked for in
// the order in which they stand: one row of mxfp4 gets 0.96 of the rate of a plain read; with both asked for beside each
// other, 0.87 (`stream_bench`).
constexpr std::int64_t kOperandsAhead = 4 << 10;
// Most bytes of floats that a tile asks for at once. Behind 2 KiB, 32 cache lines, its own reads wait: 8 and 16 rows of f32
// and bf16 take 1.1 times as long. With 512 bytes they are as fast as with 1 KiB, and many rows of f32 take 1.02 of the time;
// so do integers with 1 KiB.
constexpr std::int64_t kAskBytes = 1 << 10;

constexpr bool paired_rows(Math math) { return (math == Math::bf16 || math == Math::scaled) && V::kHasDot; }

// Rows as a tile reads them: lines, one for each row of the tile, of `depth` contraction steps, 2^shift in 32 bits. No group
// of codes ends within a line.
struct Line {
  std::int64_t depth;
  int shift;
  constexpr std::int64_t floats(std::int64_t steps) const { return steps >> shift; }
};
static_assert(V::kWordSteps == 4 || V::kWordSteps == 2);
constexpr Line line_of(Math math) {
  return math == Math::integer ? Line{kWordBlock * V::kWordSteps, V::kWordSteps == 4 ? 2 : 1}
         : !paired_rows(math)  ? Line{kBlock, 0}
         : math == Math::bf16  ? Line{2 * kBlock, 1}
                               : Line{2 * kWordBlock, 1};
}
constexpr std::int64_t line_floats(Math math) { return line_of(math).floats(line_of(math).depth); }
// Bytes of a panel, as a tile reads it, beside such a line.
constexpr std::int64_t line_bytes(Math math) {
  const bool narrow = math == Math::widened || math == Math::bf16 || paired_rows(math);
  return math == Math::integer ? kWordBlock * kPanel * 4 : line_of(math).depth * kPanel * (narrow ? 2 : 4);
}

// In how many parts a tile asks for what follows, beside a line of `vectors` of the panel.
constexpr int asks(Math math, int vectors) {
  const std::int64_t bytes = line_bytes(math) * vectors / kPanelVectors;
  return math == Math::integer || bytes <= kAskBytes ? 1 : static_cast<int>(bytes / kAskBytes);
}

// What a tile asks for while it computes: so many bytes beside each line of its rows.
struct Prefetch {
  const std::byte* from;
  std::int64_t bytes;
  bool near;  // to L1, not L2
};

// sum[r][n] += a[r] · weights(n). What there is less of stays in registers.
template <int kRows, int kVectors, class Weights>
inline void fma_step(V::R (&sum)[kRows][kVectors], const float* a, const Weights& weights) {
  if constexpr (kRows < kVectors) {
    V::R value[kRows];
    for (int r = 0; r < kRows; ++r) {
      value[r] = V::broadcast(a + r * kBlock);
    }
    for (int n = 0; n < kVectors; ++n) {
      const V::R b = weights(n);
      for (int r = 0; r < kRows; ++r) {
        sum[r][n] = V::fma(value[r], b, sum[r][n]);
      }
      V::hold_loads();
    }
  } else {
    V::R b[kVectors];
    for (int n = 0; n < kVectors; ++n) {
      b[n] = weights(n);
    }
    for (int r = 0; r < kRows; ++r) {
      const V::R value = V::broadcast(a + r * kBlock);
      for (int n = 0; n < kVectors; ++n) {
        sum[r][n] = V::fma(value, b[n], sum[r][n]);
      }
      V::hold_loads();
    }
  }
}

template <int kRows, int kVectors, int kSteps, bool kOddFirst>
inline void f32_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
#pragma GCC unroll 4
  for (int k = 0; k < kSteps; ++k) {
    const int step = kOddFirst ? k ^ 1 : k;
    const float* line = reinterpret_cast<const float*>(panel) + step * kPanel;
    fma_step(sum, a + step, [=](int n) { return V::load(line + n * V::kWidth); });
  }
}

template <int kRows, int kVectors, int kSteps, bool kOddFirst>
inline void pair_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
#pragma GCC unroll 2
  for (int k = 0; k < kSteps; k += 2) {
    const std::byte* pairs = panel + k * kPanel * 2;
    const auto even = [=](int n) { return V::even(pairs + n * V::kWidth * 4); };
    const auto odd = [=](int n) { return V::odd(pairs + n * V::kWidth * 4); };
    if constexpr (kOddFirst) {
      fma_step(sum, a + k + 1, odd);
      fma_step(sum, a + k, even);
    } else {
      fma_step(sum, a + k, even);
      fma_step(sum, a + k + 1, odd);
    }
  }
}

// Only where there is a unit: U delays looking for V::dot until the block is used.
template <int kRows, int kVectors, int kSteps, class U = V>
inline void dot_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
#pragma GCC unroll 4
  for (int k = 0; k < kSteps / 2; ++k) {
    const float* pairs = reinterpret_cast<const float*>(panel) + k * kPanel;
    for (int r = 0; r < kRows; ++r) {
      const V::R value = V::broadcast(a + r * kBlock + k);
      for (int n = 0; n < kVectors; ++n) {
        sum[r][n] = U::dot(sum[r][n], value, V::load(pairs + n * V::kWidth));
      }
    }
  }
}

// Sums of 32-bit integers, in registers of floats as all else.
template <int kRows, int kVectors>
inline void word_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
#pragma GCC unroll 4
  for (int k = 0; k < kWordBlock; ++k) {
    const float* words = reinterpret_cast<const float*>(panel) + k * kPanel;
    V::R b[kVectors];
    for (int n = 0; n < kVectors; ++n) {
      b[n] = V::load(words + n * V::kWidth);
    }
    for (int r = 0; r < kRows; ++r) {
      const V::R value = V::broadcast(a + r * kWordBlock + k);
      for (int n = 0; n < kVectors; ++n) {
        sum[r][n] = V::words(sum[r][n], value, b[n]);
      }
      V::hold_loads();
    }
  }
}

// kSteps: those from one time to the next that the tile asks for what follows.
template <int kRows, int kVectors, Math kMath, int kSteps>
inline void tile_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
  if constexpr (kMath == Math::integer) {
    word_block<kRows, kVectors>(sum, a, panel);
  } else if constexpr (kMath == Math::f32 || kMath == Math::scaled) {
    f32_block<kRows, kVectors, kSteps, kMath == Math::scaled>(sum, a, panel);
  } else if constexpr (paired_rows(kMath)) {
    dot_block<kRows, kVectors, kSteps>(sum, a, panel);
  } else {
    pair_block<kRows, kVectors, kSteps, kMath == Math::bf16>(sum, a, panel);
  }
}

// Where the sum of row r and vector n stands in [panels][rows][kPanel].
constexpr std::int64_t sum_at(int rows, int r, int n) {
  return static_cast<std::int64_t>(n / kPanelVectors * rows + r) * kPanel + n % kPanelVectors * V::kWidth;
}

// Sums of some columns of [kRows][kPanel], or of several such panels, from zero if they are not started.
template <int kRows, int kVectors>
inline void load_sums(V::R (&sum)[kRows][kVectors], const float* from, bool started) {
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kVectors; ++n) {
      sum[r][n] = started ? V::load(from + sum_at(kRows, r, n)) : V::zero();
    }
  }
}

template <int kRows, int kVectors>
inline void store_sums(const V::R (&sum)[kRows][kVectors], float* to) {
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kVectors; ++n) {
      V::store(to + sum_at(kRows, r, n), sum[r][n]);
    }
  }
}

// What becomes of the finished sums of groups that follow each other: as f32, times the group's scale, they join the chains
// of `sums`, which end times the rows' scales if rows are integers.
struct Join {
  std::int64_t blocks;  // lines of a group; the last group may be cut off
  const float* scale;   // [groups][kPanel]
  float* sums;          // [rows][kPanel]
  bool starts;          // the chains, with the first of these groups
  // Of integers alone:
  const float* excess;     // the first row's sum times the codes' offset, as bits; that of the next is `groups` further
  std::int64_t groups;     // of a row
  const float* row_scale;  // null: the last of these groups is not a row's last

  // The same from row `row` on.
  Join from(std::int64_t row) const {
    Join rest = *this;
    rest.sums += row * kPanel;
    rest.excess += row * groups;
    rest.row_scale += row_scale == nullptr ? 0 : row;
    return rest;
  }
  // From group `group` on; last: up to a row's last one.
  Join at(std::int64_t group, bool last) const {
    return {blocks, scale + group * kPanel,    sums, starts && group == 0, excess + group,
            groups, last ? row_scale : nullptr};
  }
};

// The compiler would hold what all groups add to in registers, and put the sums of a group on the stack instead.
inline float* stay_in_memory(float* sums) {
  asm volatile("" : "+r"(sums));
  return sums;
}

// Of kGroups groups, columns from `first` on. Always inlined, and its loops unrolled, so that words never leave their registers.
template <Math kMath, int kGroups, int kRows, int kVectors>
__attribute__((always_inline)) inline void join_groups(const V::R (&sum)[kGroups][kRows][kVectors], const Join join,
                                                       std::int64_t first) {
  float* const sums = stay_in_memory(join.sums);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    float* to = sums + r * kPanel + first;
#pragma GCC unroll 16
    for (int n = 0; n < kVectors; ++n) {
      V::R all = join.starts ? V::zero() : V::load(to + n * V::kWidth);
#pragma GCC unroll 16
      for (int i = 0; i < kGroups; ++i) {
        const V::R scale = V::load(join.scale + i * kPanel + first + n * V::kWidth);
        if constexpr (kMath == Math::integer) {
          all = V::fma(V::difference(sum[i][r][n], V::broadcast(join.excess + r * join.groups + i)), scale, all);
        } else {
          all = V::fma(sum[i][r][n], scale, all);
        }
      }
      if constexpr (kMath == Math::integer) {
        all = join.row_scale == nullptr ? all : V::mul(all, V::broadcast(join.row_scale + r));
      }
      V::store(to + n * V::kWidth, all);
    }
    V::hold_loads();
  }
}

// Asks for what is read once.
__attribute__((always_inline)) inline void ask_streamed(const std::byte* line) {
  V::kStreamsNear ? V::prefetch_near(line) : V::prefetch(line);
}

inline void ask_until(Prefetch& ahead, const std::byte* until) {
  if (ahead.near) {
    for (; ahead.from < until; ahead.from += 64) {
      V::prefetch_near(ahead.from);
    }
  } else {
    for (; ahead.from < until; ahead.from += 64) {
      V::prefetch(ahead.from);
    }
  }
}

// sums [kRows][kPanel] (+)= rows · panel over `blocks` lines of the row tile. Where groups have sums of their own (integers
// as their bits) and end with the lines, each joins its chain instead.
template <int kRows, Math kMath>
void tile(const float* a, const std::byte* panel, float* sums, std::int64_t blocks, bool accumulate, Prefetch ahead,
          const Join* join) {
  constexpr int kVectors = V::tile_vectors(kRows);
  constexpr int kPasses = kPanel / V::kWidth / kVectors;
  constexpr int kAsks = asks(kMath, kVectors);
  constexpr int kSteps = line_of(kMath).depth / kAsks;
  const std::int64_t share = (ahead.bytes + kPasses * kAsks - 1) / (kPasses * kAsks);
  const std::byte* until = ahead.from;
  for (int first = 0; first < kPanel / V::kWidth; first += kVectors) {
    V::R group_sums[1][kRows][kVectors];
    auto& sum = group_sums[0];
    load_sums(sum, sums + first * V::kWidth, accumulate);
    const std::byte* b = panel + first * V::kWidth * 4;
    const auto add = [&](std::int64_t block, std::int64_t end) __attribute__((always_inline)) {
      for (; block < end; ++block) {
        const float* line = a + block * kRows * line_floats(kMath);
        const std::byte* steps = b + block * line_bytes(kMath);
#pragma GCC unroll 1
        for (int ask = 0; ask < kAsks; ++ask) {
          until += share;
          ask_until(ahead, until);
          tile_block<kRows, kVectors, kMath, kSteps>(sum, line + line_of(kMath).floats(ask * kSteps),
                                                     steps + ask * line_bytes(kMath) / kAsks);
        }
      }
    };
    if constexpr (has_group_sums(kMath)) {
      if (join != nullptr) {
        for (std::int64_t group = 0, begin = 0; begin < blocks; ++group, begin += join->blocks) {
          const bool last = begin + join->blocks >= blocks;
          add(begin, last ? blocks : begin + join->blocks);
          join_groups<kMath>(group_sums, join->at(group, last), first * V::kWidth);
          load_sums(sum, nullptr, false);
        }
        continue;
      }
    }
    add(0, blocks);
    store_sums(sum, sums + first * V::kWidth);
  }
}

template <int kNumber>
struct Number {
  static constexpr int value = kNumber;
};

// make(Number<rows>()) for rows of 1 .. kMost.
template <int kMost, class Make>
inline auto with_rows(std::int64_t rows, const Make& make) {
  if constexpr (kMost == 1) {
    return make(Number<1>());
  } else {
    return rows == kMost ? make(Number<kMost>()) : with_rows<kMost - 1>(rows, make);
  }
}

using Tile = void (*)(const float*, const std::byte*, float*, std::int64_t, bool, Prefetch, const Join*);

template <Math kMath>
inline Tile tile_of(std::int64_t rows) {
  return with_rows<V::kTileRows>(rows, [](auto number) -> Tile { return tile<decltype(number)::value, kMath>; });
}

inline Tile tile_of(Math math, std::int64_t rows) {
  switch (math) {
    case Math::f32:
    case Math::decoded:
      return tile_of<Math::f32>(rows);
    case Math::integer:
      return tile_of<Math::integer>(rows);
    case Math::scaled:
      if constexpr (V::kHasDot) {
        return nullptr;  // V::streams_all
      } else {
        return tile_of<Math::scaled>(rows);
      }
    case Math::widened:
      return tile_of<Math::widened>(rows);
    default:
      return tile_of<Math::bf16>(rows);
  }
}

// The parts of GemmArgs::scratch.
struct GemmScratch {
  float* tiles;
  float* sums;       // [rows, kPanel]
  float* block;      // [kDecodeDepth, kPanel] of a panel, decoded
  float* part;       // [rows, kPanel], sums over a part of a group
  float* row_scale;  // [rows], of rows as integers
  float* row_sums;   // [rows, groups], their sums times the codes' offset, bits of integers
  explicit GemmScratch(const GemmArgs& g)
      : tiles(reinterpret_cast<float*>(g.scratch)),
        sums(tiles + g.row_count * g.padded_depth),
        block(sums + g.row_count * kPanel),
        part(block + kDecodeDepth * kPanel),
        row_scale(part + g.row_count * kPanel),
        row_sums(row_scale + g.row_count) {}
};

// Rows are spread over the fewest tiles, as evenly as can be.
struct RowTiles {
  std::int64_t tiles;
  std::int64_t rows;    // of a tile
  std::int64_t higher;  // tiles at the beginning that have one more
  RowTiles(std::int64_t all, std::int64_t most)
      : tiles((all + most - 1) / most), rows(tiles > 0 ? all / tiles : 0), higher(all - tiles * rows) {}
  std::int64_t begin(std::int64_t tile) const { return tile * rows + (tile < higher ? tile : higher); }
};

}  // namespace
}  // namespace switchyard
