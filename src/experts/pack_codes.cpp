// Packing the formats that have scales: codes that are kept, and rounding to them.
#include <xmmintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "cpu/float_mode_x86.hpp"
#include "cpu/parallel_for.hpp"
#include "experts/packed.hpp"
#include "experts/quantise.hpp"
#include "experts/source.hpp"
#include "experts/weight_view.hpp"

namespace switchyard {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t kChunk = 64;  // contraction steps that are converted at a time
constexpr float kLargestE4m3 = 448.0F;
constexpr float kLargestE2m1 = 6.0F;

bool has_codes_of(const WeightView& view, Format format) {
  switch (format) {
    case Format::i8:
      return view.codes == Codes::i8 || view.codes == Codes::u8;
    case Format::i4:
      return view.codes == Codes::i4 ||
             (view.codes == Codes::u4 && view.zeros.data == nullptr && view.zeros.offset == 8);
    case Format::f8_e4m3:
    case Format::mxfp8:
      return view.codes == Codes::f8_e4m3;
    default:
      return view.codes == Codes::f4_e2m1;
  }
}

std::uint8_t zero_code(Format format) {
  return static_cast<std::uint8_t>(format == Format::i8 ? 128 : format == Format::i4 ? 8 : 0);
}

// Of a group or block with this largest magnitude; as a number that the type of the scales has.
float scale_for(Format format, float largest, float factor) {
  if (!std::isfinite(largest)) {
    return kNan;
  }
  switch (format) {
    case Format::i8:
      return largest / 127.0F;
    case Format::i4:
      return std::bit_cast<float>(static_cast<std::uint32_t>(round_to_bf16(largest / 7.0F)) << 16);
    case Format::f8_e4m3:
      return largest / kLargestE4m3;
    case Format::mxfp8:
      return f8_e8m0_value(mx_scale(largest, 8));
    case Format::mxfp4:
      return f8_e8m0_value(mx_scale(largest, 2));
    default:
      return factor > 0.0F ? f8_e4m3_value(round_e4m3(largest / kLargestE2m1 / factor)) : 0.0F;
  }
}

// Values that share a scale; zeros where the scale is 0 or NaN.
void round_values(Format format, const float* values, float scale, std::int64_t count, std::uint8_t* to) {
  if (!(scale > 0.0F)) {
    std::fill_n(to, count, zero_code(format));
    return;
  }
  switch (format) {
    case Format::i8:
      std::transform(values, values + count, to, [=](float v) { return round_integer(v / scale, -127, 127, 128); });
      break;
    case Format::i4:
      std::transform(values, values + count, to, [=](float v) { return round_integer(v / scale, -8, 7, 8); });
      break;
    case Format::f8_e4m3:
    case Format::mxfp8:
      std::transform(values, values + count, to, [=](float v) { return round_e4m3(v / scale); });
      break;
    default:
      std::transform(values, values + count, to, [=](float v) { return round_e2m1(v / scale); });
      break;
  }
}

void keep_codes(Format format, const WeightView& view, std::int64_t feature, std::int64_t k, std::int64_t count,
                std::uint8_t* to) {
  read_codes(view, feature, k, count, to);
  if (is_integer(format)) {
    const std::uint8_t zero = zero_code(format);
    std::transform(to, to + count, to, [=](std::uint8_t code) { return static_cast<std::uint8_t>(code + zero); });
  }
}

bool has_nan(const std::uint8_t* codes, std::int64_t count) {
  return std::any_of(codes, codes + count, [](std::uint8_t code) { return (code & 0x7fU) == 0x7fU; });
}

void store_scale(DType dtype, float scale, std::byte* to) {
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  switch (dtype) {
    case DType::f32:
      *reinterpret_cast<float*>(to) = scale;
      break;
    case DType::bf16:
      *reinterpret_cast<std::uint16_t*>(to) = round_to_bf16(scale);
      break;
    case DType::f8_e8m0:
      *to = static_cast<std::byte>(scale != scale ? 255U : bits >> 23);
      break;
    default:
      *to = static_cast<std::byte>(scale != scale ? 0x7fU : round_e4m3(scale));
      break;
  }
}

using CodeChunk = std::array<std::array<std::uint8_t, kChunk>, kPanel>;

// [kPanel][kChunk] → `depth` steps of a panel, 4 or 8 codes in 32 bits.
void write_codes(const CodeChunk& chunk, std::int64_t depth, Format format, std::byte* to) {
  const bool halves = code_bits(format) == 4;
  const std::int64_t steps = halves ? 8 : 4;
  for (std::int64_t k = 0; k < depth; k += steps) {
    for (const auto& column : chunk) {
      for (std::int64_t i = k; i < k + 4; ++i) {
        const unsigned low = column[static_cast<std::size_t>(i)];
        const unsigned high = halves ? column[static_cast<std::size_t>(i + 4)] : 0U;
        *to++ = static_cast<std::byte>(low | high << 4);
      }
    }
  }
}

// Magnitudes of the parts of a row that share a scale; NaN if one is not finite.
void largest_of_row(const WeightView& view, std::int64_t feature, std::int64_t depth, std::int64_t group, float* to) {
  std::array<float, kChunk> values;
  for (std::int64_t k = 0; k < depth; k += group, ++to) {
    const std::int64_t end = std::min(depth, k + group);
    *to = 0.0F;
    for (std::int64_t at = k; at < end; at += kChunk) {
      const std::int64_t count = std::min(kChunk, end - at);
      read_row(view, feature, at, count, values.data());
      for (std::int64_t i = 0; i < count; ++i) {
        const float size = std::fabs(values[static_cast<std::size_t>(i)]);
        *to = !std::isfinite(size) ? kNan : size > *to ? size : *to;
      }
    }
  }
}

float larger(float a, float b) { return a != a || b != b ? kNan : a > b ? a : b; }

}  // namespace

PanelScales scales_like(Format format, const WeightView& like, std::int64_t depth, std::int64_t padded_depth) {
  const bool same = like.data != nullptr && has_codes_of(like, format);
  const std::int64_t block = same ? like.scales.in_block : 0;
  const std::int64_t group = same && block >= depth ? padded_depth : same && block % kDepth == 0 ? block : kScaleBlock;
  switch (format) {
    case Format::f32:
    case Format::bf16:
      return {};
    case Format::i8:
      return {padded_depth, DType::f32};
    case Format::i4:
      return {group, same && like.scales.dtype != DType::bf16 ? DType::f32 : DType::bf16};
    case Format::f8_e4m3:
      return {group, DType::f32};
    case Format::mxfp4:
    case Format::mxfp8:
      return {32, DType::f8_e8m0};
    default:
      return {16, DType::f8_e4m3, true};
  }
}

bool PackedMatrices::keeps(const WeightView& view) const {
  const WeightScales& scales = view.scales;
  const bool same_group = scales.in_block == scales_.group || (scales.in_block >= depth_ && scales_.group >= depth_);
  const bool same_type = scales_.dtype == DType::f32 || scales.dtype == scales_.dtype;
  return has_codes_of(view, format_) && same_group && same_type && (format_ == Format::nvfp4 || scales.factor == 1.0F);
}

// The largest magnitudes of blocks, and what follows from all of them.
void PackedMatrices::measure(Source& source, const Threads& threads) const {
  const std::int64_t blocks = (features_ + kScaleBlock - 1) / kScaleBlock;
  source.largest.resize(static_cast<std::size_t>(blocks * groups()));
  std::vector<float> rows(static_cast<std::size_t>(groups() * threads.count()));
  parallel_for(threads, blocks, [&](std::int64_t block, int worker) {
    float* row = rows.data() + worker * groups();
    float* to = source.largest.data() + block * groups();
    for (std::int64_t f = block * kScaleBlock; f < std::min(features_, (block + 1) * kScaleBlock); ++f) {
      largest_of_row(*source.view, f, depth_, scales_.group, row);
      std::transform(row, row + groups(), to, to, larger);
    }
  });
  if (format_ == Format::nvfp4) {
    float largest = 0.0F;  // of what is finite: NaN compares as not larger
    for (const float each : source.largest) {
      largest = each > largest ? each : largest;
    }
    source.factor = largest / (kLargestE2m1 * kLargestE4m3);
  }
}

std::array<PackedMatrices::Source, 2> PackedMatrices::look_at(const WeightView& view, const WeightView& up,
                                                              const Threads& threads) const {
  std::array<Source, 2> sources{Source{&view}, Source{&up}};
  if (!has_scales(format_)) {
    return sources;
  }
  const FloatMode mode(false);
  const bool blocks = format_ == Format::nvfp4 || (format_ == Format::f8_e4m3 && scales_.group == kScaleBlock);
  for (std::size_t i = 0; i < (gated_ ? 2U : 1U); ++i) {
    Source& source = sources[i];
    source.kept = keeps(*source.view);
    source.factor = source.kept ? source.view->scales.factor : 1.0F;
    if (!source.kept && blocks) {
      measure(source, threads);
    }
  }
  return sources;
}

// The scales of a feature, [groups].
void PackedMatrices::find_scales(const Source& source, std::int64_t feature, float* to) const {
  if (source.kept) {
    for (std::int64_t group = 0; group < groups(); ++group) {
      to[group] = group * scales_.group < depth_ ? scale_at(*source.view, feature, group * scales_.group) : 0.0F;
    }
    return;
  }
  std::fill_n(to, groups(), 0.0F);
  if (format_ == Format::f8_e4m3 && !source.largest.empty()) {
    std::copy_n(source.largest.data() + feature / kScaleBlock * groups(), groups(), to);
  } else {
    largest_of_row(*source.view, feature, depth_, scales_.group, to);
  }
  std::transform(to, to + groups(), to, [&](float largest) { return scale_for(format_, largest, source.factor); });
}

// Up to kChunk codes of a feature, from input k on; a NaN among them makes its scale NaN.
void PackedMatrices::find_codes(const Source& source, std::int64_t feature, std::int64_t k, float* scales,
                                std::uint8_t* to) const {
  const std::int64_t count = std::min(kChunk, depth_ - k);
  std::array<float, kChunk> values;
  if (source.kept) {
    keep_codes(format_, *source.view, feature, k, count, to);
  } else {
    read_row(*source.view, feature, k, count, values.data());
  }
  for (std::int64_t at = 0, run = 0; at < count; at += run) {
    const std::int64_t group = (k + at) / scales_.group;
    run = std::min(count - at, (group + 1) * scales_.group - k - at);
    if (!source.kept) {
      round_values(format_, values.data() + at, scales[group] * source.factor, run, to + at);
    } else if (code_bits(format_) == 8 && !is_integer(format_) && has_nan(to + at, run)) {
      scales[group] = kNan;  // a sum that meets a NaN is NaN, whatever else it meets
    }
  }
}

void PackedMatrices::pack_codes(const std::array<Source, 2>& sources, std::int64_t panel, float* scales,
                                std::byte* to) const {
  const auto source_of = [&](std::int64_t column) -> const Source& { return sources[is_up(column) ? 1 : 0]; };
  std::fill_n(scales, kPanel * groups(), 0.0F);
  for (std::int64_t column = 0; column < kPanel; ++column) {
    if (const std::int64_t feature = feature_of(panel, column); feature < features_) {
      find_scales(source_of(column), feature, scales + column * groups());
    }
  }
  CodeChunk chunk;
  std::byte* codes = to + scales_.end(padded_depth_);
  for (std::int64_t k = 0; k < depth_; k += kChunk) {
    for (std::int64_t column = 0; column < kPanel; ++column) {
      auto& out = chunk[static_cast<std::size_t>(column)];
      out.fill(zero_code(format_));
      if (const std::int64_t feature = feature_of(panel, column); feature < features_) {
        find_codes(source_of(column), feature, k, scales + column * groups(), out.data());
      }
    }
    write_codes(chunk, std::min(kChunk, padded_depth_ - k), format_, codes + k * kPanel * code_bits(format_) / 8);
  }
  for (std::int64_t i = 0; i < kPanel * groups(); ++i) {
    store_scale(scales_.dtype, scales[i % kPanel * groups() + i / kPanel], to + scales_.begin() + i * scales_.size());
  }
  for (std::int64_t lane = 0; scales_.has_factor && lane < kLanes; ++lane) {
    reinterpret_cast<float*>(to)[lane] = source_of(lane).factor;
  }
}

}  // namespace switchyard
