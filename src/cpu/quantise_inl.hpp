// What a GEMM reads of its rows, as 8-bit integers too, and what makes floats of their sums; part of a kernel file, see kernels_inl.hpp.

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

// What packed codes are more than they stand for.
constexpr std::int32_t code_offset(Format format) { return format == Format::i8 ? 128 : 8; }

// A row's scale is its largest magnitude / 127; NaN if the row has a NaN or an infinity.
inline float scale_of_row(const GemmArgs& g, const void* row, const float* factor) {
  V16 largest = V16::set(0.0F);
  V16 not_finite = V16::set(0.0F);
  for (std::int64_t k = 0; k < g.depth; k += kLanes) {
    const V16 value = load_row(g, row, factor, k);
    largest = V16::max(magnitude(value), largest);
    not_finite = V16::fma(value, V16::set(0.0F), not_finite);
  }
  return V16::largest(largest) / 127.0F + V16::sum(not_finite);
}

// Row r of a tile of `count` rows: the nearest integers to row / scale, ties to even, within ±127; zeros if the scale is 0
// or NaN. sums [groups] get the integers' sum times the codes' offset.
inline void quantise_row(const GemmArgs& g, const void* row, const float* factor, float scale, std::int64_t r,
                         std::int64_t count, float* tile, std::int32_t* sums) {
  const V16 magic = V16::set(12582912.0F);  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  const V16 divisor = V16::set(scale > 0.0F ? scale : 1.0F);
  const V16 kept = V16::set(scale > 0.0F ? 127.0F : 0.0F);
  alignas(64) float codes[kLanes];
  for (std::int64_t begin = 0; begin < g.padded_depth; begin += g.scales.group) {
    const std::int64_t end = begin + g.scales.group < g.padded_depth ? begin + g.scales.group : g.padded_depth;
    V16 sum = V16::set(0.0F);
    for (std::int64_t k = begin; k < end; k += kLanes) {
      const V16 quotient = V16::div(load_row(g, row, factor, k), divisor);
      const V16 bounded = V16::min(V16::max(quotient, negative(kept)), kept);
      const V16 code = V16::sub(V16::add(bounded, magic), magic);
      sum = V16::add(sum, code);
      V16::store(codes, code);
      const std::int64_t word = k / V::kWordSteps;
      V::store_steps(tile + (word / kWordBlock * count + r) * kWordBlock + word % kWordBlock, codes);
    }
    *sums++ = static_cast<std::int32_t>(V16::sum(sum)) * code_offset(g.format);
  }
}

// Adds the finished integer sums of a group, times its scale, to those of rows begin .. end; the first group starts them.
inline void join_group(const GemmArgs& g, const std::byte* panel, std::int64_t group, std::int64_t groups,
                       const float* words, const std::int32_t* row_sums, float* sums, std::int64_t begin,
                       std::int64_t end) {
  alignas(64) float scale[kPanel];
  decode_scales(g.scales, panel, group, scale);
  for (std::int64_t row = begin; row < end; ++row) {
    const float* excess = reinterpret_cast<const float*>(row_sums + row * groups + group);
    for (std::int64_t at = row * kPanel; at < (row + 1) * kPanel; at += V::kWidth) {
      const V::R value = V::difference(V::load(words + at), V::broadcast(excess));
      const V::R before = group == 0 ? V::zero() : V::load(sums + at);
      V::store(sums + at, V::fma(value, V::load(scale + at % kPanel), before));
    }
  }
}

// The finished chains times the rows' scales.
inline void scale_rows(const float* row_scale, float* sums, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const V16 scale = V16::set(row_scale[row]);
    for (std::int64_t at = row * kPanel; at < (row + 1) * kPanel; at += kLanes) {
      V16::store(sums + at, V16::mul(V16::load(sums + at), scale));
    }
  }
}

}  // namespace
}  // namespace switchyard
