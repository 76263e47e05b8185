// The oracle's gradients against finite differences of the oracle's forward, and a few of its values by hand.
#include "router_reference.hpp"

#include <gtest/gtest.h>

#include "route_cases.hpp"
#include "route_runs.hpp"

namespace {

using namespace route_runs;

// The loss that has the given gradients, of one token with its choice held.
double loss(const reference::Vector& logits, const std::vector<std::int64_t>& ids, const RouterOptions& options,
            const reference::TokenGradient& gradient) {
  RouteInputs inputs;
  inputs.forced = {ids.data(), DType::i64};
  const reference::Token token = reference::route_token(logits, 0, options, inputs);
  double sum = gradient.z * token.z;
  for (std::size_t s = 0; s < ids.size(); ++s) {
    sum += (gradient.weight[s] + gradient.probability[token.slots[s]]) * token.weight[s];
  }
  for (std::size_t e = 0; e < logits.size(); ++e) {
    sum += gradient.aux[e] * token.aux[e];
  }
  return sum;
}

void check_gradient(const RouterOptions& options, unsigned seed) {
  Case c{.tokens = 1, .experts = 9, .options = options};
  fill(c, seed);
  const reference::Vector logits(c.logits.begin(), c.logits.end());
  const reference::Token token = reference::route_token(logits, 0, options, {});
  const std::vector<std::int64_t> ids(token.slots.begin(), token.slots.end());
  const auto random = [&](std::size_t size, unsigned offset) {
    const std::vector<float> values = random_floats(size, 1.0F, seed + offset);
    return reference::Vector(values.begin(), values.end());
  };
  const reference::TokenGradient gradient{random(ids.size(), 1), random(9, 2), random(9, 3), 0.05};
  const reference::Vector found = reference::token_gradient(token, options, gradient);
  constexpr double kStep = 1e-6;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    reference::Vector up = logits;
    reference::Vector down = logits;
    up[e] += kStep;
    down[e] -= kStep;
    const double slope = (loss(up, ids, options, gradient) - loss(down, ids, options, gradient)) / (2 * kStep);
    EXPECT_NEAR(found[e], slope, 2e-7 * std::max(1.0, std::abs(slope))) << "expert " << e;
  }
}

TEST(RouterReference, GradientsAreFiniteDifferences) {
  for (const std::int32_t topk : {1, 2, 4}) {
    unsigned seed = 1;
    for (const auto& rule : route_cases::rules(topk)) {
      SCOPED_TRACE(rule.name);
      check_gradient(rule.options, 10 * seed++);
    }
  }
}

TEST(RouterReference, KnowsTheSparseMixerByHand) {
  // With jitter 0.25 an expert is masked if it lies more than half of max(|l|, m) below m: only 0.5 does.
  const reference::Vector logits{2.0, 1.5, 0.5, 1.0};
  RouterOptions options{.topk = 2, .score = Score::sparsemixer};
  options.jitter = 0.25F;
  const reference::Token token = reference::route_token(logits, 0, options, {});
  EXPECT_EQ(token.slots, (std::vector<std::size_t>{0, 1}));
  EXPECT_NEAR(token.weight[0], 1 / (1 + std::exp(-0.5) + std::exp(-1.0)), 1e-15);
  EXPECT_NEAR(token.weight[1], 1 / (1 + std::exp(-0.5)), 1e-15);
}

TEST(RouterReference, KnowsGroupsByHand) {
  const reference::Vector logits{0.9, 0.1, 0.5, 0.6, 0.8, 0.0};  // groups of two: 1.0, 1.1, 0.8
  RouterOptions options{.topk = 2, .score = Score::logit};
  options.groups = 3;
  options.kept_groups = 1;
  options.group_best = 2;
  EXPECT_EQ(reference::route_token(logits, 0, options, {}).slots, (std::vector<std::size_t>{3, 2}));
  options.group_best = 1;
  EXPECT_EQ(reference::route_token(logits, 0, options, {}).slots, (std::vector<std::size_t>{0, 1}));
}

TEST(RouterReference, KnowsHalfPrecisionByHand) {
  EXPECT_EQ(elements::f16_bits(1.0F), 0x3c00);
  EXPECT_EQ(elements::f16_bits(-65504.0F), 0xfbff);
  EXPECT_EQ(elements::f16_bits(65520.0F), 0x7c00);
  EXPECT_EQ(elements::f16_bits(0x1p-24F), 1);
  EXPECT_EQ(elements::f16_bits(0x1p-25F), 0) << "a tie goes to the even one";
  EXPECT_EQ(elements::f16_bits(0x1.ff8p-15F), 0x3ff) << "the largest denormal";
  EXPECT_EQ(elements::f16_bits(1.0F + 0x1p-11F), 0x3c00);
  EXPECT_EQ(elements::f16_bits(1.0F + 0x3p-11F), 0x3c02);
  EXPECT_EQ(elements::bf16_bits(1.0F + 0x1p-8F), 0x3f80);
  EXPECT_EQ(elements::bf16_bits(1.0F + 0x3p-8F), 0x3f82);
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if (!std::isnan(elements::f16_value(half))) {
      ASSERT_EQ(elements::f16_bits(static_cast<float>(elements::f16_value(half))), half);
    }
  }
}

}  // namespace
