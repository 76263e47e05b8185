// Logits that are NaN or infinite where something else is added to them or to their scores: a selection bias, the best of a
// group, cutoffs, the z-loss.
#include <gtest/gtest.h>

#include "route_cases.hpp"
#include "route_checks.hpp"

namespace {

using namespace route_runs;

void fill_with_nan(Case& c) {
  std::mt19937 random(2);
  const auto draw = [&, normal = std::normal_distribution<float>(0, 2.0F)]() mutable {
    return random() % 4 == 0 ? kNan : normal(random);
  };
  c.logits.resize(static_cast<std::size_t>(c.tokens * c.experts));
  std::generate(c.logits.begin(), c.logits.end(), draw);
  separate(c, draw);
}

// A score of a NaN that is a number, as that of −inf is, would be lifted by the bias.
TEST(RouteNan, NoBiasLiftsANanBeforeANumber) {
  const std::vector<float> bias{3.0F, 0.0F};
  for (const float nan : {kNan, kMinusNan}) {
    for (const auto& kind : route_cases::kKinds) {
      RouterOptions options{.topk = 1, .score = kind.score, .chosen = kind.chosen};
      options.selection_bias = f32(bias);
      EXPECT_EQ(ids_of({nan, 5.0F}, options), (std::vector<std::int64_t>{1})) << kind.name;
      options.topk = 2;
      const Results found = run(one_token({nan, 5.0F}, options));
      EXPECT_EQ(found.ids(), (std::vector<std::int64_t>{1, 0})) << kind.name;
      EXPECT_EQ(found.weights(),
                run(one_token({5.0F, -kInf}, {.topk = 2, .score = kind.score, .chosen = kind.chosen})).weights())
          << kind.name;
    }
  }
}

// Every fourth logit is NaN and every third bias large: one token and many, which go different ways, of every type, in rows
// that end within a vector or not, transformed or not.
TEST(RouteNan, NoBiasOrGroupLiftsANan) {
  for (const auto& kind : route_cases::kKinds) {
    for (const std::int64_t experts : {32, 64, 48, 40, 256}) {
      for (const std::int64_t tokens : {1, 16, 21}) {
        for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
          for (const std::int32_t groups : {0, 4}) {
            for (const float logit_scale : {1.0F, 0.5F}) {
              SCOPED_TRACE(std::string(kind.name) + " " + std::to_string(experts) + " experts, " +
                           std::to_string(tokens) + " tokens, " + dtype_name(type));
              Case c{.tokens = tokens, .experts = experts, .options = {.topk = 5}, .wanted = kUsual};
              std::vector<float> bias = random_floats(static_cast<std::size_t>(experts), 0.2F, 1);
              for (std::size_t e = 0; e < bias.size(); e += 3) bias[e] = 50.0F;
              c.options.score = kind.score;
              c.options.chosen = kind.chosen;
              c.options.selection_bias = f32(bias);
              c.options.logit_scale = logit_scale;
              c.options.groups = groups;
              c.options.kept_groups = groups / 2;
              c.options.group_best = 2;
              c.logits_type = type;
              fill_with_nan(c);
              expect_matches(c);
            }
          }
        }
      }
    }
  }
}

TEST(RouteNan, AGroupOfNanIsKeptLast) {
  const std::vector<float> bias(16, 1.0F);
  RouterOptions options{.topk = 2, .score = Score::sigmoid};
  options.groups = 4;
  options.kept_groups = 1;
  options.group_best = 2;
  options.selection_bias = f32(bias);
  std::vector<float> logits(16, -9.0F);
  logits[3] = 9.0F;
  for (const std::size_t e : {0, 1, 2, 4, 5, 6, 8, 9, 10}) logits[e] = kNan;
  EXPECT_EQ(ids_of(logits, options), (std::vector<std::int64_t>{12, 13})) << "the others' best two are not numbers";
}

TEST(RouteNan, ANanIsInNoBinOfTheHistogram) {
  const std::vector<float> bias(6, 0.5F);
  for (const Score score : {Score::sigmoid, Score::sqrt_softplus, Score::logit}) {
    Case c{.tokens = 2, .experts = 6, .options = {.topk = 2, .score = score}};
    c.logits = {0.0F, 1.0F, kNan, 2.0F, 3.0F, 4.0F, 5.0F, kMinusNan, 3.0F, 2.0F, 1.0F, 0.0F};
    c.wanted = bit(cutoff) | bit(histogram);
    for (const ConstArray given : {ConstArray{}, f32(bias)}) {
      c.options.selection_bias = given;
      const Results found = run(c);
      check_quantiles(c, found, reference::route_tokens(table_of(c), c.options, c.inputs));
      const auto bins = found.as<std::int32_t>(histogram);
      EXPECT_EQ(std::accumulate(bins.begin(), bins.end(), 0), 10 + 6 * c.bins * kCountedBefore);
    }
  }
}

// ---- the z-loss of rows whose log(Σ exp(l)) is infinite

TEST(RouteNan, OneRowWithoutANumberDoesNotPoisonTheZLoss) {
  const std::vector<float> numbers{1.0F, -2.0F, 0.5F, 3.0F};
  const Case alone = one_token(numbers, {.topk = 2}, kUsual);
  const std::vector<double> z = run(alone).as<double>(z_sum);
  const Gradients of_z{.z = 0.25F};
  const elements::Elements expected = backward(alone, {3, 0}, of_z);
  const std::vector<std::vector<float>> infinite{{-kInf, -kInf, -kInf, -kInf},
                                                 {kNan, kNan, kNan, kNan},
                                                 {kNan, -kInf, kMinusNan, -kInf},
                                                 {1.0F, kInf, 2.0F, 3.0F},
                                                 {kInf, -kInf, kInf, kNan}};
  for (const auto& kind : route_cases::kKinds) {
    for (const auto& row : infinite) {
      Case c{.tokens = 2, .experts = 4, .logits = row, .options = {.topk = 2, .score = kind.score}, .wanted = kUsual};
      c.options.chosen = kind.chosen;
      c.logits.insert(c.logits.end(), numbers.begin(), numbers.end());
      const Results found = run(c);
      EXPECT_EQ(found.as<double>(z_sum), z) << kind.name;
      EXPECT_EQ(found.as<std::int64_t>(valid_count), std::vector<std::int64_t>{2});
      const elements::Elements dlogits = backward(c, found.ids(), of_z);
      for (std::int64_t e = 0; e < 4; ++e) {
        EXPECT_EQ(elements::value_at(dlogits.view(), e), 0.0) << kind.name;
        EXPECT_EQ(elements::value_at(dlogits.view(), 4 + e), elements::value_at(expected.view(), e)) << kind.name;
      }
    }
  }
}

}  // namespace
