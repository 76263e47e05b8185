// Every code and every scale against the definitions of the formats, in double.
#include "experts/weight_view.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "checkpoint_files.hpp"
#include "experts/packed.hpp"
#include "switchyard/experts.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace switchyard;
using namespace switchyard::testing;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A sign, `exponent_bits` biased by `bias`, `mantissa_bits`; exponent 0 has no leading one.
double minifloat(unsigned code, int exponent_bits, int mantissa_bits, int bias) {
  const auto mantissa = static_cast<double>(code & ((1U << mantissa_bits) - 1U)) / (1 << mantissa_bits);
  const auto exponent = static_cast<int>(code >> mantissa_bits & ((1U << exponent_bits) - 1U));
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias) : std::ldexp(1 + mantissa, exponent - bias);
  return (code >> (exponent_bits + mantissa_bits) & 1U) != 0 ? -magnitude : magnitude;
}

double e4m3(unsigned code) { return (code & 127U) == 127U ? kNan : minifloat(code, 4, 3, 7); }
double e2m1(unsigned code) { return minifloat(code, 2, 1, 1); }
double e8m0(unsigned code) { return code == 255U ? kNan : std::ldexp(1.0, static_cast<int>(code) - 127); }

double value_of(Codes codes, unsigned code) {
  switch (codes) {
    case Codes::plain:
      break;
    case Codes::i8:
      return static_cast<std::int8_t>(code);
    case Codes::u8:
      return static_cast<double>(code) - 128;
    case Codes::i4:
      return code < 8 ? code : static_cast<double>(code) - 16;
    case Codes::u4:
      return static_cast<double>(code) - 8;
    case Codes::f8_e4m3:
      return e4m3(code);
    case Codes::f4_e2m1:
      return e2m1(code);
  }
  return kNan;
}

// To nearest even, without relying on the conversion of double to float.
float rounded(double value) {
  if (std::isnan(value)) return std::numeric_limits<float>::quiet_NaN();
  if (value == 0) return static_cast<float>(value);
  int exponent = 0;
  std::frexp(value, &exponent);
  const int last = std::max(exponent - 24, -149);  // of the bit that stays
  const double whole = std::nearbyint(std::ldexp(value, -last));
  return std::abs(std::ldexp(whole, last)) > std::numeric_limits<float>::max()
             ? std::copysign(std::numeric_limits<float>::infinity(), static_cast<float>(value < 0 ? -1 : 1))
             : static_cast<float>(std::ldexp(whole, last));
}

// The same number, sign of zero included; any NaN is a NaN.
void expect_same(float found, float expected, const std::string& what) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(found)) << what << " is " << found;
  } else {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(found), std::bit_cast<std::uint32_t>(expected))
        << what << " is " << found << ", expected " << expected;
  }
}

constexpr Codes kAll[] = {Codes::i8, Codes::u8, Codes::i4, Codes::u4, Codes::f8_e4m3, Codes::f4_e2m1};

// All codes of a type in one row.
std::vector<std::uint8_t> all_codes(Codes codes) {
  std::vector<std::uint8_t> bytes(code_bits(codes) == 8 ? 256 : 8);
  std::iota(bytes.begin(), bytes.end(), std::uint8_t{0});
  if (code_bits(codes) == 4) {
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::uint8_t>(2 * i | (2 * i + 1) << 4);
  }
  return bytes;
}

WeightView row_view(const void* data, Codes codes, const void* scale, DType type) {
  WeightView view;
  view.data = data;
  view.codes = codes;
  view.scales = {.data = scale, .dtype = type, .out_block = kWholeBlock, .in_block = kWholeBlock};
  return view;
}

TEST(WeightView, EveryCodeOfEveryType) {
  const float one = 1;
  for (const Codes codes : kAll) {
    const std::vector<std::uint8_t> bytes = all_codes(codes);
    const WeightView view = row_view(bytes.data(), codes, &one, DType::f32);
    check_weight(view, "it");
    const auto count = static_cast<std::int64_t>(code_bits(codes) == 8 ? 256 : 16);
    std::vector<float> found(static_cast<std::size_t>(count));
    read_row(view, 0, 0, count, found.data());
    for (unsigned code = 0; code < static_cast<unsigned>(count); ++code) {
      expect_same(found[code], rounded(value_of(codes, code)), codes_name(codes) + std::to_string(code));
    }
  }
}

// The same from any input on, and one at a time.
TEST(WeightView, EveryCodeAlone) {
  const float one = 1;
  for (const Codes codes : kAll) {
    const std::vector<std::uint8_t> bytes = all_codes(codes);
    const WeightView view = row_view(bytes.data(), codes, &one, DType::f32);
    for (std::int64_t code = 0; code < (code_bits(codes) == 8 ? 256 : 16); ++code) {
      float found = 0;
      read_row(view, 0, code, 1, &found);
      expect_same(found, rounded(value_of(codes, static_cast<unsigned>(code))),
                  codes_name(codes) + std::to_string(code));
    }
  }
}

TEST(WeightView, EveryValueFunction) {
  for (unsigned code = 0; code < 256; ++code) {
    const auto byte = static_cast<std::uint8_t>(code);
    expect_same(f8_e4m3_value(byte), rounded(e4m3(code)), "e4m3 " + std::to_string(code));
    expect_same(f8_e8m0_value(byte), rounded(e8m0(code)), "e8m0 " + std::to_string(code));
    if (code < 16) expect_same(f4_e2m1_value(byte), rounded(e2m1(code)), "e2m1 " + std::to_string(code));
  }
  EXPECT_EQ(f8_e4m3_value(0x7e), 448.0F);
  EXPECT_EQ(f8_e4m3_value(0x01), 0x1p-9F);
  EXPECT_EQ(f8_e8m0_value(0), 0x1p-127F);
}

// Every scale of the 8-bit types with every code of the 4-bit and the e4m3 type: exact, or rounded once to a denormal.
void expect_all_scales(DType type, double (*value)(unsigned)) {
  std::vector<std::uint8_t> scales(256);
  std::iota(scales.begin(), scales.end(), std::uint8_t{0});
  for (const Codes codes : {Codes::f4_e2m1, Codes::f8_e4m3, Codes::i8}) {
    const std::vector<std::uint8_t> bytes = all_codes(codes);
    const auto count = static_cast<std::int64_t>(code_bits(codes) == 8 ? 256 : 16);
    std::vector<float> found(static_cast<std::size_t>(count));
    for (unsigned scale = 0; scale < 256; ++scale) {
      const WeightView view = row_view(bytes.data(), codes, &scales[scale], type);
      expect_same(scale_at(view, 0, 0), rounded(value(scale)), "scale " + std::to_string(scale));
      read_row(view, 0, 0, count, found.data());
      for (unsigned code = 0; code < static_cast<unsigned>(count); ++code) {
        expect_same(found[code], rounded(value_of(codes, code) * value(scale)),
                    codes_name(codes) + std::to_string(code) + " times " + std::to_string(scale));
      }
    }
  }
}

TEST(WeightView, EveryScaleE8m0) { expect_all_scales(DType::f8_e8m0, e8m0); }
TEST(WeightView, EveryScaleE4m3) { expect_all_scales(DType::f8_e4m3, e4m3); }

#if defined(__x86_64__)
TEST(WeightView, EveryScaleWhereTheThreadFlushesDenormals) {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040U);
  std::vector<float> found(16);
  std::vector<std::uint32_t> bits;
  const std::vector<std::uint8_t> codes = all_codes(Codes::f4_e2m1);
  for (int scale = 0; scale < 256; ++scale) {
    const auto byte = static_cast<std::uint8_t>(scale);
    read_row(row_view(codes.data(), Codes::f4_e2m1, &byte, DType::f8_e8m0), 0, 0, 16, found.data());
    for (const float value : found) bits.push_back(std::bit_cast<std::uint32_t>(value));
  }
  const float denormal = std::bit_cast<float>(3U);
  read_row(row_view(codes.data(), Codes::f4_e2m1, &denormal, DType::f32), 0, 1, 1, found.data());
  const auto half_of_three = std::bit_cast<std::uint32_t>(found[0]);
  _mm_setcsr(saved);
  for (unsigned i = 0; i < bits.size(); ++i) {
    expect_same(std::bit_cast<float>(bits[i]), rounded(e2m1(i % 16) * e8m0(i / 16)), std::to_string(i));
  }
  EXPECT_EQ(half_of_three, 2U);  // to even
}
#endif

TEST(WeightView, ScalesOfThePlainTypes) {
  const std::uint8_t code = 0x39;  // 1.125
  const std::uint16_t bf16 = 0x4049;
  const std::uint16_t f16 = 0x4248;
  const std::uint16_t small_f16 = 0x0001;
  const float f32 = 3.1415927F;
  const auto read = [&](const void* scale, DType type) {
    float found = 0;
    read_row(row_view(&code, Codes::f8_e4m3, scale, type), 0, 0, 1, &found);
    return found;
  };
  EXPECT_EQ(read(&bf16, DType::bf16), 1.125F * 3.140625F);
  EXPECT_EQ(read(&f16, DType::f16), 1.125F * 3.140625F);
  EXPECT_EQ(read(&small_f16, DType::f16), 1.125F * 0x1p-24F);
  EXPECT_EQ(read(&f32, DType::f32), rounded(1.125 * static_cast<double>(f32)));
}

// code · scale · factor is rounded once: rounding factor · scale first gives another number for some.
TEST(WeightView, TheFactorIsRoundedOnceWithTheRest) {
  std::mt19937 random(7);
  const std::vector<std::uint8_t> codes = all_codes(Codes::f4_e2m1);
  int differs = 0;
  for (int i = 0; i < 500; ++i) {
    const auto scale = static_cast<std::uint8_t>(random() % 127);
    const float factor = std::ldexp(static_cast<float>(random() % 0x1000000U), -36);
    WeightView view = row_view(codes.data(), Codes::f4_e2m1, &scale, DType::f8_e4m3);
    view.scales.factor = factor;
    std::vector<float> found(16);
    read_row(view, 0, 0, 16, found.data());
    EXPECT_EQ(scale_at(view, 0, 0), rounded(e4m3(scale)));
    for (unsigned code = 0; code < 16; ++code) {
      expect_same(found[code], rounded(e2m1(code) * e4m3(scale) * static_cast<double>(factor)), std::to_string(code));
      const float twice = f4_e2m1_value(static_cast<std::uint8_t>(code)) * (f8_e4m3_value(scale) * factor);
      differs += twice != found[code] ? 1 : 0;
    }
  }
  EXPECT_GT(differs, 0);
}

// A matrix of blocks that do not divide it, read from every input on, in stretches of every length.
TEST(WeightView, BlocksThatDoNotDivideTheShape) {
  constexpr std::int64_t kOut = 13;
  constexpr std::int64_t kIn = 300;
  std::mt19937 random(3);
  std::vector<std::uint8_t> bytes(kOut * kIn);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() % 127);
  std::vector<float> scales(4 * 3);
  for (float& scale : scales) scale = static_cast<float>(random() % 1000) / 64;
  WeightView view = row_view(bytes.data(), Codes::f8_e4m3, scales.data(), DType::f32);
  view.out_stride = kIn;
  view.scales.out_stride = 3;
  view.scales.in_stride = 1;
  view.scales.out_block = 4;
  view.scales.in_block = 128;
  view.scales.first_out = 2;  // 2 + 12 is in the fourth block
  std::vector<float> row(kIn);
  for (std::int64_t out = 0; out < kOut; ++out) {
    for (std::int64_t in = 0; in < kIn; in += 37) {
      read_row(view, out, in, kIn - in, row.data());
      for (std::int64_t i = in; i < kIn; ++i) {
        const double code = e4m3(bytes[static_cast<std::size_t>(out * kIn + i)]);
        const double scale = scales[static_cast<std::size_t>((out + 2) / 4 * 3 + i / 128)];
        expect_same(row[static_cast<std::size_t>(i - in)], rounded(code * scale), std::to_string(out));
        ASSERT_EQ(scale_at(view, out, i), static_cast<float>(scale));
      }
    }
  }
}

// ---- codes of 4 bits in every place

constexpr std::int64_t kOuts = 24;
constexpr std::int64_t kIns = 40;

unsigned code_at(std::int64_t out, std::int64_t in) { return static_cast<unsigned>((out * 7 + in * 3 + in / 5) % 16); }

void put(std::vector<std::uint8_t>& bytes, std::int64_t at, unsigned code) {
  bytes[static_cast<std::size_t>(at / 2)] |= static_cast<std::uint8_t>(at % 2 == 0 ? code : code << 4);
}

void expect_codes(const WeightView& view, std::int64_t in_block, const std::vector<std::uint8_t>& zeros) {
  std::vector<std::uint8_t> codes(kIns);
  std::vector<float> row(kIns);
  for (std::int64_t out = 0; out < kOuts; ++out) {
    for (const std::int64_t in : {0, 1, 6, 39}) {
      read_codes(view, out, in, kIns - in, codes.data());
      read_row(view, out, in, kIns - in, row.data());
      for (std::int64_t i = in; i < kIns; ++i) {
        const int zero = zeros.empty() ? 8 : zeros[static_cast<std::size_t>(i / in_block * kOuts + out)];
        const int expected = static_cast<int>(code_at(out, i)) - zero;
        ASSERT_EQ(static_cast<std::int8_t>(codes[static_cast<std::size_t>(i - in)]), expected) << out << ' ' << i;
        ASSERT_EQ(row[static_cast<std::size_t>(i - in)], static_cast<float>(expected) * 2) << out << ' ' << i;
      }
    }
  }
}

TEST(WeightView, FourBitsAlongTheInputs) {
  std::vector<std::uint8_t> bytes(kOuts * kIns / 2);
  for (std::int64_t out = 0; out < kOuts; ++out) {
    for (std::int64_t in = 0; in < kIns; ++in) put(bytes, out * kIns + in, code_at(out, in));
  }
  const float two = 2;
  WeightView view = row_view(bytes.data(), Codes::u4, &two, DType::f32);
  view.out_stride = kIns;
  expect_codes(view, kIns, {});
}

// Rows of an odd number of codes begin in the middle of a byte.
TEST(WeightView, FourBitsInOddRows) {
  std::vector<std::uint8_t> bytes(kOuts * (kIns + 1) / 2);
  for (std::int64_t out = 0; out < kOuts; ++out) {
    for (std::int64_t in = 0; in < kIns; ++in) put(bytes, out * (kIns + 1) + in, code_at(out, in));
  }
  const float two = 2;
  WeightView view = row_view(bytes.data(), Codes::u4, &two, DType::f32);
  view.out_stride = kIns + 1;
  expect_codes(view, kIns, {});
}

TEST(WeightView, FourBitsTransposed) {
  std::vector<std::uint8_t> bytes(kOuts * kIns / 2);
  for (std::int64_t out = 0; out < kOuts; ++out) {
    for (std::int64_t in = 0; in < kIns; ++in) put(bytes, in * kOuts + out, code_at(out, in));
  }
  const float two = 2;
  WeightView view = row_view(bytes.data(), Codes::u4, &two, DType::f32);
  view.out_stride = 1;
  view.in_stride = kOuts;
  expect_codes(view, kIns, {});
}

// GPTQ: words [in / 8, out], zeros [in / group, out / 8] less one; 15 stands for a zero of 0.
TEST(WeightView, WordsAlongTheInputsWithZeros) {
  constexpr std::int64_t kGroup = 16;
  std::vector<std::uint8_t> bytes(kOuts * kIns / 2);
  for (std::int64_t out = 0; out < kOuts; ++out) {
    for (std::int64_t in = 0; in < kIns; ++in) {
      put(bytes, (in / 8 * kOuts + out) * 8 + in % 8, code_at(out, in));
    }
  }
  std::vector<std::uint8_t> zeros;
  std::vector<std::uint8_t> stored(3 * kOuts / 2);
  for (std::int64_t i = 0; i < 3 * kOuts; ++i) {
    zeros.push_back(static_cast<std::uint8_t>(i % 16));
    put(stored, i, static_cast<unsigned>(zeros.back() + 15) % 16);
  }
  const std::vector<float> twos(3 * kOuts, 2);
  WeightView view = row_view(bytes.data(), Codes::u4, twos.data(), DType::f32);
  view.out_stride = 8;
  view.in_stride = 8 * kOuts;
  view.in_run = 8;
  view.scales.out_stride = 1;
  view.scales.in_stride = kOuts;
  view.scales.out_block = 1;
  view.scales.in_block = kGroup;
  view.zeros = {stored.data(), 1, kOuts, 1};
  check_weight(view, "it");
  expect_codes(view, kGroup, zeros);
}

TEST(WeightView, CodesOfTheOtherTypesAsTheyAreStored) {
  const float one = 1;
  for (const Codes codes : kAll) {
    const std::vector<std::uint8_t> bytes = all_codes(codes);
    const auto count = static_cast<std::int64_t>(code_bits(codes) == 8 ? 256 : 16);
    std::vector<std::uint8_t> found(static_cast<std::size_t>(count));
    read_codes(row_view(bytes.data(), codes, &one, DType::f32), 0, 0, count, found.data());
    const bool number = codes != Codes::f8_e4m3 && codes != Codes::f4_e2m1;
    for (unsigned code = 0; code < static_cast<unsigned>(count); ++code) {
      const int expected = number ? static_cast<int>(value_of(codes, code)) : static_cast<int>(code);
      EXPECT_EQ(number ? static_cast<std::int8_t>(found[code]) : found[code], expected) << codes_name(codes);
    }
  }
}

// ---- what is refused

void expect_refused(const WeightView& view, std::string_view part) {
  expect_error(Code::invalid_argument, {"experts: it", part}, [&] { check_weight(view, "it"); });
}

TEST(WeightView, WhatIsNoWeight) {
  const std::uint8_t code = 0;
  const float one = 1;
  expect_refused({}, "has no data");
  expect_refused({&code, DType::i8}, "is i8, expected f32, bf16 or f16");
  const WeightView good = row_view(&code, Codes::f8_e4m3, &one, DType::f32);
  check_weight(good, "it");
  const auto with = [&](const auto& change) {
    WeightView view = good;
    change(view);
    return view;
  };
  expect_refused(with([](WeightView& view) { view.scales.data = nullptr; }), "is f8_e4m3 without scales");
  expect_refused(with([](WeightView& view) { view.scales.dtype = DType::i8; }), "scales in i8");
  expect_refused(with([](WeightView& view) { view.scales.in_block = 0; }), "blocks of");
  expect_refused(with([](WeightView& view) { view.scales.out_block = -1; }), "blocks of");
  expect_refused(with([](WeightView& view) { view.scales.first_out = -1; }), "after -1 outputs");
  expect_refused(with([](WeightView& view) { view.in_run = 0; }), "in runs of 0");
  expect_refused(with([](WeightView& view) { view.codes = static_cast<Codes>(7); }), "codes 7");
  expect_refused(with([&](WeightView& view) { view.zeros.data = &code; }), "expected zeros for u4 alone");
  expect_refused(with([](WeightView& view) {
                   view.codes = Codes::u4;
                   view.zeros.offset = 16;
                 }),
                 "offset 0..15");
  expect_refused(with([](WeightView& view) { view.codes = Codes::plain; }), "plain codes and scales");
}

TEST(WeightView, ExpertsArePackedFromCodes) {
  const std::vector<std::uint8_t> codes = {0x38, 0x40, 0xb8, 0x30};  // 1, 2, -1, 0.5
  const std::vector<float> plain = {1.5F, 3, -1.5F, 0.75F};
  const float scale = 1.5F;
  WeightView quantised = row_view(codes.data(), Codes::f8_e4m3, &scale, DType::f32);
  quantised.out_stride = 2;
  const WeightView same = {plain.data(), DType::f32, 2, 1};
  for (const Format format : {Format::f32, Format::bf16}) {
    const ExpertShape shape = {.experts = 1, .hidden = 2, .ffn = 2};
    const ExpertWeights a(shape, format, [&](std::int32_t) { return ExpertTensors{quantised, quantised, quantised}; });
    const ExpertWeights b(shape, format, [&](std::int32_t) { return ExpertTensors{same, same, same}; });
    ASSERT_EQ(a.bytes(), b.bytes());
    const auto bytes = static_cast<std::size_t>(a.packed().up.panel_bytes());
    EXPECT_EQ(std::memcmp(a.packed().up.matrix(0), b.packed().up.matrix(0), bytes), 0);
    EXPECT_EQ(std::memcmp(a.packed().down.matrix(0), b.packed().down.matrix(0), bytes), 0);
  }
}

}  // namespace
