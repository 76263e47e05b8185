// Codes and scales of a format that a weight has already: they are packed as they are, however they are stored.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "experts/weight_view.hpp"
#include "kernel_runs.hpp"
#include "packed_values.hpp"

namespace {

using namespace switchyard;
using kernel_runs::normal_values;

constexpr std::int64_t kDepth = 416;
constexpr std::int64_t kWidth = 75;

// How a checkpoint stores a weight [kWidth, kDepth].
struct Stored {
  Format format;
  Codes codes;
  std::int64_t group;
  DType scale_type;
  std::int64_t out_block = 1;
  std::int64_t run = 1;  // of inputs, as WeightView::in_run
};

constexpr Stored kStored[] = {
    {Format::f8_e4m3, Codes::f8_e4m3, 128, DType::f32, 128},
    {Format::f8_e4m3, Codes::f8_e4m3, 128, DType::bf16, 128},
    {Format::f8_e4m3, Codes::f8_e4m3, 128, DType::f8_e8m0, 128},
    {Format::f8_e4m3, Codes::f8_e4m3, 32, DType::f8_e8m0},
    {Format::f8_e4m3, Codes::f8_e4m3, kDepth, DType::f32},
    {Format::f8_e4m3, Codes::f8_e4m3, kWholeBlock, DType::f32, kWholeBlock},
    {Format::mxfp8, Codes::f8_e4m3, 32, DType::f8_e8m0},
    {Format::mxfp4, Codes::f4_e2m1, 32, DType::f8_e8m0},
    {Format::nvfp4, Codes::f4_e2m1, 16, DType::f8_e4m3},
    {Format::i4, Codes::i4, 32, DType::bf16},
    {Format::i4, Codes::i4, 128, DType::f32},
    {Format::i4, Codes::u4, 32, DType::bf16},
    {Format::i4, Codes::u4, 128, DType::bf16},
    {Format::i4, Codes::u4, kWholeBlock, DType::bf16},
    {Format::i4, Codes::u4, 32, DType::f16, 1, 8},
    {Format::i4, Codes::u4, 128, DType::f16, 1, 8},
    {Format::i8, Codes::i8, kDepth, DType::bf16},
    {Format::i8, Codes::i8, kWholeBlock, DType::f32},
    {Format::i8, Codes::u8, kWholeBlock, DType::bf16},
    {Format::i8, Codes::u8, kWholeBlock, DType::f16, 1, 4},
};

std::string name_of(const Stored& stored) {
  return std::string(format_name(stored.format)) + " from " + codes_name(stored.codes) + ", groups of " +
         std::to_string(stored.group) + " with scales in " + dtype_name(stored.scale_type);
}

class Weight {
 public:
  // With `every_code`, NaN among them where there are any; the factor is nvfp4's.
  Weight(const Stored& stored, bool every_code, float factor = 0.37F) : stored_(stored) {
    const bool halves = code_bits(stored.format) == 4;
    codes_.resize(kWidth * kDepth / (halves ? 2 : 1));
    for (std::size_t i = 0; i < codes_.size(); ++i) {
      codes_[i] = static_cast<std::uint8_t>(i * 37 % 256);
      if (!every_code && stored.codes == Codes::f8_e4m3 && (codes_[i] & 127) == 127) codes_[i] = 1;
    }
    make_scales(every_code);
    view_.data = codes_.data();
    view_.out_stride = stored.run == 1 ? kDepth : stored.run;
    view_.in_stride = stored.run == 1 ? 1 : stored.run * kWidth;
    view_.in_run = stored.run;
    view_.codes = stored.codes;
    view_.scales = {scales_.data(), stored.scale_type, columns(), 1, stored.out_block, stored.group};
    view_.scales.factor = stored.format == Format::nvfp4 ? factor : 1.0F;
  }

  const WeightView& view() const { return view_; }
  const Stored& stored() const { return stored_; }

  // The number that the code of an element stands for.
  double code(std::int64_t f, std::int64_t k) const {
    const std::int64_t at = f * view_.out_stride + k / stored_.run * view_.in_stride + k % stored_.run;
    const auto byte = [&](std::int64_t i) { return static_cast<int>(codes_[static_cast<std::size_t>(i)]); };
    const int half = code_bits(stored_.format) == 4 ? byte(at / 2) >> (at % 2 * 4) & 15 : 0;
    switch (stored_.codes) {
      case Codes::i8:
        return static_cast<std::int8_t>(byte(at));
      case Codes::u8:
        return byte(at) - 128;
      case Codes::i4:
        return half < 8 ? half : half - 16;
      case Codes::u4:
        return half - 8;
      case Codes::f8_e4m3:
        return packed_values::e4m3_value(static_cast<unsigned>(byte(at)));
      default:
        return packed_values::e2m1_value(static_cast<unsigned>(half));
    }
  }

  double scale(std::int64_t f, std::int64_t k) const {
    const std::int64_t at = f / stored_.out_block * columns() + k / stored_.group;
    switch (stored_.scale_type) {
      case DType::f8_e8m0:
        return packed_values::e8m0_value(elements::load<std::uint8_t>(scales_.data(), at));
      case DType::f8_e4m3:
        return packed_values::e4m3_value(elements::load<std::uint8_t>(scales_.data(), at));
      default:
        return elements::value_at({scales_.data(), stored_.scale_type}, at);
    }
  }

  // Whether a code that shares the packed scale of this one is NaN.
  bool meets_nan(std::int64_t f, std::int64_t k) const {
    const std::int64_t begin = k / stored_.group * stored_.group;
    const std::int64_t end = stored_.group < kDepth ? std::min(kDepth, begin + stored_.group) : kDepth;
    for (std::int64_t i = begin; i < end; ++i) {
      if (std::isnan(code(f, i))) return true;
    }
    return false;
  }

 private:
  std::int64_t columns() const { return (kDepth - 1) / stored_.group + 1; }

  void make_scales(bool every_code) {
    std::mt19937 random(7);
    const std::int64_t count = ((kWidth - 1) / stored_.out_block + 1) * columns();
    for (std::int64_t i = 0; i < count; ++i) {
      const auto byte = static_cast<std::uint8_t>(random());
      const float number = std::uniform_real_distribution<float>(0.001F, 0.01F)(random);
      switch (stored_.scale_type) {
        case DType::f32:
          elements::append(scales_, number);
          break;
        case DType::bf16:
          elements::append(scales_, elements::bf16_bits(number));
          break;
        case DType::f16:
          elements::append(scales_, elements::f16_bits(number));
          break;
        case DType::f8_e8m0:
          elements::append(scales_, static_cast<std::uint8_t>(every_code ? i : 100 + byte % 40));
          break;
        default:
          elements::append(scales_, static_cast<std::uint8_t>(every_code ? i : byte % 127));
      }
    }
  }

  Stored stored_;
  std::vector<std::uint8_t> codes_;
  std::vector<std::byte> scales_;
  WeightView view_;
};

TEST(KeptCodes, ArePackedWithTheirScales) {
  for (const Stored& stored : kStored) {
    for (const bool every_code : {false, true}) {
      SCOPED_TRACE(name_of(stored));
      const Weight weight(stored, every_code);
      PackedMatrices packed(1, kWidth, kDepth, false, stored.format);
      packed.pack(0, weight.view(), {}, Threads::pool(2));
      EXPECT_EQ(packed.scales().group, std::min(stored.group, kDepth));
      for (std::int64_t f = 0; f < kWidth; ++f) {
        EXPECT_EQ(packed_values::factor(packed, f / 32, f % 32), weight.view().scales.factor);
        for (std::int64_t k = 0; k < kDepth; ++k) {
          const double scale = packed_values::scale(packed, f / 32, f % 32, k);
          if (weight.meets_nan(f, k)) {
            ASSERT_TRUE(std::isnan(scale));
          } else if (std::isnan(weight.scale(f, k))) {
            ASSERT_TRUE(std::isnan(scale));
          } else {
            ASSERT_EQ(scale, weight.scale(f, k)) << "at " << f << ", " << k;
            ASSERT_EQ(packed_values::code(packed, f / 32, f % 32, k), weight.code(f, k)) << "at " << f << ", " << k;
          }
        }
      }
    }
  }
}

// nvfp4's factor multiplies sums: with the bits of multiplied weights if it is a power of two.
TEST(KeptCodes, OfFloatsGiveTheBitsOfTheirValues) {
  const auto x = normal_values(7 * kDepth, 8);
  for (const Stored& stored : kStored) {
    if (is_integer(stored.format)) continue;
    for (const bool every_code : {false, true}) {
      const Weight weight(stored, every_code, 0.125F);
      std::vector<float> values(kWidth * kDepth);
      for (std::int64_t f = 0; f < kWidth; ++f) {
        read_row(weight.view(), f, 0, kDepth, values.data() + f * kDepth);
      }
      EXPECT_EQ(kernel_runs::gemm(current_kernels(), Math::decoded, x, weight.view(), kWidth, kDepth, nullptr,
                                  {.format = stored.format}),
                kernel_runs::gemm(current_kernels(), Math::f32, x, values, kDepth))
          << name_of(stored) << every_code;
    }
  }
}

// Zeros of their own are no part of int4, nor other groups than multiples of 32; int8 has no groups.
TEST(KeptCodes, WhatTheFormatHasNotIsRoundedAnew) {
  const std::vector<std::uint8_t> zeros(kWidth * kDepth, 0x99);  // of 4 bits, at least one per scale
  for (const Stored& stored : {Stored{Format::i4, Codes::u4, 128, DType::bf16},
                               {Format::i4, Codes::u4, 16, DType::f16, 1, 8},
                               {Format::i8, Codes::u8, 128, DType::f16, 1, 4}}) {
    SCOPED_TRACE(name_of(stored));
    const Weight weight(stored, false);
    WeightView view = weight.view();
    if (stored.run == 1) view.zeros = {zeros.data(), view.scales.out_stride, 1, 0};
    std::vector<float> values(kWidth * kDepth);
    for (std::int64_t f = 0; f < kWidth; ++f) read_row(view, f, 0, kDepth, values.data() + f * kDepth);
    PackedMatrices found(1, kWidth, kDepth, false, stored.format);
    found.pack(0, view, {}, Threads::pool(2));
    PackedMatrices expected(1, kWidth, kDepth, false, stored.format);
    expected.pack(0, {values.data(), DType::f32, kDepth, 1}, {}, Threads::pool(2));
    EXPECT_EQ(found.scales().group, expected.scales().group);
    for (std::int64_t f = 0; f < kWidth; ++f) {
      for (std::int64_t k = 0; k < kDepth; ++k) {
        ASSERT_EQ(packed_values::value(found, f / 32, f % 32, k), packed_values::value(expected, f / 32, f % 32, k));
      }
    }
  }
}

}  // namespace
