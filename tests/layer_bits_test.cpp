// What may change about the weights or a routing without changing bits, what scales outputs exactly, and layers whose
// outputs are known exactly; in every arithmetic.
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "constant_experts.hpp"

namespace {

using namespace made;

constexpr LayerCase kShape = kTestCases[1];
constexpr std::int64_t kCounts[] = {3, 40};  // weights pass through registers, and rows go by tiles
constexpr WeightSite kSites[] = {WeightSite::output, WeightSite::input, WeightSite::between};

LayerOptions options_of(const Arithmetic& arithmetic) {
  return {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)};
}

Rows random_rows(std::int64_t count, std::int64_t hidden, unsigned seed) {
  std::mt19937 random(seed);
  return {DType::f32, random_table(count, hidden, 1.0, random)};
}

std::string text_of(const Arithmetic& arithmetic, WeightSite site, std::int64_t count) {
  return std::string(arithmetic.name) + ", weights at " + weight_site_name(site) + ", tokens " + std::to_string(count);
}

void expect_multiple(const Rows& found, double factor, const Rows& of, const std::string& text) {
  for (std::int64_t t = 0; t < of.rows; ++t) {
    for (std::int64_t h = 0; h < of.cols; ++h) ASSERT_EQ(found.at(t, h), factor * of.at(t, h)) << text;
  }
}

// Multiplying by a power of two commutes with every rounding on the way.
TEST(LayerBits, OutputsAreLinearInTheWeights) {
  std::mt19937 random(41);
  for (const WeightSite site : kSites) {
    const Weights weights(kShape, Shared::plain, 40, {.weight_site = site});
    for (const std::int64_t count : kCounts) {
      Given given = random_given(count, 3, kShape.experts, random);
      const Rows x = random_rows(count, kShape.hidden, 42);
      for (const Arithmetic& arithmetic : kArithmetics) {
        const Rows y = forward(weights.layer({}, options_of(arithmetic)), x, given.view());
        for (const double factor : {2.0, -0.125}) {
          for (reference::Table reference::Expert::*matrix : {&reference::Expert::up, &reference::Expert::down}) {
            Weights scaled = weights;
            for (auto* experts : {&scaled.block.experts, &scaled.block.shared}) {
              for (reference::Expert& expert : *experts) {
                for (double& value : (expert.*matrix).value) value *= factor;
              }
            }
            // The integers of four bits have one more below 0.
            if (arithmetic.format == Format::i4 && factor < 0) continue;
            const Rows found = forward(scaled.layer({}, options_of(arithmetic)), x, given.view());
            expect_multiple(found, factor, y, text_of(arithmetic, site, count));
          }
        }
      }
    }
  }
}

TEST(LayerBits, OutputsAreLinearInTheRoutingWeights) {
  std::mt19937 random(43);
  for (const WeightSite site : {WeightSite::output, WeightSite::between}) {
    const Weights weights(kShape, Shared::none, 44, {.weight_site = site});
    for (const std::int64_t count : kCounts) {
      Given given = random_given(count, 3, kShape.experts, random);
      Given scaled = given;
      for (float& weight : scaled.weight) weight *= 4.0F;
      const Rows x = random_rows(count, kShape.hidden, 45);
      for (const Arithmetic& arithmetic : kArithmetics) {
        const Layer layer = weights.layer({}, options_of(arithmetic));
        expect_multiple(forward(layer, x, scaled.view()), 4, forward(layer, x, given.view()),
                        text_of(arithmetic, site, count));
      }
    }
  }
}

TEST(LayerBits, ExpertsMayBePermuted) {
  std::mt19937 random(46);
  std::vector<std::int32_t> place(static_cast<std::size_t>(kShape.experts));
  std::iota(place.begin(), place.end(), 0);
  std::shuffle(place.begin(), place.end(), random);
  for (const WeightSite site : kSites) {
    const Weights weights(kShape, Shared::gated, 47, {.biases = true, .weight_site = site});
    Weights permuted = weights;
    for (std::int32_t e = 0; e < kShape.experts; ++e) {
      const std::int32_t to = place[static_cast<std::size_t>(e)];
      permuted.block.experts[static_cast<std::size_t>(to)] = weights.block.experts[static_cast<std::size_t>(e)];
      for (std::int64_t h = 0; h < kShape.hidden; ++h) permuted.router.at(to, h) = weights.router.at(e, h);
    }
    for (const std::int64_t count : kCounts) {
      Given given = random_given(count, 3, kShape.experts, random);
      Given moved = given;
      for (std::int32_t& id : moved.expert) id = id < 0 ? id : place[static_cast<std::size_t>(id)];
      const Rows x = random_rows(count, kShape.hidden, 48);
      for (const Arithmetic& arithmetic : kArithmetics) {
        // A sum over all experts, as a softmax has, would depend on their order.
        const RouterOptions router{.topk = 3, .score = Score::sigmoid, .normalize = Normalize::sum};
        const Layer before = weights.layer(router, options_of(arithmetic));
        const Layer after = permuted.layer(router, options_of(arithmetic));
        const std::string text = text_of(arithmetic, site, count);
        EXPECT_EQ(forward(after, x, moved.view()).bytes, forward(before, x, given.view()).bytes) << text;
        EXPECT_EQ(forward(after, x).bytes, forward(before, x).bytes) << text;
      }
    }
  }
}

// Slots are added in their order. Of two whose products are exact, it does not matter.
TEST(LayerBits, TwoSlotsMayBeSwapped) {
  std::mt19937 random(49);
  for (const WeightSite site : kSites) {
    const Weights weights(kShape, Shared::plain, 50, {.weight_site = site});
    for (const std::int64_t count : kCounts) {
      Given given = random_given(count, 2, kShape.experts, random);
      for (float& weight : given.weight)
        weight = std::ldexp(random() % 2 == 0 ? 1.0F : -1.0F, random_of(random, -3, 3));
      Given swapped = given;
      for (std::size_t slot = 0; slot < given.expert.size(); slot += 2) {
        std::swap(swapped.expert[slot], swapped.expert[slot + 1]);
        std::swap(swapped.weight[slot], swapped.weight[slot + 1]);
      }
      const Rows x = random_rows(count, kShape.hidden, 51);
      for (const Arithmetic& arithmetic : kArithmetics) {
        const Layer layer = weights.layer({}, options_of(arithmetic));
        EXPECT_EQ(forward(layer, x, swapped.view()).bytes, forward(layer, x, given.view()).bytes)
            << text_of(arithmetic, site, count);
      }
    }
  }
}

TEST(LayerBits, OffSlotsMayStandAnywhere) {
  std::mt19937 random(52);
  for (const WeightSite site : kSites) {
    const Weights weights(kShape, Shared::gated, 53, {.biases = true, .weight_site = site});
    for (const std::int64_t count : kCounts) {
      Given given = random_given(count, 3, kShape.experts, random);
      constexpr std::int32_t kWide = 7;
      Given spread{count, kWide, {}, {}};
      for (std::int64_t t = 0; t < count; ++t) {
        for (std::int32_t slot = 0, taken = 0; slot < kWide; ++slot) {
          const bool on = taken < 3 && (kWide - slot == 3 - taken || random() % 2 == 0);
          const auto from = static_cast<std::size_t>(t * 3 + taken);
          spread.expert.push_back(on ? given.expert[from] : -1);
          spread.weight.push_back(on ? given.weight[from] : std::numeric_limits<float>::quiet_NaN());
          taken += on ? 1 : 0;
        }
      }
      const Rows x = random_rows(count, kShape.hidden, 54);
      for (const Arithmetic& arithmetic : kArithmetics) {
        const Layer layer = weights.layer({}, options_of(arithmetic));
        EXPECT_EQ(forward(layer, x, spread.view()).bytes, forward(layer, x, given.view()).bytes)
            << text_of(arithmetic, site, count);
      }
    }
  }
}

// What makes scales 1 where it is the largest that shares them.
float unit_peak(Format format) {
  switch (format) {
    case Format::i8:
      return 127;
    case Format::i4:
      return 7;
    case Format::f8_e4m3:
    case Format::mxfp8:
      return 448;
    default:
      return 6;
  }
}

// Where a matrix has its numbers along the contraction: one that counts, one that keeps the scale of quantised rows at
// 1, one that keeps that of the weights there and meets zeros, all in 16 steps; and one far away for nvfp4's factor.
struct Hot {
  std::int64_t number;
  std::int64_t carrier;
  std::int64_t peak;
  std::int64_t far;
  Hot(std::int64_t at, std::int64_t depth)
      : number(at), carrier(at ^ 1), peak(at ^ 2), far(at < depth / 2 ? depth - 20 : 20) {}
};

// [rows, depth]: every row has the peak.
std::vector<float> with_peaks(std::int64_t rows, std::int64_t depth, const Hot& hot, Format format) {
  std::vector<float> matrix(static_cast<std::size_t>(rows * depth));
  for (std::int64_t row = 0; row < rows; ++row) {
    matrix[static_cast<std::size_t>(row * depth + hot.peak)] = unit_peak(format);
  }
  if (format == Format::nvfp4) matrix[static_cast<std::size_t>(hot.far)] = 6 * 448;
  return matrix;
}

constexpr std::int64_t kHotHidden = 200;
constexpr std::int64_t kHotFfn = 152;
constexpr float kNumbers[] = {1, 2, 3, 4, 6};  // of expert e; every format holds them

float number_of_output(std::int64_t h) { return static_cast<float>(h % 3 + 1); }

// Expert e turns a token that has t at `in` into kNumbers[e] · t · number_of_output.
Layer hot_layer(const Hot& in, const Hot& between, const Arithmetic& arithmetic, WeightSite site) {
  std::vector<float> up = with_peaks(kHotFfn, kHotHidden, in, arithmetic.format);
  up[static_cast<std::size_t>(between.carrier * kHotHidden + in.carrier)] = 1;
  std::vector<float> down = with_peaks(kHotHidden, kHotFfn, between, arithmetic.format);
  for (std::int64_t h = 0; h < kHotHidden; ++h) {
    down[static_cast<std::size_t>(h * kHotFfn + between.number)] = number_of_output(h);
  }
  LayerWeights weights;
  weights.experts = static_cast<std::int32_t>(std::size(kNumbers));
  weights.hidden = kHotHidden;
  weights.ffn = kHotFfn;
  weights.function = {.activation = Activation::relu, .gated = false};
  weights.weight_site = site;
  weights.expert = [&](std::int32_t e) {
    up[static_cast<std::size_t>(between.number * kHotHidden + in.number)] = kNumbers[e];
    return ExpertTensors{{}, {up.data(), DType::f32, kHotHidden, 1}, {down.data(), DType::f32, kHotFfn, 1}};
  };
  return Layer(weights, {}, options_of(arithmetic));
}

// A row that is dropped, doubled, taken from another token or expert, or weighted by another slot's weight changes the
// sum, which is exact.
void check_one_hot(const Hot& in, const Hot& between, const Arithmetic& arithmetic, WeightSite site) {
  const Layer layer = hot_layer(in, between, arithmetic, site);
  std::mt19937 random(55);
  for (const std::int64_t count : {1, 3, 29}) {
    reference::Table values(count, kHotHidden);
    for (std::int64_t t = 0; t < count; ++t) {
      values.at(t, in.number) = static_cast<double>(t % 3 + 1);
      values.at(t, in.carrier) = 127;
    }
    Given given = random_given(count, 3, layer.experts(), random);
    for (float& weight : given.weight) {
      if (site == WeightSite::input) weight = std::abs(weight);  // or nothing passes
    }
    const Rows y = forward(layer, Rows(DType::f32, values), given.view());
    for (std::int64_t t = 0; t < count; ++t) {
      double sum = 0;
      for (std::int64_t slot = t * 3; slot < (t + 1) * 3; ++slot) {
        const std::int32_t e = given.expert[static_cast<std::size_t>(slot)];
        if (e < 0) continue;
        sum += static_cast<double>(given.weight[static_cast<std::size_t>(slot)]) * static_cast<double>(kNumbers[e]);
      }
      for (std::int64_t h = 0; h < kHotHidden; ++h) {
        ASSERT_EQ(y.at(t, h), sum * values.at(t, in.number) * static_cast<double>(number_of_output(h)))
            << text_of(arithmetic, site, count) << " at " << in.number << ", " << between.number;
      }
    }
  }
}

TEST(LayerBits, OneHotExpertsAreExactInEveryFormat) {
  constexpr std::int64_t kPlaces[] = {0, 31, 127, 128, 149};
  for (const Arithmetic& arithmetic : kArithmetics) {
    for (const WeightSite site : kSites) {
      for (const std::int64_t place : kPlaces) {
        check_one_hot({kHotHidden - 1 - place, kHotHidden}, {place, kHotFfn}, arithmetic, site);
      }
    }
  }
}

// One expert that gives relu(v · x), with the weight between: v · x has 16 bits, which fp32 holds and bf16 does not.
TEST(LayerBits, AWeightBetweenMultipliesBeforeTheOnlyRounding) {
  constexpr std::int64_t kTokens = 400;
  const float one = 1;
  const auto v = static_cast<float>(round_bf16(1.2345));
  LayerWeights weights;
  weights.experts = 1;
  weights.hidden = 1;
  weights.ffn = 1;
  weights.function = {.activation = Activation::relu, .gated = false};
  weights.weight_site = WeightSite::between;
  weights.expert = [&](std::int32_t) { return ExpertTensors{{}, {&v, DType::f32, 1, 1}, {&one, DType::f32, 1, 1}}; };
  std::mt19937 random(56);
  reference::Table x = random_table(kTokens, 1, 1.0, random);
  for (double& value : x.value) value = std::abs(value);
  Given given{kTokens, 1, std::vector<std::int32_t>(kTokens, 0), {}};
  for (std::int64_t t = 0; t < kTokens; ++t) {
    given.weight.push_back(std::uniform_real_distribution<float>(0.1F, 1)(random));
  }
  const Layer narrow(weights, {}, {.format = Format::bf16, .activations = DType::bf16});
  const Layer wide(weights, {}, {.format = Format::bf16});
  const Rows in_bf16 = forward(narrow, Rows(DType::f32, x), given.view());
  const Rows in_f32 = forward(wide, Rows(DType::f32, x), given.view());
  int of_h = 0;
  int of_weight = 0;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const float h = v * static_cast<float>(x.at(t, 0));
    const float weight = given.weight[static_cast<std::size_t>(t)];
    const double once = round_bf16(static_cast<double>(weight * h));
    EXPECT_EQ(in_f32.at(t, 0), static_cast<double>(weight * h));
    EXPECT_EQ(in_bf16.at(t, 0), once);
    of_h += round_bf16(static_cast<double>(weight) * round_bf16(static_cast<double>(h))) == once ? 0 : 1;
    of_weight += round_bf16(static_cast<double>(h) * round_bf16(static_cast<double>(weight))) == once ? 0 : 1;
  }
  // Roundings that would have been seen.
  EXPECT_GT(of_h, kTokens / 8);
  EXPECT_GT(of_weight, kTokens / 8);
}

}  // namespace
