// Routing from logits against the reference, and every input that breaks such code.
#include "switchyard/route.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "reference.hpp"
#include "switchyard/error.hpp"
#include "tolerances.hpp"

namespace {

using namespace switchyard;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Routed {
  std::vector<std::int32_t> expert;
  std::vector<float> weight;
};

Routed route(const std::vector<float>& logits, std::int64_t experts, const RouterOptions& options, int threads = 1) {
  const std::int64_t tokens = static_cast<std::int64_t>(logits.size()) / experts;
  Routed routed{std::vector<std::int32_t>(static_cast<std::size_t>(tokens * options.topk), -7),
                std::vector<float>(static_cast<std::size_t>(tokens * options.topk), kNan)};
  route_logits({logits.data(), tokens, experts}, options,
               {tokens, options.topk, routed.expert.data(), routed.weight.data()}, Threads::pool(threads));
  return routed;
}

Routed route(const std::vector<float>& logits, std::int64_t experts, std::int32_t topk, bool normalize,
             int threads = 1) {
  return route(logits, experts, {.topk = topk, .normalize = normalize ? Normalize::sum : Normalize::none}, threads);
}

reference::Rules rules_of(const RouterOptions& options, std::int64_t experts) {
  reference::Rules rules{.topk = options.topk,
                         .sigmoid = options.score == Score::sigmoid,
                         .normalize = options.normalize != Normalize::none,
                         .epsilon = options.epsilon,
                         .scale = options.scale,
                         .groups = options.groups,
                         .kept_groups = options.kept_groups,
                         .group_best = options.group_best,
                         .masked_zero = options.masked_zero,
                         .bias = {}};
  if (options.selection_bias.data != nullptr) {
    const auto* bias = static_cast<const float*>(options.selection_bias.data);
    rules.bias.assign(bias, bias + experts);
  }
  return rules;
}

void check(const std::vector<float>& logits, std::int64_t experts, const RouterOptions& options) {
  const Routed found = route(logits, experts, options);
  reference::Table table(static_cast<std::int64_t>(logits.size()) / experts, experts);
  std::copy(logits.begin(), logits.end(), table.value.begin());
  const reference::Routing expected = reference::route(table, rules_of(options, experts));
  EXPECT_EQ(found.expert, expected.expert) << "experts " << experts << " topk " << options.topk;
  for (std::size_t i = 0; i < found.weight.size(); ++i) {
    EXPECT_NEAR(found.weight[i], expected.weight[i], kWeightTolerance * std::max(1.0F, options.scale))
        << "experts " << experts << " topk " << options.topk << " slot " << i;
  }
}

void check(const std::vector<float>& logits, std::int64_t experts, std::int32_t topk, bool normalize) {
  check(logits, experts, {.topk = topk, .normalize = normalize ? Normalize::sum : Normalize::none});
}

std::vector<float> random_logits(std::int64_t tokens, std::int64_t experts, float scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> logits(static_cast<std::size_t>(tokens * experts));
  for (float& logit : logits) {
    logit = normal(random);
  }
  return logits;
}

TEST(Route, MatchesTheReferenceForEveryTopkAndOddNumbersOfExperts) {
  for (const std::int32_t experts : {1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 60, 64, 100, 257}) {
    const std::vector<float> logits = random_logits(5, experts, 3.0F, static_cast<unsigned>(experts));
    for (std::int32_t topk = 1; topk <= std::min(experts, kMaxTopk); ++topk) {
      check(logits, experts, topk, topk % 2 == 0);
    }
  }
  check(random_logits(3, 8192, 4.0F, 1), 8192, 64, true);
}

TEST(Route, TiesGoToTheLowerId) {
  for (const std::int32_t topk : {1, 4, 15, 16, 17, 33, 64}) {
    const Routed all_equal = route(std::vector<float>(64, 0.5F), 64, topk, false);
    for (std::int32_t s = 0; s < topk; ++s) {
      EXPECT_EQ(all_equal.expert[static_cast<std::size_t>(s)], s);
    }
    check(std::vector<float>(64, 0.5F), 64, topk, true);
  }
  std::vector<float> coarse = random_logits(20, 64, 1.0F, 2);
  for (float& logit : coarse) {
    logit = std::round(logit * 2) / 2;  // many ties at every rank
  }
  for (const std::int32_t topk : {2, 8, 20, 64}) {
    check(coarse, 64, topk, false);
  }
}

TEST(Route, SignedZerosAreEqual) {
  const Routed found = route({-0.0F, 0.0F, -0.0F, 0.0F}, 4, 3, false);
  EXPECT_EQ(found.expert, (std::vector<std::int32_t>{0, 1, 2}));
}

TEST(Route, NanCountsAsMinusInfinity) {
  const Routed found = route({kNan, 1.0F, -kInf, 2.0F, kNan}, 5, 5, false);
  EXPECT_EQ(found.expert, (std::vector<std::int32_t>{3, 1, 0, 2, 4}));
  check({kNan, 1.0F, -kInf, 2.0F, kNan}, 5, 5, false);
}

TEST(Route, RowsWithoutAFiniteLogitAreUniform) {
  for (const float value : {-kInf, kNan}) {
    const Routed found = route(std::vector<float>(20, value), 20, 4, false);
    EXPECT_EQ(found.expert, (std::vector<std::int32_t>{0, 1, 2, 3}));
    EXPECT_EQ(found.weight, std::vector<float>(4, 1.0F / 20));
  }
}

TEST(Route, SeveralPlusInfinitiesShareTheWeight) {
  const Routed found = route({1.0F, kInf, 3.0F, kInf}, 4, 3, true);
  EXPECT_EQ(found.expert, (std::vector<std::int32_t>{1, 3, 2}));
  EXPECT_EQ(found.weight, (std::vector<float>{0.5F, 0.5F, 0.0F}));
}

TEST(Route, FarApartAndHugeLogitsKeepTheirOrder) {
  const float top = std::numeric_limits<float>::max();
  check({-200.0F, 300.0F, 0.0F, -top, top, 100.0F}, 6, 6, false);  // all but one underflow: the logits still decide
  check({88.0F, 89.0F, -88.0F, 87.9F}, 4, 4, true);
}

TEST(Route, NeverADuplicateAndSumsToOne) {
  const std::vector<float> logits = random_logits(500, 37, 5.0F, 4);
  const Routed found = route(logits, 37, 11, true, 3);
  for (std::size_t t = 0; t < 500; ++t) {
    const std::set<std::int32_t> distinct(found.expert.begin() + static_cast<std::ptrdiff_t>(t * 11),
                                          found.expert.begin() + static_cast<std::ptrdiff_t>(t * 11 + 11));
    EXPECT_EQ(distinct.size(), 11U);
    double sum = 0;
    for (std::size_t s = 0; s < 11; ++s) {
      sum += found.weight[t * 11 + s];
    }
    EXPECT_NEAR(sum, 1.0, 1e-6);
  }
}

TEST(Route, BitsDoNotDependOnBatchOrThreads) {
  const std::vector<float> logits = random_logits(300, 60, 2.0F, 5);
  const Routed whole = route(logits, 60, 6, true, 3);
  for (std::size_t t = 0; t < 300; ++t) {
    const Routed one = route({logits.begin() + static_cast<std::ptrdiff_t>(t * 60),
                              logits.begin() + static_cast<std::ptrdiff_t>(t * 60 + 60)},
                             60, 6, true);
    ASSERT_TRUE(
        std::equal(one.expert.begin(), one.expert.end(), whole.expert.begin() + static_cast<std::ptrdiff_t>(t * 6)));
    ASSERT_TRUE(
        std::equal(one.weight.begin(), one.weight.end(), whole.weight.begin() + static_cast<std::ptrdiff_t>(t * 6)));
  }
}

TEST(Route, TakesNoTokens) { EXPECT_TRUE(route({}, 8, 2, true).expert.empty()); }

// Multiples of 1/4096 between −0.5 and 0.5: added to a score in fp32 and in double, both choose the same.
std::vector<float> random_bias(std::int64_t experts, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> bias(static_cast<std::size_t>(experts));
  for (float& value : bias) {
    value = static_cast<float>(std::uniform_int_distribution<int>(-2048, 2048)(random)) / 4096;
  }
  return bias;
}

TEST(Route, BiasGroupsAndScalingMatchTheReference) {
  struct Shape {
    std::int32_t experts, topk, groups, kept_groups, group_best;
  };
  for (const Shape& shape :
       {Shape{256, 8, 8, 4, 2}, Shape{16, 4, 4, 2, 2}, Shape{160, 6, 8, 3, 1}, Shape{60, 5, 5, 2, 3},
        Shape{21, 7, 3, 1, 2}, Shape{64, 6, 0, 0, 1}, Shape{37, 37, 0, 0, 1}, Shape{12, 12, 4, 4, 1}}) {
    const std::vector<float> logits = random_logits(40, shape.experts, 1.5F, 11);
    const std::vector<float> bias = random_bias(shape.experts, 12);
    for (const Score score : {Score::softmax, Score::sigmoid}) {
      for (const float* selection_bias : {static_cast<const float*>(nullptr), bias.data()}) {
        RouterOptions options{
            .topk = shape.topk, .score = score, .normalize = Normalize::sum, .epsilon = 1e-20F, .scale = 2.5F};
        options.groups = shape.groups;
        options.kept_groups = shape.kept_groups;
        options.group_best = shape.group_best;
        options.selection_bias = {selection_bias, DType::f32};
        check(logits, shape.experts, options);
        options.normalize = Normalize::none;
        options.masked_zero = true;
        check(logits, shape.experts, options);
      }
    }
  }
}

TEST(Route, ALargeBiasLeavesTinyScoresExact) {
  const std::vector<float> logits{-16.0F, -18.0F, -20.0F, -40.0F};
  const std::vector<float> bias(4, 100.0F);
  RouterOptions options{.topk = 3, .score = Score::sigmoid};
  options.selection_bias = {bias.data(), DType::f32};
  const Routed found = route(logits, 4, options);
  EXPECT_EQ(found.expert, (std::vector<std::int32_t>{0, 1, 2})) << "equal after the bias: the lower id first";
  for (std::size_t s = 0; s < 3; ++s) {
    EXPECT_NEAR(found.weight[s] / (1.0 / (1.0 + std::exp(-static_cast<double>(logits[s])))), 1.0, 1e-6);
  }
}

TEST(Route, ScoresThatAreAllZeroGiveZeroWeights) {
  const std::vector<float> logits(8, -kInf);
  for (const float epsilon : {0.0F, 1e-20F}) {
    const Routed found =
        route(logits, 8, {.topk = 2, .score = Score::sigmoid, .normalize = Normalize::sum, .epsilon = epsilon});
    EXPECT_EQ(found.expert, (std::vector<std::int32_t>{0, 1}));
    EXPECT_EQ(found.weight, (std::vector<float>{0.0F, 0.0F}));
  }
}

TEST(Route, EqualGroupsKeepTheLowerOnes) {
  RouterOptions options{.topk = 4, .score = Score::sigmoid};
  options.groups = 4;
  options.kept_groups = 2;
  options.group_best = 2;
  EXPECT_EQ(route(std::vector<float>(16, 0.25F), 16, options).expert, (std::vector<std::int32_t>{0, 1, 2, 3}));
}

TEST(Route, AMaskOfZeroLetsDroppedExpertsWinOverNegativeOnes) {
  const std::vector<float> logits{4.0F, -4.0F, 1.0F, 1.0F};
  const std::vector<float> bias{0.0F, -0.5F, 0.0F, 0.0F};
  RouterOptions options{.topk = 2, .score = Score::sigmoid};
  options.groups = 2;
  options.kept_groups = 1;
  options.selection_bias = {bias.data(), DType::f32};
  EXPECT_EQ(route(logits, 4, options).expert, (std::vector<std::int32_t>{0, 1}));
  options.masked_zero = true;
  EXPECT_EQ(route(logits, 4, options).expert, (std::vector<std::int32_t>{0, 2}));
}

TEST(Route, NanInTheBiasCountsAsMinusInfinity) {
  const std::vector<float> bias{0.0F, kNan, 0.0F, 0.0F};
  RouterOptions options{.topk = 4, .score = Score::sigmoid};
  options.selection_bias = {bias.data(), DType::f32};
  EXPECT_EQ(route({1.0F, 5.0F, 2.0F, 3.0F}, 4, options).expert, (std::vector<std::int32_t>{3, 2, 0, 1}));
}

TEST(Route, RefusesWhatCannotBe) {
  const std::vector<float> logits(8);
  std::int32_t expert[8];
  float weight[8];
  const auto call = [&](std::int64_t experts, std::int32_t topk, Routing routing) {
    route_logits({logits.data(), 1, experts}, {.topk = topk}, routing);
  };
  EXPECT_THROW(call(8, 0, {1, 0, expert, weight}), Error);
  EXPECT_THROW(call(8, 9, {1, 9, expert, weight}), Error);
  EXPECT_THROW(call(8, 2, {2, 2, expert, weight}), Error);
  EXPECT_THROW(call(8, 2, {1, 2, nullptr, weight}), Error);
  EXPECT_THROW(call(0, 1, {1, 1, expert, weight}), Error);
  try {
    call(8, 9, {1, 9, expert, weight});
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "route: found topk 9 for 8 experts, expected 1..8");
  }
}

TEST(Route, RefusesRulesThatCannotBe) {
  const std::vector<float> logits(8);
  const auto message = [&](const RouterOptions& options) -> std::string {
    try {
      route(logits, 8, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  };
  RouterOptions groups{.topk = 4};
  groups.groups = 3;
  EXPECT_EQ(message(groups), "route: found 3 groups for 8 experts, expected 0 or 2..256 of equal size");
  groups.groups = 4;
  groups.kept_groups = 1;
  EXPECT_EQ(message(groups), "route: found 1 kept groups of 2 experts for topk 4, expected 1..4 with enough experts");
  groups.kept_groups = 2;
  groups.group_best = 3;
  EXPECT_EQ(message(groups), "route: found group_best 3, expected 1..2");
  EXPECT_EQ(message({.score = Score{7}}), "route: found score 7, expected softmax (0) or sigmoid (1)");
  EXPECT_EQ(message({.epsilon = -1}), "route: found epsilon -1 and scale 1, expected finite numbers and epsilon >= 0");
}

}  // namespace
