// Products of matrices as they lie in memory, for gradients; part of a kernel file, see kernels_inl.hpp. The tiles of
// the GEMM do the sums; what they walk over is packed on the stack, a few steps of the contraction at a time.

namespace switchyard {
namespace {

// 44 KiB with the sums: what a tile reads stays in L1, all of it in L2.
constexpr std::int64_t kAccumulateDepth = 4 * kBlock;

// a from step k on, rows [begin, end) → [blocks][rows][kBlock] f32 with zeros beyond the depth.
inline void pack_factors(const AccumulateArgs& c, std::int64_t begin, std::int64_t end, std::int64_t k,
                         std::int64_t blocks, float* tile) {
  const std::int64_t count = end - begin;
  for (std::int64_t block = 0; block < blocks; ++block, k += kBlock, tile += count * kBlock) {
    const std::int64_t from = begin * c.a_row + k * c.a_step;
    const std::int64_t left = c.depth - k;
    if (c.a_step == 1) {
      for (std::int64_t r = 0; r < count; ++r) {
        V16::store(tile + r * kBlock, load_some(c.a, c.a_type, from + r * c.a_row, left));
      }
      continue;
    }
    // The rows are neighbours in memory and read in that order, those of the next tile with them: whole vectors.
    for (std::int64_t i = 0; i < kBlock; ++i) {
      for (std::int64_t first = 0; first < count; first += kLanes) {
        alignas(64) float step[kLanes];
        V16::store(step, load_some(c.a, c.a_type, from + i * c.a_step + first, i < left ? c.rows - begin - first : 0));
        for (std::int64_t r = first; r < count && r < first + kLanes; ++r) {
          tile[r * kBlock + i] = step[r - first];
        }
      }
    }
  }
}

// b from step k on, columns [first, first + kPanel) → [steps][kPanel] f32. Beyond the depth −0: times the factors' +0 that
// is −0, which changes no sum, not even one of −0.
inline void pack_columns(const AccumulateArgs& c, std::int64_t first, std::int64_t k, std::int64_t steps,
                         float* panel) {
  const std::int64_t bytes = c.b_type == DType::f32 ? 4 : 2;
  for (std::int64_t i = 0; i < steps; ++i, ++k) {
    const std::byte* row = static_cast<const std::byte*>(c.b) + k * c.b_stride * bytes;
    for (std::int64_t n = 0; n < kPanel; n += kLanes) {
      const std::int64_t left = k < c.depth ? c.cols - first - n : 0;
      V16::store(panel + i * kPanel + n, left > 0 ? load_some(row, c.b_type, first + n, left) : V16::set(-0.0F));
    }
  }
}

inline void store_sums(const AccumulateArgs& c, const float* sums) {
  const std::int64_t bytes = c.out_type == DType::f32 ? 4 : 2;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    std::byte* row = static_cast<std::byte*>(c.out) + r * c.out_stride * bytes;
    for (std::int64_t n = 0; n < c.cols; n += kLanes) {
      const float* from = sums + n / kPanel * kAccumulateRows * kPanel + r * kPanel + n % kPanel;
      store_some(row, c.out_type, n, V16::load(from), c.cols - n);
    }
  }
}

__attribute__((noinline)) void accumulate_tiles(const AccumulateArgs& c) {
  // A panel after the other, each [kAccumulateRows][kPanel].
  alignas(64) float sums[kAccumulateRows * kAccumulateCols] = {};
  alignas(64) float factors[kAccumulateRows * kAccumulateDepth];
  alignas(64) float panel[kAccumulateDepth * kPanel];
  const RowTiles tiles(c.rows, V::kTileRows);
  for (std::int64_t k = 0; k < c.depth; k += kAccumulateDepth) {
    const std::int64_t steps = c.depth - k < kAccumulateDepth ? c.depth - k : kAccumulateDepth;
    const std::int64_t blocks = (steps + kBlock - 1) / kBlock;
    for (std::int64_t t = 0; t < tiles.tiles; ++t) {
      pack_factors(c, tiles.begin(t), tiles.begin(t + 1), k, blocks, factors + tiles.begin(t) * kAccumulateDepth);
    }
    for (std::int64_t first = 0; first < c.cols; first += kPanel) {
      pack_columns(c, first, k, blocks * kBlock, panel);
      for (std::int64_t t = 0; t < tiles.tiles; ++t) {
        const std::int64_t begin = tiles.begin(t);
        tile_of<Math::f32>(tiles.begin(t + 1) - begin)(
            factors + begin * kAccumulateDepth, reinterpret_cast<const std::byte*>(panel),
            sums + first * kAccumulateRows + begin * kPanel, blocks, true, {nullptr, 0, false}, nullptr);
      }
    }
  }
  store_sums(c, sums);
}

void accumulate(const AccumulateArgs& c) {
  const FloatMode mode(false);
  accumulate_tiles(c);
}

}  // namespace
}  // namespace switchyard
