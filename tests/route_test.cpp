// `route` against the oracle, over shapes, rules and element types.
#include "switchyard/route.hpp"

#include <gtest/gtest.h>

#include "route_cases.hpp"
#include "route_checks.hpp"

namespace {

using namespace route_runs;
using route_cases::Rule;

bool groupless(const RouterOptions& options) { return options.groups == 0; }

unsigned wanted_of(const Case& c) {
  return c.options.topk < c.experts && groupless(c.options) ? everything_of(c.options.score) : kUsual;
}

void check(Case c, unsigned seed) {
  c.wanted = wanted_of(c);
  fill(c, seed);
  expect_matches(c);
}

TEST(Route, EveryRuleMatches) {
  for (const std::int32_t topk : {1, 2, 5}) {
    unsigned seed = 1;
    for (const Rule& rule : route_cases::rules(topk)) {
      SCOPED_TRACE(rule.name);
      check({.tokens = 11, .experts = 37, .options = rule.options}, seed++);
    }
  }
}

TEST(Route, EveryTopkOfFewAndOddExpertsMatches) {
  std::size_t turn = 0;
  for (const std::int32_t experts : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 60, 64, 65}) {
    for (std::int32_t topk = 1; topk <= std::min(experts, kMaxTopk); ++topk) {
      const std::vector<Rule> rules = route_cases::rules(topk);
      const Rule& rule = rules[turn++ * 7 % rules.size()];
      SCOPED_TRACE(rule.name + ", experts " + std::to_string(experts) + " topk " + std::to_string(topk));
      check({.tokens = 3, .experts = experts, .options = rule.options}, static_cast<unsigned>(turn));
    }
  }
}

TEST(Route, ManyExpertsAndTokensMatch) {
  struct Shape {
    std::int64_t tokens;
    std::int64_t experts;
    std::int32_t topk;
  };
  std::size_t turn = 0;
  for (const Shape& shape : {Shape{130, 128, 8}, Shape{257, 64, 6}, Shape{70, 256, 8}, Shape{65, 130, 4},
                             Shape{33, 512, 10}, Shape{20, 896, 16}, Shape{9, 1024, 32}, Shape{5, 2304, 36},
                             Shape{3, 8160, 16}, Shape{3, 8161, 64}, Shape{2, 8200, 33}, Shape{1, 8200, 1}}) {
    const std::vector<Rule> rules = route_cases::rules(shape.topk);
    for (int i = 0; i < 6; ++i) {
      const Rule& rule = rules[turn++ * 41 % rules.size()];
      SCOPED_TRACE(rule.name + ", experts " + std::to_string(shape.experts));
      check({.tokens = shape.tokens, .experts = shape.experts, .options = rule.options, .threads = 2},
            static_cast<unsigned>(turn));
    }
  }
}

// ---- groups and biases

struct Shape {
  std::int32_t experts, topk, groups, kept_groups, group_best;
};

constexpr Shape kGroupedShapes[] = {{256, 8, 8, 4, 2}, {16, 4, 4, 2, 2},  {160, 6, 8, 3, 1},     {60, 5, 5, 2, 3},
                                    {21, 7, 3, 1, 2},  {12, 12, 4, 4, 1}, {512, 8, 256, 100, 2}, {130, 3, 2, 1, 64}};
constexpr Shape kGrouplessShapes[] = {{64, 6, 0, 0, 1}, {37, 37, 0, 0, 1}, {8200, 9, 0, 0, 1}};

RouterOptions grouped(const Shape& shape, RouterOptions options) {
  options.groups = shape.groups;
  options.kept_groups = shape.kept_groups;
  options.group_best = shape.group_best;
  return options;
}

// Multiples of 1/256 between −0.5 and 0.5, which every float type holds.
std::vector<float> random_bias(std::int64_t experts, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> bias(static_cast<std::size_t>(experts));
  for (float& value : bias) {
    value = static_cast<float>(std::uniform_int_distribution<int>(-128, 128)(random)) / 256;
  }
  return bias;
}

void check_biased(const Shape& shape, const Rule& rule, DType bias_type) {
  SCOPED_TRACE(rule.name + ", experts " + std::to_string(shape.experts) + " groups " + std::to_string(shape.groups) +
               " bias " + dtype_name(bias_type));
  const elements::Elements bias = elements::of(bias_type, random_bias(shape.experts, 12));
  Case c{.tokens = 17, .experts = shape.experts, .options = grouped(shape, rule.options)};
  check(c, 11);
  c.options.selection_bias = bias.view();
  check(c, 12);
  c.options.masked_zero = true;
  check(c, 13);
}

TEST(Route, GroupsAndBiasMatch) {
  std::size_t turn = 0;
  const auto run_shapes = [&](const auto& shapes) {
    for (const Shape& shape : shapes) {
      const std::vector<Rule> rules = route_cases::rules(shape.topk);
      for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
        for (int i = 0; i < 4; ++i) {
          const Rule& rule = rules[turn++ * 19 % rules.size()];
          if (rule.options.score != Score::sparsemixer) {
            check_biased(shape, rule, type);
          }
        }
      }
    }
  };
  run_shapes(kGroupedShapes);
  run_shapes(kGrouplessShapes);
}

TEST(Route, EveryScoreWithGroupsAndBiasMatches) {
  for (const auto& kind : route_cases::kKinds) {
    for (const Normalize normalize : {Normalize::none, Normalize::sum}) {
      RouterOptions options{.topk = 8, .score = kind.score, .normalize = normalize, .epsilon = 1e-20F, .scale = 2.5F};
      options.chosen = kind.chosen;
      check_biased(kGroupedShapes[0], {kind.name, options}, DType::f32);
    }
  }
}

// ---- orders

TEST(Route, OrdersMatch) {
  for (const Order order : {Order::score, Order::expert, Order::any}) {
    for (const std::int32_t topk : {1, 2, 9, 15, 16, 17, 31, 32, 33, 64}) {
      std::size_t turn = static_cast<std::size_t>(topk);
      for (Rule rule : route_cases::rules(topk)) {
        if (turn++ % 23 != 0) continue;
        SCOPED_TRACE(rule.name + ", order " + std::to_string(static_cast<int>(order)));
        rule.options.order = order;
        check({.tokens = 9, .experts = 77, .options = rule.options}, static_cast<unsigned>(turn));
      }
    }
  }
}

TEST(Route, OrderOfTheSparseMixerMovesWeightsWithTheirExperts) {
  Case c{.tokens = 40, .experts = 16, .options = {.topk = 2, .score = Score::sparsemixer}};
  for (const Order order : {Order::score, Order::expert, Order::any}) {
    c.options.order = order;
    check(c, 5);
  }
}

// ---- element types

TEST(Route, NarrowLogitsGiveTheBitsOfTheirValues) {
  for (const DType type : {DType::bf16, DType::f16}) {
    std::size_t turn = 0;
    for (const Rule& rule : route_cases::rules(4)) {
      if (turn++ % 7 != 0) continue;
      SCOPED_TRACE(rule.name + " " + dtype_name(type));
      Case c{.tokens = 19,
             .experts = 45,
             .options = rule.options,
             .wanted = everything_of(rule.options.score),
             .logits_type = type,
             .gap = 3};
      fill(c, 21);
      expect_matches(c);
      const Results narrow = run(c);
      c.logits = elements::rounded(type, c.logits);
      c.logits_type = DType::f32;
      c.gap = 0;
      EXPECT_EQ(narrow, run(c));
    }
  }
}

TEST(Route, NarrowBiasGivesTheBitsOfItsValues) {
  const std::vector<float> values = random_floats(45, 0.3F, 3);
  for (const DType type : {DType::bf16, DType::f16}) {
    const elements::Elements narrow = elements::of(type, values);
    const elements::Elements wide = elements::of(DType::f32, elements::rounded(type, values));
    Case c{.tokens = 19, .experts = 45, .options = {.topk = 7, .score = Score::sigmoid}, .wanted = kEverything};
    c.logits = random_floats(19 * 45, 2.0F, 4);
    c.options.selection_bias = narrow.view();
    const Results found = run(c);
    c.options.selection_bias = wide.view();
    EXPECT_EQ(found, run(c));
  }
}

TEST(Route, NarrowOutputsAreRoundedOnce) {
  for (const DType type : {DType::bf16, DType::f16}) {
    for (const Rule& rule : route_cases::rules(3)) {
      Case c{.tokens = 8, .experts = 21, .options = rule.options, .wanted = kRouting | bit(probability)};
      fill(c, 31, 6.0F);
      const Results wide = run(c);
      c.weight_type = type;
      c.probability_type = type;
      const Results narrow = run(c);
      EXPECT_EQ(narrow.weights(), elements::rounded(type, wide.weights())) << rule.name;
      EXPECT_EQ(narrow.floats(probability), elements::rounded(type, wide.floats(probability))) << rule.name;
    }
  }
}

TEST(Route, EveryIdTypeHoldsTheSameIds) {
  Case c{.tokens = 30, .experts = 8200, .options = {.topk = 20}};
  c.logits = random_floats(30 * 8200, 2.0F, 6);
  const auto ids = run(c).ids();
  for (const DType type : {DType::i16, DType::i64}) {
    c.id_type = type;
    EXPECT_EQ(run(c).ids(), ids) << dtype_name(type);
  }
}

TEST(Route, StridedLogitsGiveTheSameBits) {
  Case c{.tokens = 50, .experts = 33, .options = {.topk = 5}, .wanted = everything_of(Score::softmax), .threads = 2};
  c.logits = random_floats(50 * 33, 2.0F, 7);
  const Results dense = run(c);
  for (const std::int64_t gap : {1, 15, 64}) {
    c.gap = gap;
    EXPECT_EQ(run(c), dense) << gap;
  }
}

}  // namespace
