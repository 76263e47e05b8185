// `route_backward` against the oracle's gradients, which its own test checks by finite differences.
#include <gtest/gtest.h>

#include "route_cases.hpp"
#include "route_runs.hpp"
#include "tolerances.hpp"

namespace {

using namespace route_runs;
using elements::Elements;

std::int64_t sequence_of(const Case& c, std::int64_t t) {
  std::int64_t s = 0;
  while (c.inputs.sequence_begin != nullptr && c.inputs.sequence_begin[s + 1] <= t) ++s;
  return s;
}

reference::Vector slice(const std::vector<float>& values, std::int64_t row, std::int64_t size) {
  return values.empty() ? reference::Vector{}
                        : reference::Vector(values.begin() + row * size, values.begin() + (row + 1) * size);
}

// The oracle's token with the ids that were chosen, in their order.
reference::Token token_of(const Case& c, const reference::Table& table, const std::vector<std::int64_t>& ids,
                          std::int64_t t) {
  RouteInputs inputs = c.inputs;
  inputs.forced = {ids.data(), DType::i64};
  inputs.replayed = nullptr;
  RouterOptions options = c.options;
  options.table = {};
  return reference::route_token(reference::row_of(table, t), t, options, inputs);
}

void expect_gradient(const Case& c, const std::vector<std::int64_t>& ids, const Gradients& gradients,
                     const Elements& found) {
  const reference::Table table = table_of(c);
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    const reference::Token token = token_of(c, table, ids, t);
    reference::Vector expected(static_cast<std::size_t>(c.experts));
    if (token.valid) {
      expected = reference::token_gradient(
          token, c.options,
          {slice(gradients.weight, t, c.options.topk), slice(gradients.probability, t, c.experts),
           slice(gradients.aux, sequence_of(c, t), c.experts), static_cast<double>(gradients.z)});
    }
    double largest = 1;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    for (std::int64_t e = 0; e < c.experts; ++e) {
      const double value = expected[static_cast<std::size_t>(e)];
      ASSERT_NEAR(elements::value_at(found.view(), t * c.experts + e), value, token.valid ? kF32Tolerance * largest : 0)
          << "token " << t << " expert " << e;
    }
  }
}

// Every third token is padding.
std::vector<std::uint8_t> pad(Case& c) {
  std::vector<std::uint8_t> valid(static_cast<std::size_t>(c.tokens), 1);
  for (std::size_t t = 1; t < valid.size(); t += 3) {
    valid[t] = 0;
    std::fill_n(c.logits.begin() + static_cast<std::ptrdiff_t>(t) * c.experts, c.experts, kNan);
  }
  return valid;
}

TEST(RouteBackward, EveryRuleWithEveryGradientMatches) {
  const std::int64_t begin[] = {0, 4, 4, 10};
  for (const std::int32_t topk : {1, 2, 5}) {
    unsigned seed = 1;
    for (const auto& rule : route_cases::rules(topk)) {
      SCOPED_TRACE(rule.name);
      Case c{.tokens = 10, .experts = 21, .options = rule.options};
      fill(c, seed++);
      const auto valid = pad(c);
      c.inputs.valid = valid.data();
      c.inputs.sequence_begin = begin;
      c.inputs.sequences = 3;
      const auto ids = run(c).ids();
      for (const Parts& parts : kParts) {
        const Gradients gradients = random_gradients(c, parts, 100 * seed);
        expect_gradient(c, ids, gradients, backward(c, ids, gradients));
      }
    }
  }
}

TEST(RouteBackward, ManyExpertsAndSlotsMatch) {
  struct Shape {
    std::int64_t experts;
    std::int32_t topk;
  };
  std::size_t turn = 3;
  for (const Shape& shape : {Shape{1, 1}, Shape{2, 2}, Shape{8, 8}, Shape{16, 15}, Shape{17, 16}, Shape{64, 64},
                             Shape{130, 33}, Shape{256, 8}, Shape{896, 17}, Shape{8200, 64}}) {
    const auto rules = route_cases::rules(shape.topk);
    for (int i = 0; i < 8; ++i) {
      const auto& rule = rules[turn++ * 31 % rules.size()];
      SCOPED_TRACE(rule.name + ", experts " + std::to_string(shape.experts));
      Case c{.tokens = 5, .experts = shape.experts, .options = rule.options};
      fill(c, static_cast<unsigned>(turn));
      const auto ids = run(c).ids();
      for (const Parts& parts : {kParts[0], kParts[6]}) {
        const Gradients gradients = random_gradients(c, parts, static_cast<unsigned>(turn));
        expect_gradient(c, ids, gradients, backward(c, ids, gradients));
      }
    }
  }
}

TEST(RouteBackward, GroupsBiasAndOrdersDoNotEnter) {
  const std::vector<float> bias = random_floats(32, 3.0F, 1);
  for (const Order order : {Order::score, Order::expert, Order::any}) {
    for (const auto& kind : route_cases::kKinds) {
      SCOPED_TRACE(kind.name);
      RouterOptions options{.topk = 4, .score = kind.score, .normalize = Normalize::sum, .epsilon = 1e-20F};
      options.chosen = kind.chosen;
      options.groups = 4;
      options.kept_groups = 2;
      options.selection_bias = {bias.data(), DType::f32};
      options.order = order;
      Case c{.tokens = 12, .experts = 32, .options = options};
      fill(c, 3);
      const auto ids = run(c).ids();
      const Gradients gradients = random_gradients(c, kParts[6], 4);
      expect_gradient(c, ids, gradients, backward(c, ids, gradients));
    }
  }
}

TEST(RouteBackward, FlowsThroughForcedDuplicates) {
  std::mt19937 random(5);
  std::vector<std::int64_t> ids(9 * 6);
  for (auto& id : ids) id = static_cast<std::int64_t>(random() % 4);  // six slots among four experts
  for (const auto& rule : route_cases::rules(6)) {
    SCOPED_TRACE(rule.name);
    Case c{.tokens = 9, .experts = 13, .options = rule.options};
    fill(c, 6);
    const Gradients gradients = random_gradients(c, {true, true, true, true}, 7);
    expect_gradient(c, ids, gradients, backward(c, ids, gradients));
  }
}

// ---- without logits

bool sparse(const RouterOptions& options) {
  return options.score != Score::sparsemixer &&
         (options.score != Score::softmax || (options.normalize == Normalize::sum && options.epsilon == 0));
}

TEST(RouteBackward, SaysWhatIsSparse) {
  for (const std::int32_t topk : {1, 2}) {
    for (const auto& rule : route_cases::rules(topk)) {
      EXPECT_EQ(route_gradient_is_sparse(rule.options), sparse(rule.options)) << rule.name;
    }
  }
}

TEST(RouteBackward, ChosenLogitsGiveTheBitsOfTheLogits) {
  for (const std::int32_t topk : {1, 3, 17}) {
    for (const auto& rule : route_cases::rules(topk)) {
      if (!sparse(rule.options)) continue;
      SCOPED_TRACE(rule.name);
      Case c{.tokens = 14, .experts = 29, .options = rule.options, .wanted = kRouting | bit(chosen_logit)};
      fill(c, 8);
      const auto valid = pad(c);
      c.inputs.valid = valid.data();
      const Results forward = run(c);
      Gradients gradients = random_gradients(c, kParts[2], 9);
      const Elements with = backward(c, forward.ids(), gradients);
      gradients.chosen_logit = forward.floats(chosen_logit);
      EXPECT_EQ(backward(c, forward.ids(), gradients), with) << "beside the logits";
      gradients.with_logits = false;
      EXPECT_EQ(backward(c, forward.ids(), gradients), with) << "without logits";
    }
  }
}

// ---- element types and layouts

TEST(RouteBackward, NarrowGradientsGiveTheBitsOfTheirValuesRoundedOnce) {
  for (const auto& rule : route_cases::rules(3)) {
    SCOPED_TRACE(rule.name);
    for (const DType type : {DType::bf16, DType::f16}) {
      Case c{.tokens = 6, .experts = 19, .options = rule.options, .logits_type = type};
      fill(c, 10);
      const auto ids = run(c).ids();
      Gradients gradients = random_gradients(c, kParts[6], 11);
      gradients.weight_type = type;
      gradients.probability_type = type;
      gradients.type = type;
      const Elements narrow = backward(c, ids, gradients);
      gradients.weight = elements::rounded(type, gradients.weight);
      gradients.probability = elements::rounded(type, gradients.probability);
      gradients.weight_type = gradients.probability_type = gradients.type = DType::f32;
      const Elements wide = backward(c, ids, gradients);
      expect_gradient(c, ids, gradients, wide);
      std::vector<float> values(6 * 19);
      std::memcpy(values.data(), wide.bytes.data(), wide.bytes.size());
      EXPECT_EQ(narrow, elements::of(type, values)) << dtype_name(type);
    }
  }
}

TEST(RouteBackward, EveryIdTypeStrideThreadAndBatchGivesTheSameBits) {
  Case c{.tokens = 150, .experts = 37, .options = {.topk = 4}};
  c.logits = random_floats(150 * 37, 2.0F, 12);
  const auto ids = run(c).ids();
  const Gradients gradients = random_gradients(c, kParts[6], 13);
  const Elements whole = backward(c, ids, gradients);
  Case other = c;
  other.gap = 5;
  other.threads = 3;
  other.poison = 0x3c;
  for (const DType type : {DType::i16, DType::i64}) {
    other.id_type = type;
    EXPECT_EQ(backward(other, ids, gradients), whole) << dtype_name(type);
  }
  const auto rows = [&](const std::vector<float>& values, std::int64_t size) {
    return std::vector<float>(values.begin() + 70 * size, values.begin() + 81 * size);
  };
  Case part = c;
  part.tokens = 11;
  part.logits = rows(c.logits, 37);
  Gradients some = gradients;
  some.weight = rows(gradients.weight, 4);
  some.probability = rows(gradients.probability, 37);
  const Elements found = backward(part, {ids.begin() + 70 * 4, ids.begin() + 81 * 4}, some);
  EXPECT_TRUE(std::equal(found.bytes.begin(), found.bytes.end(), whole.bytes.begin() + 70 * 37 * 4));
}

TEST(RouteBackward, TakesNoTokens) {
  const Case c{.tokens = 0, .experts = 8, .options = {.topk = 2}};
  EXPECT_TRUE(backward(c, {}, random_gradients(c, kParts[3], 1)).bytes.empty());
}

TEST(RouteBackward, AllPaddingIsAllZero) {
  Case c{.tokens = 5, .experts = 11, .options = {.topk = 2}};
  c.logits.assign(55, kNan);
  const std::vector<std::uint8_t> valid(5, 0);
  c.inputs.valid = valid.data();
  for (const Parts& parts : kParts) {
    const Elements found = backward(c, std::vector<std::int64_t>(10, -1), random_gradients(c, parts, 2));
    EXPECT_EQ(found.bytes, std::vector<std::byte>(55 * 4)) << "+0 everywhere";
  }
}

}  // namespace
