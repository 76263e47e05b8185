// Packing: every source type and layout gives the same panels.
#include "switchyard/experts.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "experts/packed.hpp"
#include "switchyard/error.hpp"

namespace {

using namespace switchyard;

std::vector<std::byte> packed_bytes(const PackedMatrices& packed) {
  return {packed.matrix(0), packed.matrix(0) + packed.panels() * packed.panel_bytes()};
}

PackedMatrices pack(const WeightView& view, std::int64_t features, std::int64_t depth, Format format) {
  PackedMatrices packed(1, features, depth, false, format);
  packed.pack(0, view, {}, Threads::pool(2));
  return packed;
}

// Element (feature, k) of a packed matrix that is not gated.
float element(const PackedMatrices& packed, std::int64_t feature, std::int64_t k) {
  const std::byte* panel = packed.matrix(0) + feature / kPanel * packed.panel_bytes();
  const std::int64_t column = feature % kPanel;
  if (packed.format() == Format::f32) {
    float value = 0;
    std::memcpy(&value, panel + (k * kPanel + column) * 4, 4);
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, panel + ((k / 2 * kPanel + column) * 2 + k % 2) * 2, 2);
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, 4);
  return value;
}

TEST(Pack, EveryElementStandsInItsPlaceAndPaddingIsZero) {
  constexpr std::int64_t kFeatures = 75;
  constexpr std::int64_t kDepth = 101;
  std::vector<float> weight(kFeatures * kDepth);
  for (std::size_t i = 0; i < weight.size(); ++i) {
    weight[i] = static_cast<float>(i % 251) + 1;  // exact in bf16
  }
  for (const Format format : {Format::f32, Format::bf16}) {
    const PackedMatrices packed = pack({weight.data(), DType::f32, kDepth, 1}, kFeatures, kDepth, format);
    ASSERT_EQ(packed.padded_depth(), 128);
    ASSERT_EQ(packed.panels(), 3);
    for (std::int64_t feature = 0; feature < 96; ++feature) {
      for (std::int64_t k = 0; k < 128; ++k) {
        const float expected =
            feature < kFeatures && k < kDepth ? weight[static_cast<std::size_t>(feature * kDepth + k)] : 0.0F;
        ASSERT_EQ(element(packed, feature, k), expected) << feature << " " << k;
      }
    }
  }
}

TEST(Pack, TransposedAndUnalignedViewsGiveTheSamePanels) {
  constexpr std::int64_t kFeatures = 40;
  constexpr std::int64_t kDepth = 50;
  std::mt19937 random(1);
  std::vector<float> weight(kFeatures * kDepth);
  std::vector<float> transposed(weight.size());
  for (std::int64_t o = 0; o < kFeatures; ++o) {
    for (std::int64_t i = 0; i < kDepth; ++i) {
      weight[static_cast<std::size_t>(o * kDepth + i)] = transposed[static_cast<std::size_t>(i * kFeatures + o)] =
          std::normal_distribution<float>()(random);
    }
  }
  std::vector<std::byte> shifted(weight.size() * 4 + 1);
  std::memcpy(shifted.data() + 1, weight.data(), weight.size() * 4);
  for (const Format format : {Format::f32, Format::bf16}) {
    const auto expected = packed_bytes(pack({weight.data(), DType::f32, kDepth, 1}, kFeatures, kDepth, format));
    EXPECT_EQ(packed_bytes(pack({transposed.data(), DType::f32, 1, kFeatures}, kFeatures, kDepth, format)), expected);
    EXPECT_EQ(packed_bytes(pack({shifted.data() + 1, DType::f32, kDepth, 1}, kFeatures, kDepth, format)), expected);
  }
}

TEST(Pack, AllF16CodesWidenExactly) {
  std::vector<std::uint16_t> codes(65536);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<std::uint16_t>(i);
  }
  const PackedMatrices packed = pack({codes.data(), DType::f16, 256, 1}, 256, 256, Format::f32);
  for (std::int64_t code = 0; code < 65536; ++code) {
    const std::int64_t exponent = code >> 10 & 31;
    const auto fraction = static_cast<double>(code & 1023);
    const double sign = code >= 32768 ? -1 : 1;
    const float found = element(packed, code / 256, code % 256);
    if (exponent == 31 && fraction != 0) {
      EXPECT_TRUE(std::isnan(found)) << code;
      continue;
    }
    const double expected = exponent == 31  ? std::numeric_limits<double>::infinity()
                            : exponent == 0 ? std::ldexp(fraction, -24)
                                            : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    EXPECT_EQ(found, static_cast<float>(sign * expected)) << code;
    EXPECT_EQ(std::signbit(found), sign < 0) << code;
  }
}

TEST(Pack, RoundsToBf16AtEveryKindOfMiddle) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> from{1.00390625F, 1.01171875F, -1.00390625F, 1.00390637F, 3.4e38F,
                                inf,         -inf,        0.0F,         -0.0F,       1e-40F};
  const std::vector<float> to{1.0F, 1.015625F, -1.0F, 1.0078125F, inf, inf, -inf, 0.0F, -0.0F, 9.18355e-41F};
  const auto depth = static_cast<std::int64_t>(from.size());
  const PackedMatrices packed = pack({from.data(), DType::f32, depth, 1}, 1, depth, Format::bf16);
  for (std::int64_t k = 0; k < depth; ++k) {
    const auto i = static_cast<std::size_t>(k);
    EXPECT_FLOAT_EQ(element(packed, 0, k), to[i]) << from[i];
    EXPECT_EQ(std::signbit(element(packed, 0, k)), std::signbit(to[i]));
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(element(pack({&nan, DType::f32, 1, 1}, 1, 1, Format::bf16), 0, 0)));
}

TEST(ExpertWeights, AsksForOneExpertAtATimeAscending) {
  const std::vector<float> weight(12 * 20, 0.5F);
  std::int32_t asked = 0;
  const ExpertWeights weights({5, 20, 12, {}}, Format::bf16, [&](std::int32_t expert) {
    EXPECT_EQ(expert, asked++);
    const WeightView up{weight.data(), DType::f32, 20, 1};
    return ExpertTensors{up, up, {weight.data(), DType::f32, 12, 1}};
  });
  EXPECT_EQ(asked, 5);
  EXPECT_EQ(weights.shape().experts, 5);
  EXPECT_EQ(weights.format(), Format::bf16);
  // gate and up: 1 panel of 32 columns by a depth of 32; down: 1 by 32, bf16.
  EXPECT_EQ(weights.bytes(), 5U * 2 * 32 * 32 * 2);
}

void expect_refused(const ExpertShape& shape, const WeightView& view, const char* message) {
  try {
    const ExpertWeights weights(shape, Format::f32, [&](std::int32_t) { return ExpertTensors{view, view, view}; });
    FAIL() << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_argument);
    EXPECT_STREQ(error.what(), message);
  }
}

TEST(ExpertWeights, RefusesWhatCannotBe) {
  const float one = 1;
  const WeightView view{&one, DType::f32, 1, 1};
  expect_refused({0, 4, 4, {}}, view,
                 "experts: found 0 experts, hidden 4 and ffn 4, expected 1..65536 experts and sizes of 1..2147483648");
  expect_refused({1, 1, 1, {}}, {}, "experts: gate has no data");
  expect_refused({1, 1, 1, {}}, {&one, DType::i8, 1, 1}, "experts: gate is i8, expected f32, bf16 or f16");
  expect_refused({1, 1, 1, {.activation = Activation{9}}}, view,
                 "experts: found activation 9, expected silu (0) .. softcapped (8)");
}

TEST(ExpertWeights, RefusesFunctionsThatCannotBe) {
  const float one = 1;
  const WeightView view{&one, DType::f32, 1, 1};
  const auto refused = [&](const ExpertFunction& function, const char* message) {
    expect_refused({1, 1, 1, function}, view, message);
  };
  refused({.activation = Activation::silu_clamped, .gated = false, .limit = 1},
          "experts: found activation silu_clamped without gate, expected silu, gelu, gelu_tanh, relu or relu_squared");
  refused({.activation = Activation::silu_limited},
          "experts: found limit 0 for activation silu_limited, expected a finite number > 0");
  refused({.activation = Activation::swiglu_oai, .limit = 7, .alpha = -1},
          "experts: found alpha -1 for activation swiglu_oai, expected a finite number > 0");
  refused({.activation = Activation::softcapped, .limit = std::numeric_limits<float>::infinity(), .alpha = 1},
          "experts: found limit inf for activation softcapped, expected a finite number > 0");
}

// Biases of every type and distance stand where their features do.
TEST(ExpertWeights, PacksBiasesBesideTheirPanels) {
  const std::vector<float> weight(50 * 20, 0.5F);
  std::vector<float> gate_bias(100);
  std::vector<std::uint16_t> up_bias(50);
  std::vector<std::uint16_t> down_bias(20);
  for (std::size_t i = 0; i < 50; ++i) {
    gate_bias[2 * i] = static_cast<float>(i) + 0.25F;
    gate_bias[2 * i + 1] = -1;
    const float up = static_cast<float>(i) + 64;  // exact in bf16
    std::uint32_t bits = 0;
    std::memcpy(&bits, &up, 4);
    up_bias[i] = static_cast<std::uint16_t>(bits >> 16);
  }
  for (std::size_t i = 0; i < 20; ++i) {
    down_bias[i] = static_cast<std::uint16_t>(0x3c00 + i);  // f16: 1 + i / 1024
  }
  const auto tensors = [&](std::int32_t) {
    return ExpertTensors{{weight.data(), DType::f32, 20, 1},  {weight.data(), DType::f32, 20, 1},
                         {weight.data(), DType::f32, 50, 1},  {gate_bias.data(), DType::f32, 2, 1},
                         {up_bias.data(), DType::bf16, 1, 1}, {down_bias.data(), DType::f16, 1, 1}};
  };
  const ExpertWeights gated({2, 20, 50, {}}, Format::bf16, tensors);
  const PackedMatrices& up = gated.packed().up;
  for (std::int32_t e = 0; e < 2; ++e) {
    for (std::int64_t f = 0; f < 64; ++f) {
      const float* group = up.bias(e) + f / 8 * 16 + f % 8;
      EXPECT_EQ(group[0], f < 50 ? static_cast<float>(f) + 0.25F : 0.0F) << f;
      EXPECT_EQ(group[8], f < 50 ? static_cast<float>(f) + 64 : 0.0F) << f;
    }
    for (std::int64_t h = 0; h < 32; ++h) {
      EXPECT_EQ(gated.packed().down.bias(e)[h], h < 20 ? 1 + static_cast<float>(h) / 1024 : 0.0F) << h;
    }
  }
  const ExpertWeights ungated({2, 20, 50, {.gated = false}}, Format::f32, tensors);
  for (std::int64_t f = 0; f < 64; ++f) {
    EXPECT_EQ(ungated.packed().up.bias(1)[f], f < 50 ? static_cast<float>(f) + 64 : 0.0F) << f;
  }
}

TEST(ExpertWeights, RefusesBiasesOfSomeExperts) {
  const std::vector<float> one(4, 1.0F);
  const WeightView view{one.data(), DType::f32, 1, 1};
  for (const bool first : {false, true}) {
    try {
      const ExpertWeights weights({3, 1, 1, {}}, Format::f32, [&](std::int32_t expert) {
        const bool has = (expert < 2) == first;
        return ExpertTensors{view, view, view, {}, has ? view : WeightView{}, view};
      });
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::invalid_argument);
      EXPECT_STREQ(error.what(), first ? "experts: found expert 2 without up bias, expected the same as expert 0"
                                       : "experts: found expert 2 with up bias, expected the same as expert 0");
    }
  }
  const auto wrong_type = [&] {
    return ExpertWeights({1, 1, 1, {}}, Format::f32, [&](std::int32_t) {
      return ExpertTensors{view, view, view, {}, {}, {one.data(), DType::i8, 1, 1}};
    });
  };
  EXPECT_THROW(wrong_type(), Error);
}

}  // namespace
