// Formats with scales: what is packed, and that multiplying it is what docs/formats.md says.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "experts/weight_view.hpp"
#include "kernel_runs.hpp"
#include "made_layer.hpp"
#include "packed_values.hpp"

namespace {

using namespace switchyard;
using kernel_runs::kScaledFormats;
using kernel_runs::normal_values;

constexpr Format kFloatFormats[] = {Format::f8_e4m3, Format::mxfp4, Format::mxfp8, Format::nvfp4};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

WeightView plain(const std::vector<float>& weight, std::int64_t depth) { return {weight.data(), DType::f32, depth, 1}; }

PackedMatrices pack(const WeightView& view, std::int64_t features, std::int64_t depth, Format format) {
  PackedMatrices packed(1, features, depth, false, format);
  packed.pack(0, view, {}, Threads::pool(2));
  return packed;
}

// [features, depth] as they were packed.
std::vector<float> decoded(const PackedMatrices& packed) {
  std::vector<float> values;
  for (std::int64_t f = 0; f < packed.features(); ++f) {
    for (std::int64_t k = 0; k < packed.depth(); ++k) {
      values.push_back(packed_values::value(packed, f / 32, f % 32, k));
    }
  }
  return values;
}

float largest_of(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0F,
                         [](float a, float b) { return std::max(a, std::fabs(b)); });
}

// Makes nvfp4's factor a power of two: sums that are multiplied by it have the bits of sums of weights that were.
std::vector<float> with_even_factor(std::vector<float> weight) {
  weight[0] = std::ldexp(2688.0F, std::ilogb(largest_of(weight)) - 10);
  return weight;
}

constexpr std::int64_t kDepths[] = {1, 31, 33, 127, 128, 129, 200, 255, 256, 257, 416};
constexpr std::int64_t kFeatures[] = {1, 17, 37};
constexpr std::int64_t kRows[] = {1, 2, 3, 4, 5, 6, 7, 14, 40};

TEST(Formats, DecodedWeightsGiveTheBitsOfF32Weights) {
  const ExpertFunction silu;
  for (const Format format : kFloatFormats) {
    for (const std::int64_t depth : kDepths) {
      for (const std::int64_t features : kFeatures) {
        const auto weight = with_even_factor(normal_values(static_cast<std::size_t>(features * depth), 1));
        const auto same = decoded(pack(plain(weight, depth), features, depth, format));
        for (const std::int64_t rows : kRows) {
          const auto x = normal_values(static_cast<std::size_t>(rows * depth), 2);
          for (const ExpertFunction* function : {static_cast<const ExpertFunction*>(nullptr), &silu}) {
            EXPECT_EQ(
                kernel_runs::gemm(current_kernels(), Math::decoded, x, weight, depth, function, {.format = format}),
                kernel_runs::gemm(current_kernels(), Math::f32, x, same, depth, function))
                << format_name(format) << " depth " << depth << " features " << features << " rows " << rows;
          }
        }
      }
    }
  }
}

// Scales that leave f32's range when they meet what a decoded code is too large or too small by.
TEST(Formats, ScalesOfAnySizeGiveTheBitsOfF32Weights) {
  constexpr std::int64_t kDepth = 200;
  constexpr std::int64_t kWidth = 37;
  for (const Format format : kFloatFormats) {
    for (const int exponent : {-140, -115, -100, 9, 40, 118}) {
      auto weight = normal_values(static_cast<std::size_t>(kDepth * kWidth), 8);
      // Only some columns and groups, beside those of usual size.
      for (std::size_t i = 0; i < weight.size(); i += i % 7 == 0 ? 1 : 5) weight[i] = std::ldexp(weight[i], exponent);
      weight = with_even_factor(weight);
      const auto same = decoded(pack(plain(weight, kDepth), kWidth, kDepth, format));
      for (const std::int64_t rows : {1, 2, 4, 6, 14}) {
        auto x = normal_values(static_cast<std::size_t>(rows * kDepth), 9);
        for (float& value : x) value = std::ldexp(value, std::clamp(-exponent, -100, 100));
        EXPECT_EQ(kernel_runs::gemm(current_kernels(), Math::decoded, x, weight, kDepth, nullptr, {.format = format}),
                  kernel_runs::gemm(current_kernels(), Math::f32, x, same, kDepth, nullptr))
            << format_name(format) << " 2^" << exponent << " rows " << rows;
      }
    }
  }
}

// Elements that are too large or too small to scale sums instead of weights, alone or in all of a row.
TEST(Formats, RowsOfAnySizeGiveTheBitsOfF32Weights) {
  constexpr std::int64_t kDepth = 200;
  constexpr std::int64_t kWidth = 37;
  const auto weight = with_even_factor(normal_values(static_cast<std::size_t>(kDepth * kWidth), 8));
  for (const Format format : kFloatFormats) {
    const auto same = decoded(pack(plain(weight, kDepth), kWidth, kDepth, format));
    for (const std::int64_t rows : {1, 3}) {
      for (const int exponent : {-149, -130, -100, -60, 0, 19, 21, 100, 127}) {
        // What nvfp4 multiplies by its factor is larger than the output and has another range.
        if (format == Format::nvfp4 && std::abs(exponent) > 100) continue;
        for (const std::size_t step : {std::size_t{1}, std::size_t{97}}) {
          auto x = normal_values(static_cast<std::size_t>(rows * kDepth), 9);
          for (std::size_t i = 5; i < x.size(); i += step) x[i] = std::ldexp(x[i], exponent);
          EXPECT_EQ(kernel_runs::gemm(current_kernels(), Math::decoded, x, weight, kDepth, nullptr, {.format = format}),
                    kernel_runs::gemm(current_kernels(), Math::f32, x, same, kDepth, nullptr))
              << format_name(format) << " 2^" << exponent << " step " << step << " rows " << rows;
        }
      }
    }
  }
}

TEST(Formats, TheFactorOfNvfp4MultipliesTheSum) {
  for (const std::int64_t depth : kDepths) {
    constexpr std::int64_t kWidth = 37;
    const auto weight = normal_values(static_cast<std::size_t>(kWidth * depth), 13);
    const PackedMatrices packed = pack(plain(weight, depth), kWidth, depth, Format::nvfp4);
    std::vector<float> products;
    for (std::int64_t f = 0; f < kWidth; ++f) {
      for (std::int64_t k = 0; k < depth; ++k) {
        products.push_back(static_cast<float>(packed_values::code(packed, f / 32, f % 32, k) *
                                              packed_values::scale(packed, f / 32, f % 32, k)));
      }
    }
    const float factor = largest_of(weight) / 2688.0F;
    for (const std::int64_t rows : kRows) {
      const auto x = normal_values(static_cast<std::size_t>(rows * depth), 14);
      auto expected = kernel_runs::gemm(current_kernels(), Math::f32, x, products, depth, nullptr);
      for (std::uint32_t& bits : expected) {
        bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits) * factor);
      }
      EXPECT_EQ(
          kernel_runs::gemm(current_kernels(), Math::decoded, x, weight, depth, nullptr, {.format = Format::nvfp4}),
          expected)
          << "depth " << depth << " rows " << rows;
    }
  }
}

// Sums of mxfp4 are scaled instead of weights only until a scale of a panel forbids it: 2^121 / 2^-13 is not a float.
TEST(Formats, LargeScalesInOneBlockOfAPanelGiveTheBitsOfF32Weights) {
  constexpr std::int64_t kDepth = 416;
  constexpr std::int64_t kBlock = 128;
  for (std::int64_t panels = 1; panels <= 5; ++panels) {
    for (std::int64_t begin = 0; begin < kDepth; begin += kBlock) {
      for (const int exponent : {40, 118}) {
        auto weight = normal_values(static_cast<std::size_t>(panels * kPanel * kDepth), 8);
        for (float& value : weight) value = std::ldexp(value, -12);
        const std::int64_t column = (panels - 1) * kPanel + 5;
        for (std::int64_t k = begin; k < std::min(begin + kBlock, kDepth); ++k) {
          float& large = weight[static_cast<std::size_t>(column * kDepth + k)];
          large = std::ldexp(large, exponent + 12);
        }
        const auto same = decoded(pack(plain(weight, kDepth), panels * kPanel, kDepth, Format::mxfp4));
        for (const std::int64_t rows : {1, 2, 3, 6, 7}) {
          const auto x = normal_values(static_cast<std::size_t>(rows * kDepth), 9);
          EXPECT_EQ(kernel_runs::gemm(current_kernels(), Math::decoded, x, weight, kDepth, nullptr,
                                      {.format = Format::mxfp4}),
                    kernel_runs::gemm(current_kernels(), Math::f32, x, same, kDepth, nullptr))
              << "2^" << exponent << " from " << begin << " panels " << panels << " rows " << rows;
        }
      }
    }
  }
}

// Rows as the integers that the kernels multiply, and their scales.
struct IntegerRow {
  double scale = 0;
  std::vector<double> code;
  explicit IntegerRow(const float* row, std::int64_t depth) : code(static_cast<std::size_t>(depth)) {
    float largest = 0;
    for (std::int64_t k = 0; k < depth; ++k) largest = std::max(largest, std::fabs(row[k]));
    const float row_scale = largest / 127.0F;
    const float lift = row_scale < 0x1p-100F ? 0x1p100F : 1.0F;
    scale = row_scale;
    for (std::int64_t k = 0; k < depth && scale > 0; ++k) {
      const float value = std::nearbyint(row[k] * lift * (1.0F / (row_scale * lift)));
      code[static_cast<std::size_t>(k)] = std::clamp(value, -127.0F, 127.0F);
    }
  }
};

// Each output of x · weightᵀ is the sum of products of integers, times the scales.
void expect_integer_sums(const std::vector<float>& x, const std::vector<float>& weight, std::int64_t depth,
                         Format format) {
  constexpr double kDenormal = 0x1p-149;  // outputs that small are rounded to multiples of it
  const auto features = static_cast<std::int64_t>(weight.size()) / depth;
  const PackedMatrices packed = pack(plain(weight, depth), features, depth, format);
  const auto found = kernel_runs::gemm(current_kernels(), Math::integer, x, weight, depth, nullptr, {.format = format});
  const auto rows = static_cast<std::int64_t>(x.size()) / depth;
  for (std::int64_t r = 0; r < rows; ++r) {
    const IntegerRow row(x.data() + r * depth, depth);
    for (std::int64_t f = 0; f < features; ++f) {
      double sum = 0;
      double size = 0;
      for (std::int64_t k = 0; k < depth; ++k) {
        const double product = row.code[static_cast<std::size_t>(k)] * packed_values::code(packed, f / 32, f % 32, k) *
                               packed_values::scale(packed, f / 32, f % 32, k);
        sum += product;
        size += std::fabs(product);
      }
      float value = 0;
      std::memcpy(&value, &found[static_cast<std::size_t>(r * packed.out_width() + f)], 4);
      ASSERT_NEAR(value, sum * row.scale, size * row.scale * 1e-6 + kDenormal)
          << format_name(format) << " depth " << depth << " rows " << rows << " at " << r << ", " << f;
    }
  }
}

TEST(Formats, IntegersAreTheSumsOfWhatIsPacked) {
  for (const Format format : {Format::i8, Format::i4}) {
    for (const std::int64_t depth : kDepths) {
      for (const std::int64_t features : kFeatures) {
        const auto weight = normal_values(static_cast<std::size_t>(features * depth), 3);
        for (const std::int64_t rows : kRows) {
          expect_integer_sums(normal_values(static_cast<std::size_t>(rows * depth), 4), weight, depth, format);
        }
      }
    }
  }
}

// Down to scales that are denormal, and so coarse that x / scale passes 127.
TEST(Formats, TinyRowsBecomeIntegersToo) {
  constexpr std::int64_t kDepth = 200;
  const auto weight = normal_values(37 * kDepth, 3);
  for (const Format format : {Format::i8, Format::i4}) {
    for (const int exponent : {-94, -120, -138, -144}) {
      for (const std::int64_t rows : {1, 14}) {
        auto x = normal_values(static_cast<std::size_t>(rows * kDepth), 4);
        for (float& value : x) value = std::ldexp(value, exponent);
        if (exponent == -144) x[0] = std::ldexp(190.0F, -149);  // 190 / 127 is rounded to 1
        expect_integer_sums(x, weight, kDepth, format);
      }
    }
  }
}

void expect_bits_of_many(Math math, Format format, std::int64_t depth, std::int64_t panels) {
  constexpr std::int64_t kMany = 100;
  const auto x = normal_values(static_cast<std::size_t>(kMany * depth), 11);
  const auto weight = normal_values(static_cast<std::size_t>(panels * kPanel * depth), 12);
  const auto many = kernel_runs::gemm(current_kernels(), math, x, weight, depth, nullptr, {.format = format});
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 24, 25, 26, 27}) {
    const std::vector<float> few(x.begin(), x.begin() + rows * depth);
    const auto found = kernel_runs::gemm(current_kernels(), math, few, weight, depth, nullptr, {.format = format});
    ASSERT_TRUE(std::equal(found.begin(), found.end(), many.begin()))
        << format_name(format) << " math " << static_cast<int>(math) << " depth " << depth << " panels " << panels
        << " rows " << rows;
  }
}

// Few rows take several panels at once and what is left one by one; many take each by tiles.
TEST(Formats, FewRowsHaveTheBitsOfManyWhateverTheNumberOfPanels) {
  for (const Format format : kScaledFormats) {
    for (std::int64_t panels = 1; panels <= 9; ++panels) {
      expect_bits_of_many(math_of(format), format, 288, panels);
      if (!is_integer(format)) expect_bits_of_many(Math::scaled, format, 288, panels);
    }
  }
}

// Scales of more than 32 groups are not read at once, and groups side by side need not come out even: 33 of 128 with the
// last cut off, 132 of 32, 263 of 16.
TEST(Formats, FewRowsHaveTheBitsOfManyWhateverTheNumberOfGroups) {
  for (const std::int64_t depth : {160, 4200}) {
    for (const Format format : kScaledFormats) {
      expect_bits_of_many(is_integer(format) ? Math::integer : Math::scaled, format, depth, 2);
    }
  }
  constexpr std::int64_t kDepth = 4200;
  const auto weight = normal_values(5 * kDepth, 3);
  for (const std::int64_t rows : {1, 3, 7}) {
    expect_integer_sums(normal_values(static_cast<std::size_t>(rows * kDepth), 4), weight, kDepth, Format::i4);
  }
}

// Every weight is the nearest that its scale allows.
TEST(Formats, RoundingIsToTheNearestCode) {
  constexpr std::int64_t kDepth = 300;
  constexpr std::int64_t kWidth = 150;
  const auto weight = normal_values(kDepth * kWidth, 5);
  for (const Format format : kScaledFormats) {
    const PackedMatrices packed = pack(plain(weight, kDepth), kWidth, kDepth, format);
    for (std::int64_t f = 0; f < kWidth; ++f) {
      for (std::int64_t k = 0; k < kDepth; ++k) {
        const double scale =
            packed_values::scale(packed, f / 32, f % 32, k) * packed_values::factor(packed, f / 32, f % 32);
        const double exact = weight[static_cast<std::size_t>(f * kDepth + k)] / scale;
        const double code = packed_values::code(packed, f / 32, f % 32, k);
        const double most = format == Format::i8 ? 127 : format == Format::i4 ? 7 : code_bits(format) == 8 ? 448 : 6;
        const double bounded = std::min(std::max(exact, format == Format::i4 ? -8.0 : -most), most);
        const double size = std::fabs(bounded);
        const double step = is_integer(format)       ? 1
                            : code_bits(format) == 8 ? std::ldexp(1.0, std::max(std::ilogb(size), -6) - 3)
                                                     : std::ldexp(1.0, std::max(std::ilogb(size), 0) - 1);
        ASSERT_LE(std::fabs(code - bounded), step * 0.5001) << format_name(format) << " " << f << " " << k;
      }
    }
  }
}

// What the scales are, of weights that were plain.
TEST(Formats, ScalesFollowTheLargestWeight) {
  constexpr std::int64_t kDepth = 300;
  constexpr std::int64_t kWidth = 150;
  const auto weight = normal_values(kDepth * kWidth, 6);
  const auto largest = [&](std::int64_t from, std::int64_t to, std::int64_t k, std::int64_t end) {
    float size = 0;
    for (std::int64_t f = from; f < std::min(to, kWidth); ++f) {
      for (std::int64_t i = k; i < std::min(end, kDepth); ++i) {
        size = std::max(size, std::fabs(weight[static_cast<std::size_t>(f * kDepth + i)]));
      }
    }
    return size;
  };
  const float factor = largest_of(weight) / 2688.0F;
  for (const Format format : kScaledFormats) {
    const PackedMatrices packed = pack(plain(weight, kDepth), kWidth, kDepth, format);
    for (std::int64_t f = 0; f < kWidth; ++f) {
      for (std::int64_t k = 0; k < kDepth; ++k) {
        const double scale = packed_values::scale(packed, f / 32, f % 32, k);
        switch (format) {
          case Format::i8:
            ASSERT_EQ(scale, largest(f, f + 1, 0, kDepth) / 127.0F);
            break;
          case Format::i4:
            ASSERT_EQ(scale, made::round_bf16(largest(f, f + 1, k / 128 * 128, k / 128 * 128 + 128) / 7.0F));
            break;
          case Format::f8_e4m3:
            ASSERT_EQ(scale, largest(f / 128 * 128, f / 128 * 128 + 128, k / 128 * 128, k / 128 * 128 + 128) / 448.0F);
            break;
          case Format::nvfp4: {
            ASSERT_EQ(packed_values::factor(packed, f / 32, f % 32), factor);
            const double exact = largest(f, f + 1, k / 16 * 16, k / 16 * 16 + 16) / 6.0 / factor;
            ASSERT_LE(std::fabs(scale - exact), std::max(exact / 15.9, 0x1p-10));
            break;
          }
          default: {
            const int most = format == Format::mxfp4 ? 2 : 8;
            ASSERT_EQ(scale, std::ldexp(1.0, std::ilogb(largest(f, f + 1, k / 32 * 32, k / 32 * 32 + 32)) - most));
            break;
          }
        }
      }
    }
  }
}

// Rows of zeros, of NaN and of infinities, and the rows beside them.
TEST(Formats, RowsThatHaveNoIntegersAreDefined) {
  constexpr std::int64_t kDepth = 50;
  const auto weight = normal_values(40 * kDepth, 9);
  for (const Format format : {Format::i8, Format::i4}) {
    auto x = normal_values(6 * kDepth, 10);
    const auto usual =
        kernel_runs::gemm(current_kernels(), Math::integer, x, weight, kDepth, nullptr, {.format = format});
    std::fill_n(x.begin() + kDepth, kDepth, 0.0F);
    x[2 * kDepth + 49] = kNan;
    x[3 * kDepth] = -kInf;
    std::fill_n(x.begin() + 4 * kDepth, kDepth, 1e-45F);  // the scale is 0
    const auto found =
        kernel_runs::gemm(current_kernels(), Math::integer, x, weight, kDepth, nullptr, {.format = format});
    const std::size_t width = found.size() / 6;
    for (std::size_t f = 0; f < 40; ++f) {
      EXPECT_EQ(found[f], usual[f]);
      EXPECT_EQ(found[width + f], 0U);
      EXPECT_EQ(found[2 * width + f], 0x7fc00000U);
      EXPECT_EQ(found[3 * width + f], 0x7fc00000U);
      EXPECT_EQ(found[4 * width + f] & 0x7fffffffU, 0U);
      EXPECT_EQ(found[5 * width + f], usual[5 * width + f]);
    }
  }
}

TEST(Formats, WeightsThatAreNotFiniteMakeTheirGroupNan) {
  constexpr std::int64_t kDepth = 200;
  for (const Format format : kScaledFormats) {
    for (const float bad : {kNan, kInf, -kInf}) {
      auto weight = normal_values(70 * kDepth, 11);
      weight[40 * kDepth + 190] = bad;
      const auto x = normal_values(kDepth, 12);
      for (const DType activations : {DType::f32, DType::bf16}) {
        const Math math = math_of(format, activations);
        const auto found = kernel_runs::gemm(current_kernels(), math, x, weight, kDepth, nullptr, {.format = format});
        for (std::size_t f = 0; f < 70; ++f) {
          const bool nan = found[f] == 0x7fc00000U;
          EXPECT_EQ(nan, format == Format::f8_e4m3 || f == 40) << format_name(format) << " " << f;
        }
      }
    }
  }
}

TEST(Formats, TooManyInputsForAnIntegerAreRefused) {
  EXPECT_THROW(PackedMatrices(1, 1, 131073, false, Format::i8), Error);
  EXPECT_NO_THROW(PackedMatrices(1, 1, 131072, false, Format::i8));
}

// The largest sums that the limit allows, of both signs.
TEST(Formats, TheLargestIntegerSumsAreExact) {
  constexpr std::int64_t kDepth = 131072;
  std::vector<float> weight(2 * kDepth, 1.0F);
  std::fill_n(weight.begin() + kDepth, kDepth, -1.0F);
  const std::vector<float> x(kDepth, 1.0F);
  const auto found =
      kernel_runs::gemm(current_kernels(), Math::integer, x, weight, kDepth, nullptr, {.format = Format::i8});
  const double scale = 1.0F / 127.0F;
  const auto expected = static_cast<float>(127.0 * 127.0 * kDepth * scale * scale);
  for (std::size_t f = 0; f < 2; ++f) {
    float value = 0;
    std::memcpy(&value, &found[f], 4);
    EXPECT_NEAR(value, f == 0 ? expected : -expected, expected * 1e-6);
  }
}

}  // namespace
