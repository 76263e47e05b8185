// Losses, updates and statistics of balance against their formulas in double, and what they are for: even load.
#include "switchyard/balance.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/route.hpp"

namespace {

using namespace switchyard;

template <class Work>
void expect_invalid(const Work& work, const std::string& message) {
  try {
    work();
    FAIL() << "expected: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_argument);
    EXPECT_EQ(error.what(), message);
  }
}

// Scores [tokens][experts] that sum to 1 for each token, some experts liked more than others.
using Scores = std::vector<std::vector<double>>;

Scores random_scores(std::size_t tokens, std::size_t experts, double skew, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, 1);
  Scores scores(tokens, std::vector<double>(experts));
  for (auto& row : scores) {
    double sum = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      row[e] = std::exp(normal(random) + skew * static_cast<double>(e));
      sum += row[e];
    }
    for (double& score : row) {
      score /= sum;
    }
  }
  return scores;
}

// The experts of a token by score + bias, best first, one more than topk: the last is the cutoff.
std::vector<std::size_t> best(const std::vector<double>& row, const std::vector<float>& bias, std::size_t topk) {
  std::vector<std::size_t> order(row.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return row[a] + bias[a] > row[b] + bias[b]; });
  order.resize(topk + 1);
  return order;
}

std::vector<std::int64_t> counts_of(const Scores& scores, const std::vector<float>& bias, std::size_t topk) {
  std::vector<std::int64_t> count(bias.size());
  for (const auto& row : scores) {
    const auto chosen = best(row, bias, topk);
    for (std::size_t s = 0; s < topk; ++s) {
      ++count[chosen[s]];
    }
  }
  return count;
}

std::vector<double> sums_of(const Scores& scores, std::size_t experts) {
  std::vector<double> sum(experts);
  for (const auto& row : scores) {
    for (std::size_t e = 0; e < experts; ++e) {
      sum[e] += row[e];
    }
  }
  return sum;
}

constexpr std::size_t kExperts = 7;
constexpr std::size_t kTopk = 2;

// What the routing of a batch without bias gives.
struct Batch {
  Scores scores;
  std::vector<std::int64_t> count;
  std::vector<double> score_sum;

  Batch(std::size_t tokens, unsigned seed) : Batch(random_scores(tokens, kExperts, 0.3, seed)) {}
  explicit Batch(Scores scores_)
      : scores(std::move(scores_)),
        count(counts_of(scores, std::vector<float>(kExperts), kTopk)),
        score_sum(sums_of(scores, kExperts)) {}

  std::int64_t tokens() const { return static_cast<std::int64_t>(scores.size()); }
  BalanceLoss loss(double coefficient) const {
    return {count, tokens(), score_sum, tokens(), static_cast<std::int32_t>(kTopk), coefficient};
  }
};

TEST(BalanceLoss, IsTheProductOfFractionsAndMeanScores) {
  const Batch batch(53, 1);
  // f_e = E / (K T) Σ_t [e chosen], P_e = 1 / T Σ_t score, as the papers write it.
  double expected = 0;
  for (std::size_t e = 0; e < kExperts; ++e) {
    const double fraction = 7.0 / (2.0 * 53.0) * static_cast<double>(batch.count[e]);
    double mean = 0;
    for (const auto& row : batch.scores) {
      mean += row[e] / 53.0;
    }
    expected += 0.01 * fraction * mean;
  }
  EXPECT_NEAR(balance_loss(batch.loss(0.01)), expected, 1e-15);
}

TEST(BalanceLoss, IsTheCoefficientForEvenLoadAndMoreWhereLoadFollowsTheScores) {
  constexpr std::int64_t kTokens = 28;
  const std::vector<double> score_sum = sums_of(random_scores(kTokens, kExperts, 0.5, 2), kExperts);
  const std::vector<std::int64_t> even(kExperts, kTokens * 2 / 7);
  EXPECT_NEAR(balance_loss({even, kTokens, score_sum, kTokens, 2, 0.25}), 0.25, 1e-15);
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::int64_t> count(kExperts);
    for (std::int64_t slot = 0; slot < kTokens * 2; ++slot) {
      ++count[random() % kExperts];
    }
    std::vector<double> same_shares(kExperts);
    for (std::size_t e = 0; e < kExperts; ++e) {
      same_shares[e] = static_cast<double>(count[e]) / 2.0;
    }
    const double value = balance_loss({count, kTokens, same_shares, kTokens, 2, 0.25});
    if (count == even) {
      EXPECT_NEAR(value, 0.25, 1e-15);
    } else {
      EXPECT_GT(value, 0.25);
    }
  }
  std::vector<std::int64_t> on_one(kExperts);
  std::vector<double> scores_on_one(kExperts);
  on_one[3] = kTokens;
  scores_on_one[3] = kTokens;
  EXPECT_NEAR(balance_loss({on_one, kTokens, scores_on_one, kTokens, 1, 0.25}), 0.25 * 7, 1e-14);
}

TEST(BalanceLoss, GradientIsTheSlopeInTheScoreOfAnyToken) {
  const Batch batch(40, 3);
  BalanceLoss loss = batch.loss(0.5);
  loss.count_tokens = 100;  // of several ranks
  std::vector<float> gradient(kExperts, NAN);
  const double value = balance_loss(loss, gradient);
  EXPECT_EQ(value, balance_loss(loss));
  for (const std::size_t token : {0, 39}) {
    for (std::size_t e = 0; e < kExperts; ++e) {
      Scores moved = batch.scores;
      moved[token][e] += 0.125;
      BalanceLoss after = loss;
      const std::vector<double> score_sum = sums_of(moved, kExperts);
      after.score_sum = score_sum;
      EXPECT_NEAR(gradient[e], (balance_loss(after) - value) / 0.125, 1e-8) << "token " << token << " expert " << e;
    }
  }
}

TEST(BalanceLoss, AddsToAGradient) {
  const Batch batch(40, 4);
  std::vector<float> first(kExperts);
  std::vector<float> second(kExperts);
  balance_loss(batch.loss(0.5), first);
  balance_loss(batch.loss(2.0), second);
  std::vector<float> both(kExperts, NAN);
  balance_loss(batch.loss(0.5), both);
  balance_loss(batch.loss(2.0), both, true);
  for (std::size_t e = 0; e < kExperts; ++e) {
    EXPECT_FLOAT_EQ(both[e], first[e] + second[e]);
  }
}

TEST(BalanceLoss, WithoutTokensIsZeroWithAZeroGradient) {
  const std::vector<std::int64_t> count(kExperts, 3);
  const std::vector<double> score_sum(kExperts, 1.0);
  for (const auto& [counted, scored] : {std::pair{0, 5}, std::pair{5, 0}, std::pair{0, 0}}) {
    std::vector<float> gradient(kExperts, NAN);
    const BalanceLoss loss{count, counted, score_sum, scored, 2, 1.0};
    EXPECT_EQ(balance_loss(loss, gradient), 0.0);
    EXPECT_EQ(gradient, std::vector<float>(kExperts));
    gradient.assign(kExperts, 4.0F);
    EXPECT_EQ(balance_loss(loss, gradient, true), 0.0);
    EXPECT_EQ(gradient, std::vector<float>(kExperts, 4.0F));
  }
  EXPECT_EQ(balance_loss({}), 0.0);
}

// The mean over micro-batches of losses with the counts of all is the loss of all tokens together; with their own
// counts it is another.
TEST(BalanceLoss, GlobalCountsMakeMicroBatchesOneBatch) {
  const Batch all(60, 5);
  double global = 0;
  double apart = 0;
  std::vector<float> of_all(kExperts);
  const double expected = balance_loss(all.loss(0.1), of_all);
  for (std::ptrdiff_t begin = 0; begin < 60; begin += 20) {
    const Batch part({all.scores.begin() + begin, all.scores.begin() + begin + 20});
    apart += balance_loss(part.loss(0.1)) / 3;
    BalanceLoss loss = part.loss(0.1);
    loss.count = all.count;
    loss.count_tokens = all.tokens();
    std::vector<float> of_part(kExperts);
    global += balance_loss(loss, of_part) / 3;
    for (std::size_t e = 0; e < kExperts; ++e) {
      EXPECT_NEAR(of_part[e] / 3, of_all[e], 1e-9);  // the same token, in its part and in the whole
    }
  }
  EXPECT_NEAR(global, expected, 1e-15);
  EXPECT_GT(std::abs(apart - expected), 1e-5);
}

TEST(BalanceLoss, WrongSizesThrow) {
  const std::vector<std::int64_t> count(4);
  const std::vector<double> score_sum(3);
  const std::vector<double> right(4);
  std::vector<float> gradient(5, 1.0F);
  expect_invalid(
      [&] {
        balance_loss({count, 1, score_sum, 1, 1, 1.0});
      },
      "balance: found 4 counts, 3 score sums and a gradient of 0, expected the same number, or no gradient");
  expect_invalid(
      [&] {
        balance_loss({count, 1, right, 1, 1, 1.0}, gradient);
      },
      "balance: found 4 counts, 4 score sums and a gradient of 5, expected the same number, or no gradient");
  EXPECT_EQ(gradient, std::vector<float>(5, 1.0F));
  expect_invalid(
      [&] {
        balance_loss({count, 1, right, 1, 0, 1.0});
      },
      "balance: found topk 0, 1 counted and 1 scored tokens, expected topk of at least 1 and no negative "
      "number");
  expect_invalid(
      [&] {
        balance_loss({count, 1, right, -2, 1, 1.0});
      },
      "balance: found topk 1, 1 counted and -2 scored tokens, expected topk of at least 1 and no negative "
      "number");
}

TEST(ZLoss, IsTheMeanSquareWithItsSlope) {
  const ZLoss loss = z_loss(37.5, 12, 0.001);
  EXPECT_DOUBLE_EQ(loss.value, 0.001 * 37.5 / 12);
  EXPECT_FLOAT_EQ(loss.gradient, static_cast<float>((z_loss(38.5, 12, 0.001).value - loss.value)));
  const ZLoss none = z_loss(0.0, 0, 0.001);
  EXPECT_EQ(none.value, 0.0);
  EXPECT_EQ(none.gradient, 0.0F);
}

TEST(UpdateBias, MovesByTheSignOfWhatIsMissing) {
  std::vector<float> bias{0.5F, -0.25F, 0.0F, 1.0F};
  const std::vector<std::int64_t> count{10, 2, 4, 0};  // mean 4
  update_bias(bias, count, 0.125F);
  EXPECT_EQ(bias, (std::vector<float>{0.375F, -0.125F, 0.0F, 1.125F}));
  update_bias(bias, count, 0.125F, true);
  const double mean = (0.25 + 0.0 + 0.0 + 1.25) / 4;
  EXPECT_EQ(bias, (std::vector<float>{static_cast<float>(0.25 - mean), static_cast<float>(-mean),
                                      static_cast<float>(-mean), static_cast<float>(1.25 - mean)}));
}

// A mean of 10 / 3 is no count; rounded counts and means must not look equal or unequal by chance.
TEST(UpdateBias, EvenLoadMovesNothingAndAnyOtherDoes) {
  std::vector<float> bias(3, 0.5F);
  update_bias(bias, std::vector<std::int64_t>(3, 333333333333), 0.125F);
  EXPECT_EQ(bias, std::vector<float>(3, 0.5F));
  update_bias(bias, std::vector<std::int64_t>{333333333333, 333333333334, 333333333333}, 0.125F);
  EXPECT_EQ(bias, (std::vector<float>{0.625F, 0.375F, 0.625F}));
  update_bias(bias, std::vector<std::int64_t>(3, 0), 0.125F);
  EXPECT_EQ(bias, (std::vector<float>{0.625F, 0.375F, 0.625F}));
  update_bias({}, {}, 0.125F, true);
}

TEST(UpdateBias, EvensTheLoadOut) {
  const Scores scores = random_scores(1500, kExperts, 0.3, 6);
  for (const bool centered : {false, true}) {
    std::vector<float> bias(kExperts);
    EXPECT_GT(load_statistics(counts_of(scores, bias, kTopk)).max_over_mean, 1.8);
    for (int step = 0; step < 400; ++step) {
      update_bias(bias, counts_of(scores, bias, kTopk), 0.001F, centered);
    }
    EXPECT_LT(load_statistics(counts_of(scores, bias, kTopk)).max_over_mean, 1.05);
    if (centered) {
      EXPECT_NEAR(std::accumulate(bias.begin(), bias.end(), 0.0), 0.0, 1e-6);
    }
  }
}

TEST(UpdateBias, WrongSizesThrow) {
  std::vector<float> bias(4);
  expect_invalid([&] { update_bias(bias, std::vector<std::int64_t>(5), 0.1F); },
                 "balance: found 4 biases and 5 counts, expected the same number");
}

TEST(UpdateBiasByQuantile, IsLinearWithinABin) {
  std::vector<float> bias{9.0F, 9.0F, 9.0F, 5.0F};
  // Of 8 entries each a quarter is below: 2.
  const std::vector<std::int32_t> histogram{
      0, 4, 4, 0,  // the middle of bin 1: −2 + 1.5
      2, 0, 6, 0,  // the end of bin 0: −2 + 1
      0, 0, 0, 8,  // a quarter of bin 3: −2 + 3.25
      0, 0, 0, 0,  // keeps 5
  };
  const QuantileBounds next = update_bias_by_quantile(bias, histogram, {-2.0F, 2.0F}, 1);
  const double mean = (-0.5 - 1.0 + 1.25 + 5.0) / 4;
  const std::vector<double> expected{-0.5 - mean, -1.0 - mean, 1.25 - mean, 5.0 - mean};
  for (std::size_t e = 0; e < 4; ++e) {
    EXPECT_FLOAT_EQ(bias[e], static_cast<float>(expected[e])) << e;
  }
  EXPECT_FLOAT_EQ(next.lower, static_cast<float>(expected[1] - 1));
  EXPECT_FLOAT_EQ(next.upper, static_cast<float>(expected[3] + 1));
}

TEST(UpdateBiasByQuantile, EvensTheLoadOutInAFewSteps) {
  constexpr std::size_t kBins = 1000;
  const Scores scores = random_scores(3000, kExperts, 0.3, 7);
  std::vector<float> bias(kExperts);
  QuantileBounds bounds{-1.0F, 1.0F};
  EXPECT_GT(load_statistics(counts_of(scores, bias, kTopk)).max_over_mean, 1.8);
  for (int step = 0; step < 30; ++step) {
    std::vector<std::int32_t> histogram(kExperts * kBins);
    for (const auto& row : scores) {
      const std::size_t last = best(row, bias, kTopk).back();
      for (std::size_t e = 0; e < kExperts; ++e) {
        const double needed = row[last] + bias[last] - row[e];
        const double bin = std::floor((needed - bounds.lower) / (bounds.upper - bounds.lower) * kBins);
        ++histogram[e * kBins + static_cast<std::size_t>(std::clamp(bin, 0.0, kBins - 1.0))];
      }
    }
    bounds = update_bias_by_quantile(bias, histogram, bounds, kTopk);
    EXPECT_NEAR(std::accumulate(bias.begin(), bias.end(), 0.0), 0.0, 1e-6);
    EXPECT_EQ(bounds.lower, *std::min_element(bias.begin(), bias.end()) - 1.0F);
    EXPECT_EQ(bounds.upper, *std::max_element(bias.begin(), bias.end()) + 1.0F);
  }
  EXPECT_LT(load_statistics(counts_of(scores, bias, kTopk)).max_over_mean, 1.05);
}

// A router that likes some experts more than others, in two micro-batches that share a histogram; every seventh token is
// padding.
class SkewedRouter {
 public:
  static constexpr std::int64_t kTokens = 1500;  // of a micro-batch
  static constexpr std::int64_t kRouted = 20;    // experts
  static constexpr std::int32_t kChosen = 4;
  static constexpr std::int32_t kBins = 1000;

  SkewedRouter() : logits_(static_cast<std::size_t>(2 * kTokens * kRouted)), valid_(2 * kTokens, 1) {
    std::mt19937 random(8);
    std::normal_distribution<float> normal(0, 1);
    for (std::size_t i = 0; i < logits_.size(); ++i) {
      logits_[i] = normal(random) + 0.1F * static_cast<float>(i % kRouted);
    }
    for (std::size_t t = 0; t < valid_.size(); t += 7) {
      valid_[t] = 0;
      // Were it counted, the last expert would have it all.
      logits_[t * kRouted + kRouted - 1] = 50.0F;
    }
  }

  // The load with the bias of now; adds to the histogram.
  LoadStatistics route(const std::vector<float>& bias, QuantileBounds bounds, std::vector<std::int32_t>& histogram) {
    std::vector<std::int64_t> count(2 * kRouted);
    for (std::int64_t part = 0; part < 2; ++part) {
      RouterOptions options{.topk = kChosen, .score = Score::sigmoid, .normalize = Normalize::sum};
      options.selection_bias = {bias.data(), DType::f32};
      RouteInputs inputs;
      inputs.valid = valid_.data() + part * kTokens;
      RouteOutputs outputs;
      outputs.count = count.data() + part * kRouted;
      outputs.histogram = histogram.data();
      outputs.bins = kBins;
      outputs.qb_lower = bounds.lower;
      outputs.qb_upper = bounds.upper;
      switchyard::route(ConstMatrix(logits_.data() + part * kTokens * kRouted, kTokens, kRouted), options, inputs,
                        outputs, workspace_);
    }
    for (std::size_t e = 0; e < kRouted; ++e) {
      count[e] += count[kRouted + e];
    }
    count.resize(kRouted);
    return load_statistics(count);
  }

  std::int64_t valid_tokens() const { return std::count(valid_.begin(), valid_.end(), 1); }

 private:
  std::vector<float> logits_;
  std::vector<std::uint8_t> valid_;
  Workspace workspace_{route_workspace_bytes(kTokens, kRouted)};
};

TEST(UpdateBiasByQuantile, EvensTheLoadOfARouterOut) {
  SkewedRouter router;
  std::vector<float> bias(SkewedRouter::kRouted);
  QuantileBounds bounds{-1.0F, 1.0F};
  LoadStatistics load;
  for (int step = 0; step < 12; ++step) {
    std::vector<std::int32_t> histogram(SkewedRouter::kRouted * SkewedRouter::kBins);
    load = router.route(bias, bounds, histogram);
    EXPECT_EQ(load.slots, SkewedRouter::kChosen * router.valid_tokens());
    for (auto bins = histogram.begin(); bins != histogram.end(); bins += SkewedRouter::kBins) {
      EXPECT_EQ(std::accumulate(bins, bins + SkewedRouter::kBins, std::int64_t{0}), router.valid_tokens());
    }
    if (step == 0) {
      EXPECT_GT(load.max_over_mean, 1.8);
    }
    bounds = update_bias_by_quantile(bias, histogram, bounds, SkewedRouter::kChosen);
  }
  EXPECT_LT(load.max_over_mean, 1.03);
  EXPECT_GT(bias.front(), bias.back()) << "who is liked less needs more";
}

TEST(UpdateBiasByQuantile, WrongInputThrows) {
  std::vector<float> bias{1.0F, 2.0F, 3.0F};
  std::vector<std::int32_t> histogram(12, 1);
  const auto update = [&](std::size_t size, QuantileBounds bounds, std::int32_t topk) {
    return [=, &bias, &histogram] {
      update_bias_by_quantile(bias, std::span<const std::int32_t>(histogram).first(size), bounds, topk);
    };
  };
  expect_invalid(update(12, {0, 1}, 3),
                 "balance: found topk 3 for 3 experts, expected at least 1 and fewer than the experts");
  expect_invalid(update(12, {0, 1}, 0),
                 "balance: found topk 0 for 3 experts, expected at least 1 and fewer than the experts");
  expect_invalid(update(11, {0, 1}, 1),
                 "balance: found a histogram of 11 bins for 3 experts, expected the same for each");
  expect_invalid(update(0, {0, 1}, 1),
                 "balance: found a histogram of 0 bins for 3 experts, expected the same for each");
  expect_invalid(update(12, {1, 1}, 1), "balance: found bins from 1 to 1, expected finite bounds, the lower one first");
  expect_invalid(update(12, {0, INFINITY}, 1),
                 "balance: found bins from 0 to inf, expected finite bounds, the lower one first");
  expect_invalid(update(12, {NAN, 1}, 1),
                 "balance: found bins from nan to 1, expected finite bounds, the lower one first");
  histogram[6] = -5;
  expect_invalid(update(12, {0, 1}, 1), "balance: expert 1 bin 2 holds -5 entries, expected no negative number");
  EXPECT_EQ(bias, (std::vector<float>{1.0F, 2.0F, 3.0F}));
}

TEST(LoadStatistics, SayHowEvenTheLoadIs) {
  const LoadStatistics even = load_statistics(std::vector<std::int64_t>(8, 5));
  EXPECT_DOUBLE_EQ(even.max_over_mean, 1.0);
  EXPECT_NEAR(even.entropy, std::log(8.0), 1e-15);
  EXPECT_EQ(even.unused, 0);
  EXPECT_EQ(even.slots, 40);
  const LoadStatistics one = load_statistics(std::vector<std::int64_t>{0, 0, 17, 0});
  EXPECT_DOUBLE_EQ(one.max_over_mean, 4.0);
  EXPECT_EQ(one.entropy, 0.0);
  EXPECT_EQ(one.unused, 3);
  EXPECT_EQ(one.slots, 17);
  const LoadStatistics some = load_statistics(std::vector<std::int64_t>{1, 3, 0, 4});
  EXPECT_DOUBLE_EQ(some.max_over_mean, 2.0);
  EXPECT_NEAR(some.entropy, -(0.125 * std::log(0.125) + 0.375 * std::log(0.375) + 0.5 * std::log(0.5)), 1e-15);
  EXPECT_EQ(some.unused, 1);
  for (const std::size_t experts : {0, 3}) {
    const LoadStatistics none = load_statistics(std::vector<std::int64_t>(experts));
    EXPECT_EQ(none.max_over_mean, 0.0);
    EXPECT_EQ(none.entropy, 0.0);
    EXPECT_EQ(none.unused, static_cast<std::int64_t>(experts));
    EXPECT_EQ(none.slots, 0);
  }
}

}  // namespace
