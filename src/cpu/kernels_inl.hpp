// The kernels' text, written once. A file per instruction set includes it after defining, in an unnamed namespace,
//   V    the native vector: kWidth floats; load, store, broadcast, zero, fma, even, odd (bf16 pairs widened to their
//   first and second
//        element), prefetch; kTileRows; tile_vectors(rows); kHasDot and dot (bf16 pairs) if there is a unit for it
//   V16  kLanes virtual lanes for elementwise work
//   FlushDenormals  a scope in which denormals are zero
// and makes the table. No standard header may be included from here: code for one instruction set must not reach the
// others.

namespace switchyard {
namespace {

constexpr std::int64_t kBlock = 64 / sizeof(float);  // contraction steps per 64-byte line of a row tile

// Depth that is run over all row tiles before the next, so that its 128 KiB of a panel stay in half of the smallest L2
// (512 KiB) with the next panel's share.
constexpr std::int64_t kPanelBlockBytes = 128 << 10;
// Distance of prefetching when a panel is read once: 24 KiB are in flight long before use (100 ns at 40 GB/s are 4 KiB)
// and fit every L1 + L2.
constexpr std::int64_t kStreamAhead = 24 << 10;

constexpr std::int64_t weight_size(Math math) { return math == Math::f32 ? 4 : 2; }
constexpr bool paired_rows(Math math) { return math == Math::bf16 && V::kHasDot; }

// Prefetching spread over a tile: `lines` cache lines per step of the contraction block.
struct Prefetch {
  const std::byte* from;
  std::int64_t lines;
};

template <int kRows, int kVectors>
inline void fma_step(V::R (&sum)[kRows][kVectors], const float* a, const V::R (&b)[kVectors]) {
  for (int r = 0; r < kRows; ++r) {
    const V::R value = V::broadcast(a + r * kBlock);
    for (int n = 0; n < kVectors; ++n) {
      sum[r][n] = V::fma(value, b[n], sum[r][n]);
    }
  }
}

template <int kRows, int kVectors>
inline void f32_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
#pragma GCC unroll 4
  for (int k = 0; k < kBlock; ++k) {
    const float* line = reinterpret_cast<const float*>(panel) + k * kPanel;
    V::R b[kVectors];
    for (int n = 0; n < kVectors; ++n) {
      b[n] = V::load(line + n * V::kWidth);
    }
    fma_step<kRows, kVectors>(sum, a + k, b);
  }
}

template <int kRows, int kVectors, bool kOddFirst>
inline void pair_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
#pragma GCC unroll 2
  for (int k = 0; k < kBlock; k += 2) {
    const std::byte* pairs = panel + k * kPanel * 2;
    V::R b[kVectors];
    for (int n = 0; n < kVectors; ++n) {
      b[n] = kOddFirst ? V::odd(pairs + n * V::kWidth * 4) : V::even(pairs + n * V::kWidth * 4);
    }
    fma_step<kRows, kVectors>(sum, a + k + (kOddFirst ? 1 : 0), b);
    for (int n = 0; n < kVectors; ++n) {
      b[n] = kOddFirst ? V::even(pairs + n * V::kWidth * 4) : V::odd(pairs + n * V::kWidth * 4);
    }
    fma_step<kRows, kVectors>(sum, a + k + (kOddFirst ? 0 : 1), b);
  }
}

// Only where there is a unit: U delays looking for V::dot until the block is used.
template <int kRows, int kVectors, class U = V>
inline void dot_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
#pragma GCC unroll 4
  for (int k = 0; k < kBlock; ++k) {
    const float* pairs = reinterpret_cast<const float*>(panel) + k * kPanel;
    for (int r = 0; r < kRows; ++r) {
      const V::R value = V::broadcast(a + r * kBlock + k);
      for (int n = 0; n < kVectors; ++n) {
        sum[r][n] = U::dot(sum[r][n], value, V::load(pairs + n * V::kWidth));
      }
    }
  }
}

template <int kRows, int kVectors, Math kMath>
inline void tile_block(V::R (&sum)[kRows][kVectors], const float* a, const std::byte* panel) {
  if constexpr (kMath == Math::f32) {
    f32_block<kRows, kVectors>(sum, a, panel);
  } else if constexpr (paired_rows(kMath)) {
    dot_block<kRows, kVectors>(sum, a, panel);
  } else {
    pair_block<kRows, kVectors, kMath == Math::bf16>(sum, a, panel);
  }
}

// sums [kRows][kPanel] (+)= rows · panel over `blocks` lines of the row tile.
template <int kRows, Math kMath>
void tile(const float* a, const std::byte* panel, float* sums, std::int64_t blocks, bool accumulate, Prefetch ahead) {
  constexpr int kVectors = V::tile_vectors(kRows);
  constexpr std::int64_t kPanelStep = kBlock * kPanel * (paired_rows(kMath) ? 4 : weight_size(kMath));
  for (int first = 0; first < kPanel / V::kWidth; first += kVectors) {
    V::R sum[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int n = 0; n < kVectors; ++n) {
        sum[r][n] = accumulate ? V::load(sums + r * kPanel + (first + n) * V::kWidth) : V::zero();
      }
    }
    const std::byte* b = panel + first * V::kWidth * 4;
    const std::byte* p = ahead.from;
    for (std::int64_t block = 0; block < blocks; ++block) {
      if (first == 0) {
        for (std::int64_t line = 0; line < ahead.lines; ++line, p += 64) {
          V::prefetch(p);
        }
      }
      tile_block<kRows, kVectors, kMath>(sum, a + block * kRows * kBlock, b + block * kPanelStep);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int n = 0; n < kVectors; ++n) {
        V::store(sums + r * kPanel + (first + n) * V::kWidth, sum[r][n]);
      }
    }
  }
}

using Tile = void (*)(const float*, const std::byte*, float*, std::int64_t, bool, Prefetch);

template <Math kMath, int kRows = V::kTileRows>
inline Tile tile_of(std::int64_t rows) {
  if constexpr (kRows == 1) {
    return tile<1, kMath>;
  } else {
    return rows == kRows ? tile<kRows, kMath> : tile_of<kMath, kRows - 1>(rows);
  }
}

inline Tile tile_of(Math math, std::int64_t rows) {
  switch (math) {
    case Math::f32:
      return tile_of<Math::f32>(rows);
    case Math::widened:
      return tile_of<Math::widened>(rows);
    default:
      return tile_of<Math::bf16>(rows);
  }
}

// Rows are spread over the fewest tiles, as evenly as can be.
struct RowTiles {
  std::int64_t rows;
  std::int64_t tiles;
  explicit RowTiles(std::int64_t rows_) : rows(rows_), tiles((rows_ + V::kTileRows - 1) / V::kTileRows) {}
  std::int64_t begin(std::int64_t tile) const { return tile * rows / tiles; }
};

// ---- row tiles ----

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

// ---- what follows the sums ----

// exp as in Cephes' expf: 2^n · p(r), x = n ln 2 + r; 0 below −86.6 (the smallest normal results) and inf
// above 88.7228.
inline V16 exp(V16 x) {
  const V16 magic = V16::set(12582912.0F);  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  const V16 clamped = V16::min(V16::set(88.7228F), V16::max(V16::set(-86.6F), x));
  const V16 shifted = V16::fma(clamped, V16::set(1.44269504F), magic);
  const V16 n = V16::sub(shifted, magic);
  V16 r = V16::fma(n, V16::set(-0.693359375F), clamped);
  r = V16::fma(n, V16::set(2.12194440e-4F), r);
  V16 p = V16::set(1.9875691500e-4F);
  p = V16::fma(p, r, V16::set(1.3981999507e-3F));
  p = V16::fma(p, r, V16::set(8.3334519073e-3F));
  p = V16::fma(p, r, V16::set(4.1665795894e-2F));
  p = V16::fma(p, r, V16::set(1.6666665459e-1F));
  p = V16::fma(p, r, V16::set(5.0000001201e-1F));
  p = V16::fma(p, V16::mul(r, r), V16::add(r, V16::set(1.0F)));
  const V16 scaled = V16::mul(V16::mul(p, V16::power_below(shifted)), V16::set(2.0F));
  return V16::choose_less(x, V16::set(-86.6F), V16::set(0.0F),
                          V16::choose_less(V16::set(88.7228F), x, V16::set(__builtin_inff()), scaled));
}

inline V16 sigmoid(V16 x) {
  const V16 one = V16::set(1.0F);
  return V16::div(one, V16::add(one, exp(V16::sub(V16::set(0.0F), x))));
}

inline V16 silu(V16 x) { return V16::div(x, V16::add(V16::set(1.0F), exp(V16::sub(V16::set(0.0F), x)))); }

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
      const Prefetch ahead{at + (split.tiles == 1 ? kStreamAhead : g.panel_bytes + t * share),
                           share / 64 / (depth / step)};
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

// Not inlined: the compiler does not know that the scope in gemm changes arithmetic, and must not move any across it.
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
  if (g.math == Math::bf16) {
    const FlushDenormals scope;
    gemm_rows(g);
  } else {
    gemm_rows(g);
  }
}

// ---- routing ----

// A fixed tree over the virtual lanes: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
inline float sum_lanes(V16 value) {
  alignas(64) float lane[kLanes];
  V16::store(lane, value);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      lane[i] += lane[i + width];
    }
  }
  return lane[0];
}

inline float max_lanes(V16 value) {
  alignas(64) float lane[kLanes];
  V16::store(lane, value);
  float largest = lane[0];
  for (int i = 1; i < kLanes; ++i) {
    largest = lane[i] > largest ? lane[i] : largest;
  }
  return largest;
}

// Logits [at, at + kLanes) with NaN, and lanes beyond the end, as −inf.
inline V16 load_logits(const float* logits, std::int64_t at, std::int64_t experts) {
  const float lowest = -__builtin_inff();
  const V16 value = at + kLanes <= experts ? V16::load(logits + at) : V16::load_part(logits + at, experts - at, lowest);
  return V16::choose_nan(value, V16::set(lowest), value);
}

// exp(l − m); logits equal to the largest count as a difference of 0 even when they are infinite.
inline V16 softmax_term(V16 logit, V16 largest) {
  return exp(V16::choose_equal(logit, largest, V16::set(0.0F), V16::sub(logit, largest)));
}

// The best K so far: value descending, id ascending. Ids come in ascending order, so an equal value never passes an
// earlier one.
struct Best {
  float value[kMaxTopk];
  std::int32_t id[kMaxTopk];
  std::int32_t count = 0;

  void insert(float candidate, std::int32_t expert, std::int32_t topk) {
    std::int32_t at = count < topk ? count++ : topk - 1;
    for (; at > 0 && value[at - 1] < candidate; --at) {
      value[at] = value[at - 1];
      id[at] = id[at - 1];
    }
    value[at] = candidate;
    id[at] = expert;
  }
};

inline void select(const float* logits, const RouteArgs& r, Best& best) {
  alignas(64) float lane[kLanes];
  for (std::int32_t at = 0; at < r.experts; at += kLanes) {
    const V16 value = load_logits(logits, at, r.experts);
    if (best.count == r.topk && !V16::any_less(V16::set(best.value[r.topk - 1]), value)) {
      continue;
    }
    V16::store(lane, value);
    const std::int32_t count = r.experts - at < kLanes ? r.experts - at : kLanes;
    for (std::int32_t i = 0; i < count; ++i) {
      if (best.count < r.topk || lane[i] > best.value[r.topk - 1]) {
        best.insert(lane[i], at + i, r.topk);
      }
    }
  }
}

inline void route_token(const float* logits, const RouteArgs& r, std::int32_t* expert, float* weight) {
  V16 largest_lanes = V16::set(-__builtin_inff());
  for (std::int64_t at = 0; at < r.experts; at += kLanes) {
    largest_lanes = V16::max(largest_lanes, load_logits(logits, at, r.experts));
  }
  const V16 largest = V16::set(max_lanes(largest_lanes));
  V16 total_lanes = V16::set(0.0F);
  for (std::int64_t at = 0; at < r.experts; at += kLanes) {
    const V16 term = softmax_term(load_logits(logits, at, r.experts), largest);
    total_lanes = V16::add(total_lanes, V16::keep_first(term, r.experts - at));
  }
  const V16 total = V16::set(sum_lanes(total_lanes));
  Best best;
  for (float& value : best.value) {
    value = 0.0F;
  }
  select(logits, r, best);
  alignas(64) float score[kMaxTopk];
  for (std::int32_t at = 0; at < r.topk; at += kLanes) {
    V16::store(score + at, V16::div(softmax_term(V16::load(best.value + at), largest), total));
  }
  float chosen = 0.0F;
  for (std::int32_t s = 0; s < r.topk; ++s) {
    chosen += score[s];
  }
  for (std::int32_t s = 0; s < r.topk; ++s) {
    expert[s] = best.id[s];
    weight[s] = r.normalize ? score[s] / chosen : score[s];
  }
}

void route(const RouteArgs& r) {
  for (std::int64_t t = 0; t < r.count; ++t) {
    route_token(r.logits + t * r.stride, r, r.expert + t * r.topk, r.weight + t * r.topk);
  }
}

// ---- combine ----

inline void store_out(const CombineArgs& c, std::int64_t token, std::int64_t at, V16 value) {
  const std::int64_t left = c.hidden - at;
  if (c.out_type == DType::f32) {
    float* out = static_cast<float*>(c.out) + token * c.out_stride + at;
    if (left >= kLanes) {
      V16::store(out, value);
      return;
    }
    alignas(64) float part[kLanes];
    V16::store(part, value);
    for (std::int64_t i = 0; i < left; ++i) {
      out[i] = part[i];
    }
    return;
  }
  std::uint16_t* out = static_cast<std::uint16_t*>(c.out) + token * c.out_stride + at;
  if (left >= kLanes) {
    V16::store_bf16(out, value);
    return;
  }
  alignas(64) std::uint16_t part[kLanes];
  V16::store_bf16(part, value);
  for (std::int64_t i = 0; i < left; ++i) {
    out[i] = part[i];
  }
}

// Rows and shared rows are padded to whole panels, so they can be read past the hidden size.
inline void combine_token(const CombineArgs& c, std::int64_t t) {
  const std::int64_t* row = c.slot_to_row + t * c.topk;
  const float* weight = c.weight + t * c.topk;
  const V16 gate = c.gate_logits != nullptr ? sigmoid(V16::set(c.gate_logits[t * c.gate_stride])) : V16::set(1.0F);
  for (std::int64_t at = 0; at < c.hidden; at += 2 * kLanes) {
    V16 low = V16::set(0.0F);
    V16 high = V16::set(0.0F);
    for (std::int32_t s = 0; s < c.topk; ++s) {
      if (row[s] >= 0) {
        const float* from = c.rows + row[s] * c.rows_stride + at;
        const V16 w = V16::set(weight[s]);
        low = V16::fma(w, V16::load(from), low);
        high = V16::fma(w, V16::load(from + kLanes), high);
      }
    }
    if (c.shared != nullptr) {
      const float* from = c.shared + t * c.shared_stride + at;
      low = V16::fma(gate, V16::load(from), low);
      high = V16::fma(gate, V16::load(from + kLanes), high);
    }
    store_out(c, t, at, low);
    if (at + kLanes < c.hidden) {
      store_out(c, t, at + kLanes, high);
    }
  }
}

void combine(const CombineArgs& c) {
  for (std::int64_t t = 0; t < c.count; ++t) {
    combine_token(c, t);
  }
}

// ---- what the machine can do ----

float read(const float* data, std::int64_t count) {
  V16 sum[4] = {V16::set(0.0F), V16::set(0.0F), V16::set(0.0F), V16::set(0.0F)};
  const std::int64_t quarter = count / 4 / kLanes * kLanes;
  for (std::int64_t i = 0; i < quarter; i += kLanes) {
    for (int s = 0; s < 4; ++s) {
      sum[s] = V16::add(sum[s], V16::load(data + s * quarter + i));
    }
  }
  return sum_lanes(V16::add(V16::add(sum[0], sum[1]), V16::add(sum[2], sum[3])));
}

// Ten chains cover the latency of every unit (4 to 5 cycles, two units) and fit the smallest register file.
constexpr int kChains = 10;

double peak_fma(std::int64_t iterations, float* sink) {
  V::R sum[kChains];
  const V::R factor = V::broadcast(sink);
  for (V::R& chain : sum) {
    chain = factor;
  }
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (V::R& chain : sum) {
      chain = V::fma(chain, factor, factor);
    }
  }
  alignas(64) float out[kChains][V::kWidth];
  for (int chain = 0; chain < kChains; ++chain) {
    V::store(out[chain], sum[chain]);
    sink[1] += out[chain][0];
  }
  return 2.0 * V::kWidth * kChains * static_cast<double>(iterations);
}

}  // namespace
}  // namespace switchyard
