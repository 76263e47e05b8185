// Codes of floats times bf16 rows: each output has the bits that docs/numerics.md defines, here once more in scalar code.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "experts/weight_view.hpp"
#include "kernel_runs.hpp"
#include "made_layer.hpp"
#include "packed_values.hpp"

namespace {

using namespace switchyard;
using kernel_runs::normal_values;

constexpr Format kFloatFormats[] = {Format::f8_e4m3, Format::mxfp8, Format::mxfp4, Format::nvfp4};

// Row [depth] times feature `feature`.
float expected_sum(const PackedMatrices& packed, const float* row, std::int64_t feature) {
  const std::int64_t panel = feature / kPanel;
  const std::int64_t column = feature % kPanel;
  const auto x = [&](std::int64_t k) {
    return k < packed.depth() ? static_cast<float>(made::round_bf16(row[k])) : 0.0F;
  };
  const auto code = [&](std::int64_t k) { return static_cast<float>(packed_values::code(packed, panel, column, k)); };
  float total = 0;
  for (std::int64_t begin = 0; begin < packed.padded_depth(); begin += packed.scales().group) {
    const std::int64_t end = std::min(begin + packed.scales().group, packed.padded_depth());
    float sum = 0;
    for (std::int64_t k = begin; k < end; k += 2) {
      sum = std::fma(x(k + 1), code(k + 1), sum);
      sum = std::fma(x(k), code(k), sum);
    }
    total = std::fma(sum, static_cast<float>(packed_values::scale(packed, panel, column, begin)), total);
  }
  return packed.format() == Format::nvfp4 ? total * static_cast<float>(packed_values::factor(packed, panel, column))
                                          : total;
}

void expect_sums(const std::vector<float>& x, const WeightView& view, std::int64_t features, std::int64_t depth,
                 Format format, const std::string& what) {
  PackedMatrices packed(1, features, depth, false, format);
  packed.pack(0, view, {}, Threads::pool(2));
  const auto found =
      kernel_runs::gemm(current_kernels(), Math::scaled, x, view, features, depth, nullptr, {.format = format});
  const std::int64_t rows = static_cast<std::int64_t>(x.size()) / depth;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t f = 0; f < features; ++f) {
      const float sum = expected_sum(packed, x.data() + r * depth, f);
      const std::uint32_t bits = std::isnan(sum) ? 0x7fc00000U : std::bit_cast<std::uint32_t>(sum);
      ASSERT_EQ(found[static_cast<std::size_t>(r * packed.out_width() + f)], bits)
          << what << ", row " << r << " of " << rows << ", feature " << f << " of " << features;
    }
  }
}

TEST(ScaledSums, AreThoseOfGroupsInPairs) {
  for (const Format format : kFloatFormats) {
    for (const std::int64_t depth : {1, 31, 33, 128, 200, 257, 416, 1090}) {
      for (const std::int64_t features : {1, 17, 70}) {
        const auto weight = normal_values(static_cast<std::size_t>(features * depth), 1);
        // Every height of a tile, one tile, two and several.
        for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 24, 26, 27, 40}) {
          expect_sums(normal_values(static_cast<std::size_t>(rows * depth), 2), {weight.data(), DType::f32, depth, 1},
                      features, depth, format, std::string(format_name(format)) + " of depth " + std::to_string(depth));
        }
      }
    }
  }
}

// Every code, and scales from the smallest to the largest; NaN among both.
TEST(ScaledSums, TakeEveryCodeAndScaleThatWasKept) {
  constexpr std::int64_t kDepth = 416;
  constexpr std::int64_t kFeatures = 75;
  struct Kept {
    Format format;
    std::int64_t group;
    DType scale_type;
  };
  constexpr Kept kKept[] = {{Format::f8_e4m3, 32, DType::f32},     {Format::f8_e4m3, 64, DType::f32},
                            {Format::f8_e4m3, 96, DType::f32},     {Format::f8_e4m3, 128, DType::f32},
                            {Format::f8_e4m3, 160, DType::f32},    {Format::f8_e4m3, 288, DType::f32},
                            {Format::f8_e4m3, kDepth, DType::f32}, {Format::f8_e4m3, 128, DType::f8_e8m0},
                            {Format::mxfp8, 32, DType::f8_e8m0},   {Format::mxfp4, 32, DType::f8_e8m0},
                            {Format::nvfp4, 16, DType::f8_e4m3}};
  for (const Kept& kept : kKept) {
    const bool halves = code_bits(kept.format) == 4;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(kFeatures * kDepth / (halves ? 2 : 1)));
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::uint8_t>(i * 37 % 256);
      if (!halves && (codes[i] & 127) == 127 && i % 1024 != 0) codes[i] = 1;  // few that are NaN
    }
    const std::int64_t groups = (kDepth - 1) / kept.group + 1;
    std::vector<std::byte> scales;
    for (std::int64_t i = 0; i < kFeatures * groups; ++i) {
      if (kept.scale_type == DType::f32) {
        elements::append(scales, std::ldexp(1.0F + static_cast<float>(i % 7) / 7, static_cast<int>(i % 250) - 125));
      } else {
        const auto least = static_cast<std::int64_t>(kept.scale_type == DType::f8_e8m0);  // 2^-127 is denormal
        elements::append(scales, static_cast<std::uint8_t>(least + i % (256 - least)));
      }
    }
    const Codes type = halves ? Codes::f4_e2m1 : Codes::f8_e4m3;
    WeightView view{codes.data(), DType::f32, kDepth, 1};
    view.codes = type;
    view.scales = {scales.data(), kept.scale_type, groups, 1, 1, kept.group};
    view.scales.factor = kept.format == Format::nvfp4 ? 0.37F : 1.0F;
    for (const std::int64_t rows : {1, 3, 8, 13, 30}) {
      expect_sums(normal_values(static_cast<std::size_t>(rows * kDepth), 3), view, kFeatures, kDepth, kept.format,
                  std::string(format_name(kept.format)) + ", groups of " + std::to_string(kept.group));
    }
  }
}

TEST(ScaledSums, RowsThatAreNotFiniteTouchNoOtherRow) {
  constexpr std::int64_t kDepth = 70;
  constexpr std::int64_t kFeatures = 40;
  const auto weight = normal_values(kFeatures * kDepth, 4);
  for (const Format format : kFloatFormats) {
    for (const std::int64_t rows : {3, 9, 30}) {
      auto x = normal_values(static_cast<std::size_t>(rows * kDepth), 5);
      x[kDepth + 3] = std::numeric_limits<float>::infinity();
      x[2 * kDepth + 69] = std::numeric_limits<float>::quiet_NaN();
      expect_sums(x, {weight.data(), DType::f32, kDepth, 1}, kFeatures, kDepth, format, format_name(format));
    }
  }
}

}  // namespace
