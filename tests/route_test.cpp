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

namespace {

using namespace switchyard;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Routed {
  std::vector<std::int32_t> expert;
  std::vector<float> weight;
};

Routed route(const std::vector<float>& logits, std::int64_t experts, std::int32_t topk, bool normalize,
             int threads = 1) {
  const std::int64_t tokens = static_cast<std::int64_t>(logits.size()) / experts;
  Routed routed{std::vector<std::int32_t>(static_cast<std::size_t>(tokens * topk), -7),
                std::vector<float>(static_cast<std::size_t>(tokens * topk), kNan)};
  route_logits({logits.data(), tokens, experts}, {topk, Score::softmax, normalize},
               {tokens, topk, routed.expert.data(), routed.weight.data()}, Threads::pool(threads));
  return routed;
}

void check(const std::vector<float>& logits, std::int64_t experts, std::int32_t topk, bool normalize) {
  const Routed found = route(logits, experts, topk, normalize);
  reference::Table table(static_cast<std::int64_t>(logits.size()) / experts, experts);
  std::copy(logits.begin(), logits.end(), table.value.begin());
  const reference::Routing expected = reference::route(table, topk, normalize);
  EXPECT_EQ(found.expert, expected.expert) << "experts " << experts << " topk " << topk;
  for (std::size_t i = 0; i < found.weight.size(); ++i) {
    EXPECT_NEAR(found.weight[i], expected.weight[i], 1e-6)
        << "experts " << experts << " topk " << topk << " slot " << i;
  }
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

TEST(Route, RefusesWhatCannotBe) {
  const std::vector<float> logits(8);
  std::int32_t expert[8];
  float weight[8];
  const auto call = [&](std::int64_t experts, std::int32_t topk, Routing routing) {
    route_logits({logits.data(), 1, experts}, {topk, Score::softmax, false}, routing);
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

}  // namespace
