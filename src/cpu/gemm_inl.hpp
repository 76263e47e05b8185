// The GEMM of one piece: row tiles, panels and what follows the sums; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Elements [k, k + kLanes) of a row, scaled if there is a scale, rounded to bf16 values if the math multiplies bf16.
inline V16 load_row(const GemmArgs& g, const void* row, const float* scale, std::int64_t k) {
  V16 value = load_some(row, g.rows_type, k, g.depth - k);
  if (scale != nullptr) {
    value = V16::mul(value, V16::set(*scale));
  }
  const bool rounds = g.math == Math::bf16 && (g.rows_type == DType::f32 || scale != nullptr);
  return rounds ? V16::round_to_bf16(value) : value;
}

// One tile of rows as [padded_depth / kBlock][rows][kBlock]: 64-byte lines, so that the kernel walks it with one
// pointer.
inline void pack_tile(const GemmArgs& g, std::int64_t begin, std::int64_t end, float* tile) {
  const std::int64_t count = end - begin;
  const std::int64_t size = g.rows_type == DType::f32 ? 4 : 2;
  for (std::int64_t r = 0; r < count; ++r) {
    const std::int64_t at = g.row_index != nullptr ? g.row_index[begin + r] : begin + r;
    const void* row = static_cast<const std::byte*>(g.rows) + at * g.rows_stride * size;
    const float* scale = g.row_scale != nullptr ? g.row_scale + begin + r : nullptr;
    if (paired_rows(g.math)) {
      std::uint16_t* line = reinterpret_cast<std::uint16_t*>(tile) + r * 2 * kBlock;
      for (std::int64_t k = 0; k < g.padded_depth; k += kLanes) {
        V16::store_bf16(line + (k / (2 * kBlock)) * count * 2 * kBlock + k % (2 * kBlock), load_row(g, row, scale, k));
      }
    } else {
      for (std::int64_t k = 0; k < g.padded_depth; k += kLanes) {
        V16::store(tile + k * count + r * kBlock, load_row(g, row, scale, k));
      }
    }
  }
}

// What follows the sums of rows begin .. end of one panel; chosen once for a piece.
using Finish = void (*)(const GemmArgs& g, const float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel);

void finish_sums(const GemmArgs& g, const float* sums, std::int64_t begin, std::int64_t end, std::int64_t panel) {
  for (std::int64_t row = begin; row < end; ++row) {
    float* out = static_cast<float*>(g.out) + row * g.out_stride + panel * kPanel;
    V16::store(out, V16::load(sums + row * kPanel));
    V16::store(out + kLanes, V16::load(sums + row * kPanel + kLanes));
  }
}

inline void store_h(const GemmArgs& g, std::int64_t row, std::int64_t feature, V16 h) {
  if (g.out_type == DType::f32) {
    V16::store(static_cast<float*>(g.out) + row * g.out_stride + feature, h);
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

// One panel for all row tiles, the depth in blocks that stay in the cache; every tile prefetches its share of the next
// panel.
inline void gemm_panel(const GemmArgs& g, const RowTiles& split, std::int64_t panel, Finish finish, const float* tiles,
                       float* sums) {
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
        if (g.bias != nullptr) {
          add_bias(g, sums, begin, begin + count, panel);
        }
        finish(g, sums, begin, begin + count, panel);
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
  const Finish finish = finish_of(g.function);
  for (std::int64_t panel = g.panel_begin; panel < g.panel_end; ++panel) {
    gemm_panel(g, split, panel, finish, tiles, sums);
  }
}

void gemm(const GemmArgs& g) {
  const FloatMode mode(g.math == Math::bf16);
  gemm_rows(g);
}

}  // namespace
}  // namespace switchyard
