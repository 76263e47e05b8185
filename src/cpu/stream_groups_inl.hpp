// Rows times panels of codes whose groups have sums of their own: codes are decoded in registers where they are used; part
// of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Groups whose scales become f32 at once, for all tiles, 4 KiB of them: with each by itself, one to three rows take 1.03 to
// 1.05 times as long (`gemm_bench`).
constexpr std::int64_t kScaleGroups = 32;

// sum + row · value, of operands as kMath has them. U delays looking for V::dot, as in dot_block.
template <Math kMath, class Element, class U = V>
inline V::R multiply_operands(V::R sum, Element row, V::R value) {
  if constexpr (kMath == Math::integer) {
    return V::words(sum, row, value);
  } else if constexpr (paired_rows(kMath)) {
    return U::dot(sum, value, row);
  } else {
    return V::fma(row, value, sum);
  }
}

template <Math kMath>
constexpr int group_columns(int rows) {
  return kMath == Math::integer ? V::word_vectors(rows) : V::stream_vectors(rows);
}

// Registers of the words of one column.
template <class Words>
constexpr int kHeldBy = (sizeof(Words) + sizeof(V::R) - 1) / sizeof(V::R);

// Columns whose codes are held at once, in `held` registers each, beside `sums` sums, a value of each, a row's and one more
// register.
constexpr int turn_columns(int sums, int columns, int held) {
  int most = columns;
  while (most > 1 && sums + (held + 1) * most + 2 > V::kRegisters) {
    most /= 2;
  }
  return most;
}

// sum[r] += row r · one word of every column, where registers have kSums sums in all. Always inlined, as stream_part.
template <Math kMath, class Words, int kSums, int kRows, int kColumns>
__attribute__((always_inline)) inline void add_word(V::R (&sum)[kRows][kColumns], const float* rows,
                                                    const std::byte* words) {
  constexpr int kTurn = turn_columns(kSums, kColumns, kHeldBy<Words>);
  for_steps<kColumns / kTurn>([&](auto turn) __attribute__((always_inline)) {
    constexpr int kFirst = decltype(turn)::kValue * kTurn;
    Words held[kTurn];
    for (int n = 0; n < kTurn; ++n) {
      held[n] = Words::hold(words + (kFirst + n) * V::kWidth * 4);
    }
    for_steps<Words::kSteps>([&](auto step) __attribute__((always_inline)) {
      constexpr bool kOddFirst = kMath == Math::scaled && !paired_rows(kMath);
      constexpr int kStep = kOddFirst ? decltype(step)::kValue ^ 1 : decltype(step)::kValue;
      V::R value[kTurn];
      for (int n = 0; n < kTurn; ++n) {
        value[n] = held[n].template step<kStep>();
      }
      for (int r = 0; r < kRows; ++r) {
        const auto row = V::element(rows + r * line_floats(kMath) + kStep);
        for (int n = 0; n < kTurn; ++n) {
          sum[r][kFirst + n] = multiply_operands<kMath>(sum[r][kFirst + n], row, value[n]);
        }
      }
    });
  });
}

// A group of a panel: its words and rows, and how much further those of the next one stand.
struct GroupSteps {
  const std::byte* words;
  const float* rows;
  const std::byte* ask;  // what is asked for meanwhile: as much as a group has, in the order of memory
  std::int64_t word_bytes;
  std::int64_t row_floats;
  std::int64_t scale_bytes;
  std::int64_t lines;  // of a row

  void advance(int groups) {
    words += groups * word_bytes;
    rows += groups * row_floats;
    ask += groups * (word_bytes + scale_bytes);
  }
};

// kGroups groups side by side join their chains. kAsks: what follows is asked for meanwhile.
template <int kRows, Math kMath, class Words, int kGroups, bool kAsks>
__attribute__((always_inline)) inline void add_groups(const GroupSteps& steps, const Join& join) {
  constexpr std::int64_t kLine = line_floats(kMath);
  constexpr int kColumns = group_columns<kMath>(kRows);
  constexpr int kSums = kGroups * kRows * kColumns;
  const std::byte* ask = steps.ask;
  for (const std::byte* const end = ask + kGroups * steps.scale_bytes; kAsks && ask < end; ask += 64) {
    ask_streamed(ask);
  }
  for (std::int64_t column = 0; column < kPanel; column += kColumns * V::kWidth) {
    V::R sum[kGroups][kRows][kColumns] = {};
    const std::byte* words = steps.words + column * 4;
    const float* rows = steps.rows;
    for (std::int64_t line = 0; line < steps.lines; ++line, rows += kRows * kLine) {
#pragma GCC unroll 1
      for (std::int64_t at = 0; at < kLine; at += Words::kSteps, words += kPanel * 4) {
        for_steps<kGroups>([&](auto number) __attribute__((always_inline)) {
          constexpr int kNumber = decltype(number)::kValue;
          for (int n = 0; kAsks && n < kColumns; n += kLineVectors, ask += 64) {
            ask_streamed(ask);
          }
          add_word<kMath, Words, kSums>(sum[kNumber], rows + at + kNumber * steps.row_floats,
                                        words + kNumber * steps.word_bytes);
        });
      }
    }
    join_groups<kMath>(sum, join, column);
  }
}

// Groups of a panel that follow each other, begin .. end.
struct GroupBlock {
  const std::byte* panel;
  std::int64_t begin;
  std::int64_t end;
};

// A tile times a block; `rows` stands where the block begins.
template <int kRows, Math kMath, class Words, int kGroups, bool kAsks>
void stream_groups(const GemmArgs& g, const GroupBlock& block, const float* rows, const Join& join) {
  constexpr std::int64_t kStepBytes = kPanel * 4 / (std::int64_t{Words::kSteps} << line_of(kMath).shift);
  const Line line = line_of(kMath);
  const std::int64_t depth = g.scales.group;
  const std::int64_t groups = g.scales.groups(g.padded_depth);
  const std::int64_t whole_groups = g.padded_depth / depth;
  const bool side = kGroups > 1 && whole_groups >= kGroups;
  GroupSteps steps{block.panel + g.scales.end(g.padded_depth),
                   rows,
                   nullptr,
                   depth * kStepBytes,
                   line.floats(depth) * kRows,
                   kPanel * g.scales.size(),
                   depth / line.depth};
  // In the order of memory: by the end of a panel it has passed the scales of the next one, too. Of groups side by side the
  // last one is read before its turn.
  steps.ask = steps.words + kOperandsAhead + (side ? (kGroups - 1) * steps.word_bytes : 0) +
              block.begin * (steps.word_bytes + steps.scale_bytes);
  steps.words += block.begin * steps.word_bytes;
  const std::int64_t last = block.end < whole_groups ? block.end : whole_groups;
  std::int64_t group = block.begin;
  for (; side && group + kGroups <= last; group += kGroups, steps.advance(kGroups)) {
    add_groups<kRows, kMath, Words, kGroups, kAsks>(steps, join.at(group - block.begin, group + kGroups == groups));
  }
  for (; group < block.end; ++group, steps.advance(1)) {
    if (group == whole_groups) {  // cut off
      steps.lines = (g.padded_depth - group * depth) / line.depth;
    }
    add_groups<kRows, kMath, Words, 1, kAsks>(steps, join.at(group - block.begin, group + 1 == groups));
  }
}

using GroupStream = void (*)(const GemmArgs& g, const GroupBlock& block, const float* rows, const Join& join);

template <Math kMath, class Words, Format kFormat>
GroupStream group_stream_of(std::int64_t rows) {
  return with_rows<V::group_rows(kFormat)>(rows, [](auto number) -> GroupStream {
    constexpr int kRows = decltype(number)::value;
    return stream_groups<kRows, kMath, Words, V::side_groups(kFormat, kRows), V::asks_for_codes(kFormat, kRows)>;
  });
}

// A tile of rows, and sums of groups.
GroupStream group_stream_of(const GemmArgs& g, std::int64_t rows) {
  switch (g.format) {
    case Format::i8:
      return group_stream_of<Math::integer, V::Bytes, Format::i8>(rows);
    case Format::i4:
      return group_stream_of<Math::integer, V::HalfBytes, Format::i4>(rows);
    case Format::f8_e4m3:
    case Format::mxfp8:
      return group_stream_of<Math::scaled, Operands<E4m3>, Format::mxfp8>(rows);
    case Format::mxfp4:
      return group_stream_of<Math::scaled, Operands<E2m1>, Format::mxfp4>(rows);
    default:
      return group_stream_of<Math::scaled, Operands<E2m1>, Format::nvfp4>(rows);
  }
}

std::int64_t stream_rows(Math math, Format format) {
  return has_group_sums(math) ? V::stream_tiles(format) * V::group_rows(format) : V::stream_rows(format);
}

inline bool streams_groups(const GemmArgs& g) {
  return has_group_sums(g.math) && (V::streams_all(g.format) || g.row_count <= stream_rows(g.math, g.format));
}

}  // namespace
}  // namespace switchyard
