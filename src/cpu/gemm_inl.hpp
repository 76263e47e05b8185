// The GEMM of one piece: row tiles, panels and what follows the sums; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// One tile of rows as [padded_depth / depth of a line][rows][line], so that the kernel walks it with one pointer. While a
// row is read, the next one is asked for: rows stand anywhere. Of a line of integers a row writes a part; all lines, which
// L1 has room for up to a depth of some 2000, are asked for before.
inline void pack_tile(const GemmArgs& g, std::int64_t begin, std::int64_t end, float* tile,
                      const GemmScratch& scratch) {
  const std::int64_t count = end - begin;
  const std::int64_t size = row_size(g);
  const std::int64_t groups = g.scales.groups(g.padded_depth);
  const auto row_at = [&](std::int64_t r) {
    const std::int64_t at = g.row_index != nullptr ? g.row_index[r] : r;
    return static_cast<const std::byte*>(g.rows) + at * g.rows_stride * size;
  };
  if (g.math == Math::integer) {
    const float* const stop = tile + line_of(g.math).floats(count * g.padded_depth);
    for (const float* to = tile; to < stop; to += kBlock) {
      __builtin_prefetch(to, 1);
    }
  }
  for (std::int64_t r = 0; r < count; ++r) {
    const std::byte* row = row_at(begin + r);
    const std::byte* next = row_at(begin + r + 1 < g.row_count ? begin + r + 1 : begin + r);
    const float* scale = g.row_scale != nullptr ? g.row_scale + begin + r : nullptr;
    if (g.math == Math::integer) {
      float& row_scale = scratch.row_scale[begin + r];
      row_scale = scale_of_row(g, row, next, scale);
      quantise_row(g, row, scale, row_scale, r, count, tile, scratch.row_sums + (begin + r) * groups);
    } else if (paired_rows(g.math)) {
      const std::int64_t depth = line_of(g.math).depth;
      const bool is_bf16 = g.rows_type == DType::bf16 && scale == nullptr;
      std::uint16_t* line = reinterpret_cast<std::uint16_t*>(tile) + r * depth;
      for (std::int64_t k = 0; k < g.padded_depth; k += depth, line += count * depth) {
        for (std::int64_t at = 0; at < depth * size; at += 64) {
          V::prefetch(next + k * size + at);
        }
        for (std::int64_t at = 0; at < depth; at += kLanes) {
          if (is_bf16 && k + at + kLanes <= g.depth) {
            __builtin_memcpy(line + at, row + (k + at) * size, kLanes * sizeof(*line));
          } else {
            V16::store_bf16(line + at, load_row(g, row, scale, k + at));
          }
        }
      }
    } else {
      for (std::int64_t k = 0; k < g.padded_depth; k += kLanes) {
        V::prefetch(next + k * size);
        V16::store(tile + k * count + r * kBlock, load_row(g, row, scale, k));
      }
    }
  }
}

// What follows the sums of rows begin .. end of one panel; chosen once for a piece.
using Finish = void (*)(const GemmArgs& g, const float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel);

inline void store_out(const GemmArgs& g, float* out, V16 value) {
  if (g.streams_out) {
    V16::stream(out, value);
  } else {
    V16::store(out, value);
  }
}

void finish_sums(const GemmArgs& g, const float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel) {
  for (std::int64_t row = begin; row < end; ++row) {
    float* out = static_cast<float*>(g.out) + row * g.out_stride + panel * kPanel;
    store_out(g, out, V16::load(sums + row * kPanel));
    store_out(g, out + kLanes, V16::load(sums + row * kPanel + kLanes));
  }
}

inline void store_h(const GemmArgs& g, std::int64_t row, std::int64_t feature, V16 h) {
  if (g.h_scale != nullptr) {
    h = V16::mul(h, V16::set(g.h_scale[row]));
  }
  if (g.out_type == DType::f32) {
    store_out(g, static_cast<float*>(g.out) + row * g.out_stride + feature, h);
  } else {
    V16::store_bf16(static_cast<std::uint16_t*>(g.out) + row * g.out_stride + feature, h);
  }
}

template <class Function>
void finish_gated(const GemmArgs& g, const float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel) {
  const Function function(*g.function);
  for (std::int64_t row = begin; row < end; ++row) {
    const float* s = sums + row * kPanel;
    const V16 gate = function.gate(V16::load_halves(s, s + 16));
    store_h(g, row, panel * kGatedPanel, V16::mul(gate, function.up(V16::load_halves(s + 8, s + 24))));
  }
}

template <class Function>
void finish_ungated(const GemmArgs& g, const float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel) {
  const Function function(*g.function);
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t at = 0; at < kPanel; at += kLanes) {
      store_h(g, row, panel * kPanel + at, function.gate(V16::load(sums + row * kPanel + at)));
    }
  }
}

template <class Function>
Finish finish_with(bool gated) {
  return gated ? finish_gated<Function> : finish_ungated<Function>;
}

Finish finish_of(const ExpertFunction* function) {
  if (function == nullptr) {
    return finish_sums;
  }
  switch (function->activation) {
    case Activation::silu:
      return finish_with<Silu>(function->gated);
    case Activation::gelu:
      return finish_with<Gelu>(function->gated);
    case Activation::gelu_tanh:
      return finish_with<GeluTanh>(function->gated);
    case Activation::relu:
      return finish_with<Relu>(function->gated);
    case Activation::relu_squared:
      return finish_with<ReluSquared>(function->gated);
    case Activation::silu_clamped:
      return finish_gated<SiluClamped>;
    case Activation::silu_limited:
      return finish_gated<SiluLimited>;
    case Activation::swiglu_oai:
      return finish_gated<SwigluOai>;
    default:
      return finish_gated<Softcapped>;
  }
}

void add_bias(const GemmArgs& g, float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel) {
  const V16 low = V16::load(g.bias + panel * kPanel);
  const V16 high = V16::load(g.bias + panel * kPanel + kLanes);
  for (float* row = sums + begin * kPanel; row < sums + end * kPanel; row += kPanel) {
    V16::store(row, V16::add(V16::load(row), low));
    V16::store(row + kLanes, V16::add(V16::load(row + kLanes), high));
  }
}

// The sums of a panel times the factor of its matrix.
void multiply_factor(const GemmArgs& g, float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel) {
  const V16 factor = V16::load(reinterpret_cast<const float*>(g.panels + panel * g.panel_bytes));
  for (float* at = sums + begin * kPanel; at < sums + end * kPanel; at += kLanes) {
    V16::store(at, V16::mul(V16::load(at), factor));
  }
}

// Steps of a panel from k on that are run over all row tiles before the next ones: whole groups, or a part of one.
inline std::int64_t block_depth(const GemmArgs& g, std::int64_t k) {
  std::int64_t most = g.padded_depth - k;
  std::int64_t block = is_decoded(g.format) ? kDecodeDepth : kPanelBlockBytes * 8 / (kPanel * code_bits(g.format));
  if (has_group_sums(g.math) && g.scales.group <= block) {
    block -= block % g.scales.group;
  } else if (has_group_sums(g.math)) {
    const std::int64_t group_left = g.scales.group - k % g.scales.group;
    most = group_left < most ? group_left : most;
  }
  return block < most ? block : most;
}

// What follows the last step of a panel.
inline void finish_tile(const GemmArgs& g, float* sums, std::int64_t panel, std::int64_t begin, std::int64_t end,
                        Finish finish) {
  if (g.scales.has_factor) {
    multiply_factor(g, sums, begin, end, panel);
  }
  if (g.bias != nullptr) {
    add_bias(g, sums, begin, end, panel);
  }
  finish(g, sums, begin, end, panel);
}

// One panel for all row tiles, the depth in blocks that stay in the cache; every tile prefetches its share of what comes
// kPanelBlockBytes, or a panel if that is smaller, later.
inline void gemm_panel(const GemmArgs& g, const RowTiles& split, std::int64_t panel, Finish finish,
                       const GemmScratch& scratch) {
  const std::byte* weights = g.panels + panel * g.panel_bytes;
  const std::byte* codes = weights + g.scales.end(g.padded_depth);
  const bool joins = has_group_sums(g.math);
  const Line line = line_of(g.math);
  const Tile low = tile_of(g.math, split.rows);
  const Tile high = tile_of(g.math, split.rows + 1);  // not called if there are none
  float* sums = joins ? scratch.part : scratch.sums;
  alignas(64) float scale[kDecodeDepth / kShortestGroup * kPanel];
  const std::int64_t ahead_bytes = g.panel_bytes < kPanelBlockBytes ? g.panel_bytes : kPanelBlockBytes;
  for (std::int64_t k = 0, depth = 0; k < g.padded_depth; k += depth) {
    depth = block_depth(g, k);
    const std::byte* block = codes + k * kPanel * code_bits(g.format) / 8;
    const std::byte* at = weights + k * g.panel_bytes / g.padded_depth;
    const std::int64_t blocks = depth / line.depth;
    const std::int64_t share = depth * g.panel_bytes / g.padded_depth / split.tiles;
    block = decode(g, weights, block, k, depth, scratch.block);
    const bool starts = joins ? k % g.scales.group == 0 : k == 0;
    const bool ends = k + depth == g.padded_depth;
    const bool group_ends = joins && (ends || (k + depth) % g.scales.group == 0);
    Join join{};
    if (group_ends) {
      const std::int64_t group = k / g.scales.group;
      join = join_of(g, scratch, weights, group, (k + depth - 1) / g.scales.group + 1 - group, scale, scratch.sums);
    }
    for (std::int64_t t = 0; t < split.tiles; ++t) {
      const std::int64_t begin = split.begin(t);
      const std::int64_t end = split.begin(t + 1);
      const std::int64_t count = end - begin;
      const float* rows = scratch.tiles + line.floats(begin * g.padded_depth + k * count);
      const Prefetch ahead{at + ahead_bytes + t * share, (share + blocks - 1) / blocks, false};
      const Join own = group_ends ? join.from(begin) : join;
      (t < split.higher ? high : low)(rows, block, sums + begin * kPanel, blocks, !starts, ahead,
                                      group_ends ? &own : nullptr);
      if (ends) {
        finish_tile(g, scratch.sums, panel, begin, end, finish);
      }
    }
  }
}

// Few rows: some panels at once, what is left one by one.
inline void gemm_stream(const GemmArgs& g, const Stream& stream, Finish finish, const GemmScratch& scratch) {
  alignas(64) float sums[kStreamSums * kPanel];
  for (std::int64_t panel = g.panel_begin; panel < g.panel_end;) {
    const bool all = panel + stream.panels <= g.panel_end;
    (all ? stream.many : stream.one)(g, g.panels + panel * g.panel_bytes, scratch, sums);
    float* own = sums;
    for (const std::int64_t end = panel + (all ? stream.panels : 1); panel < end;
         ++panel, own += g.row_count * kPanel) {
      finish_tile(g, own, panel, 0, g.row_count, finish);
    }
  }
}

// Every tile reads the codes of kScaleGroups groups of a panel, which stay in L2 meanwhile.
inline void gemm_groups(const GemmArgs& g, const RowTiles& split, Finish finish, const GemmScratch& scratch) {
  const GroupStream low = group_stream_of(g, split.rows);
  const GroupStream high = group_stream_of(g, split.rows + 1);  // not called if there are none
  const Line line = line_of(g.math);
  const std::int64_t groups = g.scales.groups(g.padded_depth);
  alignas(64) float scale[kScaleGroups * kPanel];
  for (std::int64_t panel = g.panel_begin; panel < g.panel_end; ++panel) {
    GroupBlock block{g.panels + panel * g.panel_bytes, 0, 0};
    for (; block.end < groups; block.begin = block.end) {
      block.end = block.begin + kScaleGroups < groups ? block.begin + kScaleGroups : groups;
      const Join join = join_of(g, scratch, block.panel, block.begin, block.end - block.begin, scale, scratch.sums);
      for (std::int64_t t = 0; t < split.tiles; ++t) {
        const std::int64_t begin = split.begin(t);
        const std::int64_t end = split.begin(t + 1);
        const std::int64_t first = begin * g.padded_depth + block.begin * g.scales.group * (end - begin);
        (t < split.higher ? high : low)(g, block, scratch.tiles + line.floats(first), join.from(begin));
        if (block.end == groups) {
          finish_tile(g, scratch.sums, panel, begin, end, finish);
        }
      }
    }
  }
}

// This and the other loops below a FloatMode are not inlined: the compiler does not know that the scope changes
// arithmetic, and must not move any across its borders.
__attribute__((noinline)) void gemm_rows(const GemmArgs& g) {
  const bool groups = streams_groups(g);
  const RowTiles split(g.row_count, groups ? V::group_rows(g.format) : V::kTileRows);
  const GemmScratch scratch(g);
  const Line line = line_of(g.math);
  for (std::int64_t t = 0; t < split.tiles; ++t) {
    const std::int64_t begin = split.begin(t);
    float* tile = scratch.tiles + line.floats(begin * g.padded_depth);
    pack_tile(g, begin, split.begin(t + 1), tile, scratch);
  }
  const Finish finish = finish_of(g.function);
  if (groups) {
    return gemm_groups(g, split, finish, scratch);
  }
  const Stream stream = stream_of(g, scratch.tiles);
  if (stream.one != nullptr) {
    gemm_stream(g, stream, finish, scratch);
    return;
  }
  for (std::int64_t panel = g.panel_begin; panel < g.panel_end; ++panel) {
    gemm_panel(g, split, panel, finish, scratch);
  }
}

void gemm(const GemmArgs& g) {
  const FloatMode mode(g.math == Math::bf16);
  gemm_rows(g);
  if (g.streams_out) {
    V16::end_streams();
  }
}

}  // namespace
}  // namespace switchyard
