// What a GEMM reads of its rows, as 8-bit integers too, and how sums of groups join chains; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Bytes of an element of a row.
inline std::int64_t row_size(const GemmArgs& g) { return g.rows_type == DType::f32 ? 4 : 2; }

// Elements [k, k + kLanes) of a row, scaled if there is a scale, rounded to bf16 values if the math multiplies bf16.
inline V16 load_row(const GemmArgs& g, const void* row, const float* scale, std::int64_t k) {
  V16 value = load_some(row, g.rows_type, k, g.depth - k);
  if (scale != nullptr) {
    value = V16::mul(value, V16::set(*scale));
  }
  const bool narrow = g.math == Math::bf16 || g.math == Math::scaled;
  const bool rounds = narrow && (g.rows_type == DType::f32 || scale != nullptr);
  return rounds ? V16::round_to_bf16(value) : value;
}

// What packed codes are more than they stand for.
constexpr std::int32_t code_offset(Format format) { return format == Format::i8 ? 128 : 8; }

// A row's scale is its largest magnitude / 127; NaN if the row has a NaN or an infinity. Asks for the row `next`.
inline float scale_of_row(const GemmArgs& g, const std::byte* row, const std::byte* next, const float* factor) {
  V16 largest = V16::set(0.0F);
  V16 not_finite = V16::set(0.0F);
  for (std::int64_t k = 0; k < g.depth; k += kLanes) {
    V::prefetch(next + k * row_size(g));
    const V16 value = load_row(g, row, factor, k);
    largest = V16::max(magnitude(value), largest);
    not_finite = V16::fma(value, V16::set(0.0F), not_finite);
  }
  return V16::largest(largest) / 127.0F + V16::sum(not_finite);
}

// Row r of a tile of `count` rows: the nearest integers to row · (1 / scale), ties to even, within ±127; zeros if the scale is
// 0 or NaN. sums [groups] get the integers' sum times the codes' offset, as bits.
inline void quantise_row(const GemmArgs& g, const std::byte* row, const float* factor, float scale, std::int64_t r,
                         std::int64_t count, float* tile, float* sums) {
  const V16 magic = V16::set(12582912.0F);  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  // Rows so small that 1 / scale were infinite are first made larger, which is exact.
  const float lift = scale < 0x1p-100F ? 0x1p100F : 1.0F;
  const V16 lifted = V16::set(lift);
  const V16 inverse = V16::set(scale > 0.0F ? 1.0F / (scale * lift) : 0.0F);
  // What is no number becomes one, and what a denormal scale, rounded coarsely, leaves larger stays within a code.
  const V16 most = V16::set(scale > 0.0F ? 127.0F : 0.0F);
  constexpr std::int64_t kLineDepth = kWordBlock * V::kWordSteps;
  float* line = tile + r * kWordBlock;
  for (std::int64_t begin = 0; begin < g.padded_depth; begin += g.scales.group) {
    const std::int64_t end = begin + g.scales.group < g.padded_depth ? begin + g.scales.group : g.padded_depth;
    V16 sum = V16::set(0.0F);
    for (std::int64_t k = begin; k < end; k += kLineDepth, line += count * kWordBlock) {
      for (std::int64_t at = 0; at < kLineDepth; at += kLanes) {
        const V16 quotient = V16::mul(V16::mul(load_row(g, row, factor, k + at), lifted), inverse);
        const V16 bounded = V16::min(V16::max(quotient, negative(most)), most);
        const V16 code = V16::sub(V16::add(bounded, magic), magic);
        sum = V16::add(sum, code);
        alignas(64) float codes[kLanes];
        V16::store(codes, code);
        V::store_steps(line + at / V::kWordSteps, codes);
      }
    }
    const std::int32_t excess = static_cast<std::int32_t>(V16::sum(sum)) * code_offset(g.format);
    __builtin_memcpy(sums++, &excess, sizeof(excess));
  }
}

// How `count` groups join the chains of all rows: `scale` gets their scales.
inline Join join_of(const GemmArgs& g, const GemmScratch& scratch, const std::byte* panel, std::int64_t first,
                    std::int64_t count, float* scale, float* sums) {
  for (std::int64_t group = 0; group < count; ++group) {
    V16::store(scale + group * kPanel, load_scales(g.scales, panel, first + group, 0));
    V16::store(scale + group * kPanel + kLanes, load_scales(g.scales, panel, first + group, kLanes));
  }
  const std::int64_t groups = g.scales.groups(g.padded_depth);
  const float* row_scale = g.math == Math::integer && first + count == groups ? scratch.row_scale : nullptr;
  return {g.scales.group / line_of(g.math).depth, scale, sums, first == 0, scratch.row_sums + first, groups, row_scale};
}

}  // namespace
}  // namespace switchyard
