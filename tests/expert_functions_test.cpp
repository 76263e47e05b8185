// The functions between the GEMMs, value by value.
#include <gtest/gtest.h>

#include <limits>

#include "kernel_runs.hpp"
#include "layer_variants.hpp"

namespace {

using namespace made;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The kernel's h where gate and up both give x, exactly: a contraction of depth 1 with the weight 1.
std::vector<float> applied(const ExpertFunction& function, const std::vector<float>& x) {
  const std::vector<float> one(16, 1.0F);
  const auto bits = kernel_runs::gemm(current_kernels(), Math::f32, x, one, 1, &function);
  const std::size_t width = bits.size() / x.size();
  std::vector<float> h(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t lane = 0; lane < 16; ++lane) {
      EXPECT_EQ(bits[i * width + lane], bits[i * width]) << "all features are equal";
    }
    std::memcpy(&h[i], &bits[i * width], 4);
  }
  return h;
}

double expected(const ExpertFunction& function, float x) {
  return reference::activated(reference_of(function), x, function.gated ? x : 1.0);
}

TEST(ExpertFunctions, AreAccurateEverywhere) {
  std::vector<float> x;
  for (int i = -3000; i <= 3000; ++i) {
    x.push_back(static_cast<float>(i) * 0.01F);
  }
  for (int exponent = -40; exponent <= 0; ++exponent) {
    x.push_back(std::ldexp(1.1F, exponent));
    x.push_back(-std::ldexp(1.1F, exponent));
  }
  for (const NamedFunction& each : kFunctions) {
    const std::vector<float> h = applied(each.function, x);
    const Activation activation = each.function.activation;
    // Relative, down to where exp is 0; where its argument is rounded, to where the tails have no weight.
    const double rest = activation == Activation::gelu_tanh || activation == Activation::swiglu_oai ? 1e-12 : 1e-36;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double right = expected(each.function, x[i]);
      EXPECT_NEAR(h[i], right, 2e-6 * std::abs(right) + rest) << each.name << " of " << x[i];
    }
  }
}

TEST(ExpertFunctions, NanPassesAlsoThroughClamps) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const NamedFunction& each : kFunctions) {
    for (const float h : applied(each.function, {nan, -nan})) {
      EXPECT_TRUE(std::isnan(h)) << each.name;
    }
  }
}

TEST(ExpertFunctions, LargeValuesAndInfinityGiveTheLimits) {
  const std::vector<float> up{1e4F, 1e19F, kInfinity};
  const std::vector<float> down{-1e4F, -1e19F};
  for (const NamedFunction& each : kFunctions) {
    const auto high = applied(each.function, up);
    for (std::size_t i = 0; i < up.size(); ++i) {
      const auto right = static_cast<float>(expected(each.function, up[i]));
      EXPECT_TRUE(high[i] == right || std::abs(high[i] / right - 1) < 1e-6) << each.name << " of " << up[i];
    }
    for (const float h : applied(each.function, down)) {
      EXPECT_EQ(h, 0.0F) << each.name;
    }
  }
  for (const NamedFunction& each : kFunctions) {
    const Activation activation = each.function.activation;
    if (!each.function.gated && activation != Activation::silu) {
      EXPECT_EQ(applied(each.function, {-kInfinity})[0], 0.0F) << each.name;
    }
  }
}

TEST(ExpertFunctions, BiasesAndScalesComeWhereTheyShould) {
  const ExpertFunction relu{.activation = Activation::relu, .gated = false};
  const std::vector<float> rows{1.0F, -2.0F, 3.0F};
  const std::vector<float> weight{2.0F, -4.0F};
  const std::vector<float> bias{0.5F, 10.0F};
  const std::vector<float> scale{1.0F, 0.5F, -1.0F};
  const auto bits = kernel_runs::gemm(current_kernels(), Math::f32, rows, weight, 1, &relu,
                                      {.bias = bias, .row_scale = scale, .h_scale = {2.0F, -1.0F, 0.5F}});
  // h_scale · relu(row_scale · row · weight + bias)
  const float right[][2] = {{5.0F, 12.0F}, {0.0F, -14.0F}, {0.0F, 11.0F}};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 2; ++j) {
      float h = 0;
      std::memcpy(&h, &bits[i * 32 + j], 4);
      EXPECT_EQ(h, right[i][j]);
    }
  }
}

}  // namespace
