// The GEMM of one piece: row tiles, panels and what follows the sums; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Elements [k, k + kLanes) of a row as f32, zero beyond the depth; rounded to bf16 values if the math multiplies bf16.
inline V16 load_row(const GemmArgs& g, const void* row, std::int64_t k) {
  V16 value;
  if (k + kLanes <= g.depth) {
    value = g.rows_type == DType::f32 ? V16::load(static_cast<const float*>(row) + k)
                                      : V16::load_bf16(static_cast<const std::uint16_t*>(row) + k);
  } else if (k < g.depth) {
    if (g.rows_type == DType::f32) {
      value = V16::load_part(static_cast<const float*>(row) + k, g.depth - k, 0.0F);
    } else {
      alignas(64) std::uint16_t part[kLanes] = {};
      for (std::int64_t i = 0; i < g.depth - k; ++i) {
        part[i] = static_cast<const std::uint16_t*>(row)[k + i];
      }
      value = V16::load_bf16(part);
    }
  } else {
    value = V16::set(0.0F);
  }
  return g.math == Math::bf16 && g.rows_type == DType::f32 ? V16::round_to_bf16(value) : value;
}

// One tile of rows as [padded_depth / kBlock][rows][kBlock]: 64-byte lines, so that the kernel walks it with one
// pointer.
inline void pack_tile(const GemmArgs& g, std::int64_t begin, std::int64_t end, float* tile) {
  const std::int64_t count = end - begin;
  const std::int64_t size = g.rows_type == DType::f32 ? 4 : 2;
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t at = g.row_index != nullptr ? g.row_index[begin + r] : begin + r;
    const void* row = static_cast<const std::byte*>(g.rows) + at * g.rows_stride * size;
    if (paired_rows(g.math)) {
      std::uint16_t* line = reinterpret_cast<std::uint16_t*>(tile) + r * 2 * kBlock;
      for (std::int64_t k = 0; k < g.padded_depth; k += kLanes) {
        V16::store_bf16(line + (k / (2 * kBlock)) * count * 2 * kBlock + k % (2 * kBlock), load_row(g, row, k));
      }
    } else {
      for (std::int64_t k = 0; k < g.padded_depth; k += kLanes) {
        V16::store(tile + k * count + r * kBlock, load_row(g, row, k));
      }
    }
  }
}

inline void finish_row(const GemmArgs& g, const float* sums, std::int64_t row, std::int64_t panel) {
  if (!g.gated) {
    float* out = static_cast<float*>(g.out) + row * g.out_stride + panel * kPanel;
    V16::store(out, V16::load(sums));
    V16::store(out + kLanes, V16::load(sums + kLanes));
    return;
  }
  const V16 h = V16::mul(silu(V16::load_halves(sums, sums + 16)), V16::load_halves(sums + 8, sums + 24));
  if (g.out_type == DType::f32) {
    V16::store(static_cast<float*>(g.out) + row * g.out_stride + panel * kGatedPanel, h);
  } else {
    V16::store_bf16(static_cast<std::uint16_t*>(g.out) + row * g.out_stride + panel * kGatedPanel, h);
  }
}

// One panel for all row tiles, the depth in blocks that stay in the cache; every tile prefetches its share of the next
// panel.
inline void gemm_panel(const GemmArgs& g, const RowTiles& split, std::int64_t panel, const float* tiles, float* sums) {
  const std::byte* weights = g.panels + panel * g.panel_bytes;
  const std::int64_t step = paired_rows(g.math) ? 2 * kBlock : kBlock;
  const std::int64_t element = paired_rows(g.math) ? 2 : 4;  // bytes of an element of a row tile
  const std::int64_t panel_depth_bytes = kPanel * weight_size(g.math);
  const std::int64_t depth_block = split.tiles == 1 ? g.padded_depth : kPanelBlockBytes / panel_depth_bytes;
  for (std::int64_t k = 0; k < g.padded_depth; k += depth_block) {
    const std::int64_t depth = k + depth_block < g.padded_depth ? depth_block : g.padded_depth - k;
    const std::int64_t share = depth * panel_depth_bytes / split.tiles;
    for (std::int64_t t = 0; t < split.tiles; ++t) {
      const std::int64_t begin = split.begin(t);
      const std::int64_t count = split.begin(t + 1) - begin;
      const std::byte* rows =
          reinterpret_cast<const std::byte*>(tiles) + (begin * g.padded_depth + k * count) * element;
      const std::byte* at = weights + k * panel_depth_bytes;
      const bool stream = split.tiles == 1 && V::tile_vectors(static_cast<int>(count)) * V::kWidth == kPanel;
      const Prefetch ahead{at + (stream ? kStreamAhead : g.panel_bytes + t * share), share / 64};
      tile_of(g.math, count)(reinterpret_cast<const float*>(rows), at, sums + begin * kPanel, depth / step, k > 0,
                             ahead);
      if (k + depth == g.padded_depth) {
        for (std::int64_t row = begin; row < begin + count; ++row) {
          finish_row(g, sums + row * kPanel, row, panel);
        }
      }
    }
  }
}

// This and the other loops below a FloatMode are not inlined: the compiler does not know that the scope changes
// arithmetic, and must not move any across its borders.
__attribute__((noinline)) void gemm_rows(const GemmArgs& g) {
  const RowTiles split(g.row_count);
  float* tiles = reinterpret_cast<float*>(g.scratch);
  float* sums = tiles + g.row_count * g.padded_depth;
  const std::int64_t element = paired_rows(g.math) ? 2 : 4;
  for (std::int64_t t = 0; t < split.tiles; ++t) {
    const std::int64_t begin = split.begin(t);
    pack_tile(g, begin, split.begin(t + 1), reinterpret_cast<float*>(g.scratch + begin * g.padded_depth * element));
  }
  for (std::int64_t panel = g.panel_begin; panel < g.panel_end; ++panel) {
    gemm_panel(g, split, panel, tiles, sums);
  }
}

void gemm(const GemmArgs& g) {
  const FloatMode mode(g.math == Math::bf16);
  gemm_rows(g);
}

}  // namespace
}  // namespace switchyard
