// f16 in the vocabularies of the kernels, against the format's definition in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "f16_conversions.hpp"
#include "switchyard/cpu.hpp"

extern const F16Conversions kF16_plain;
extern const F16Conversions kF16_avx2;
extern const F16Conversions kF16_avx512;
extern const F16Conversions kF16_emulated;

namespace {

using namespace switchyard;

constexpr std::size_t kLanes = 16;

// IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction.
double value_of(std::uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  const double sign = (half & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

// The finite f16 nearest to a positive value, the even one of two; infinity from the middle of 65504 and 65536 on.
std::uint16_t nearest(double value) {
  if (value >= 65520.0) {
    return 0x7c00;
  }
  // Patterns of positive values ascend with them.
  std::uint16_t low = 0;
  std::uint16_t high = 0x7bff;
  while (low < high) {
    const auto middle = static_cast<std::uint16_t>((low + high + 1) / 2);
    if (value_of(middle) <= value) {
      low = middle;
    } else {
      high = static_cast<std::uint16_t>(middle - 1);
    }
  }
  const double below = value - value_of(low);
  const double above = (low == 0x7bff ? 65536.0 : value_of(static_cast<std::uint16_t>(low + 1))) - value;
  return static_cast<std::uint16_t>(below < above || (below == above && low % 2 == 0) ? low : low + 1);
}

struct Vocabulary {
  const char* name;
  const F16Conversions* conversions;
  Isa needs;
};

class F16 : public testing::TestWithParam<Vocabulary> {
 protected:
  void SetUp() override {
    const auto sets = available_isas();
    if (std::find(sets.begin(), sets.end(), GetParam().needs) == sets.end()) {
      GTEST_SKIP() << "this machine has no " << isa_name(GetParam().needs);
    }
  }

  static std::vector<std::uint16_t> narrow(std::vector<float> values) {
    values.resize((values.size() + kLanes - 1) / kLanes * kLanes);
    std::vector<std::uint16_t> halves(values.size());
    for (std::size_t i = 0; i < values.size(); i += kLanes) {
      GetParam().conversions->narrow(&values[i], &halves[i]);
    }
    return halves;
  }
};

TEST_P(F16, EveryPatternWidensExactly) {
  for (std::uint32_t first = 0; first < 65536; first += kLanes) {
    std::array<std::uint16_t, kLanes> half;
    std::array<float, kLanes> value;
    for (std::size_t i = 0; i < kLanes; ++i) {
      half[i] = static_cast<std::uint16_t>(first + i);
    }
    GetParam().conversions->widen(half.data(), value.data());
    for (std::size_t i = 0; i < kLanes; ++i) {
      const double expected = value_of(half[i]);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value[i])) << half[i];
      } else {
        ASSERT_EQ(value[i], expected) << half[i];
        ASSERT_EQ(std::signbit(value[i]), std::signbit(expected)) << half[i];
      }
    }
  }
}

TEST_P(F16, EveryValueComesBack) {
  std::vector<float> values(65536);
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(value_of(static_cast<std::uint16_t>(i)));
  }
  const std::vector<std::uint16_t> halves = narrow(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) {
      ASSERT_TRUE(std::isnan(value_of(halves[i]))) << i;
    } else {
      ASSERT_EQ(halves[i], i);
    }
  }
}

// Around every f16, every middle of two and the borders of the range: the f32 itself and its neighbours.
TEST_P(F16, NarrowingRoundsToNearestEven) {
  std::vector<float> values{
      std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::min(), 65519.996F, 65520.0F, 65536.0F, 1e9F,
      std::numeric_limits<float>::max()};
  for (std::uint16_t half = 0; half < 0x7bff; ++half) {
    const double here = value_of(half);
    const double next = value_of(static_cast<std::uint16_t>(half + 1));
    for (const double point : {here, (here + next) / 2}) {
      const auto value = static_cast<float>(point);
      values.push_back(value);
      values.push_back(std::nextafter(value, std::numeric_limits<float>::infinity()));
      values.push_back(std::nextafter(value, 0.0F));
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random() & 0x7fffffffU));
    if (std::isfinite(value)) {
      values.push_back(value);
    }
  }
  std::vector<float> negative(values);
  for (float& value : negative) {
    value = -value;
  }
  const std::vector<std::uint16_t> halves = narrow(values);
  const std::vector<std::uint16_t> negative_halves = narrow(negative);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t expected = nearest(values[i]);
    ASSERT_EQ(halves[i], expected) << values[i];
    ASSERT_EQ(negative_halves[i], expected | 0x8000) << -values[i];
  }
}

TEST_P(F16, InfinitiesAndNanStay) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  // The last two have their fraction below what f16 keeps.
  const std::vector<std::uint16_t> halves =
      narrow({kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), std::bit_cast<float>(0x7f800001U),
              std::bit_cast<float>(0xff800001U)});
  EXPECT_EQ(halves[0], 0x7c00);
  EXPECT_EQ(halves[1], 0xfc00);
  for (const std::size_t i : {2, 3, 4}) {
    EXPECT_TRUE(std::isnan(value_of(halves[i]))) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, F16,
                         testing::Values(Vocabulary{"plain", &kF16_plain, Isa::plain},
                                         Vocabulary{"avx2", &kF16_avx2, Isa::avx2},
                                         Vocabulary{"avx512", &kF16_avx512, Isa::avx512},
                                         Vocabulary{"emulated_avx512", &kF16_emulated, Isa::avx2}),
                         [](const auto& vocabulary) { return std::string(vocabulary.param.name); });

}  // namespace
