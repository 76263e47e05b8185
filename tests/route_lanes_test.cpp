// Many tokens are routed side by side and few each on its own: both give the same bytes.
#include <gtest/gtest.h>

#include "route_checks.hpp"

namespace {

using namespace route_runs;

constexpr std::int64_t kTokens = 37;  // two times all lanes and a part

Case token_of(const Case& c, std::int64_t t) {
  Case alone = c;
  alone.tokens = 1;
  alone.logits.assign(c.logits.begin() + t * c.experts, c.logits.begin() + (t + 1) * c.experts);
  if (c.inputs.valid != nullptr) alone.inputs.valid = c.inputs.valid + t;
  return alone;
}

std::vector<std::byte> row_of(const Results& all, Output output, std::int64_t t) {
  const auto bytes = static_cast<std::ptrdiff_t>(all.bytes[output].size()) / kTokens;
  return {all.bytes[output].begin() + t * bytes, all.bytes[output].begin() + (t + 1) * bytes};
}

void expect_like_alone(const Case& c) {
  const Results together = run(c);
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    const Results alone = run(token_of(c, t));
    for (const Output output : {expert, weight, chosen_logit}) {
      ASSERT_EQ(row_of(together, output, t), alone.bytes[output]) << "token " << t << " output " << output;
    }
  }
}

// Every row from fewer values than the one before, down to one: ties in and between groups.
std::vector<float> tying(std::int64_t experts) {
  std::vector<float> logits = random_floats(static_cast<std::size_t>(kTokens * experts), 1.5F, 5);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto row = static_cast<std::int64_t>(i) / experts;
    const float grid = 64.0F / static_cast<float>(1 + row * row);
    logits[i] = row + 1 == kTokens ? 0.5F : std::round(logits[i] * grid) / grid;
  }
  return logits;
}

void sprinkle(std::vector<float>& logits, std::int64_t experts, float value, std::int64_t first_row) {
  for (std::int64_t t = first_row; t < kTokens; t += 5) {
    for (std::int64_t e = t % 3; e < experts; e += 1 + t % 4) logits[static_cast<std::size_t>(t * experts + e)] = value;
  }
}

struct Groups {
  std::int64_t experts;
  std::int32_t groups, kept;
};

TEST(RouteLanes, GroupsAreThoseOfEachTokenAlone) {
  const Groups shapes[] = {{256, 8, 4}, {256, 8, 1}, {256, 16, 3},  {64, 4, 2},    {128, 2, 1},
                           {160, 8, 3}, {48, 3, 2},  {512, 32, 16}, {1024, 16, 9}, {1024, 2, 2}};
  for (const Groups& shape : shapes) {
    const std::vector<float> bias = random_floats(static_cast<std::size_t>(shape.experts), 0.3F, 6);
    for (const std::int32_t best : {1, 2, 3}) {
      for (const bool masked_zero : {false, true}) {
        Case c{.tokens = kTokens, .experts = shape.experts, .logits = tying(shape.experts)};
        c.wanted = kRouting | bit(chosen_logit);
        c.options = {.topk = 8, .score = best == 2 ? Score::sigmoid : Score::logit};
        c.options.groups = shape.groups;
        c.options.kept_groups = shape.kept;
        c.options.group_best = best;
        c.options.masked_zero = masked_zero;
        SCOPED_TRACE(testing::Message() << shape.experts << " experts, " << shape.kept << " of " << shape.groups
                                        << " groups, best " << best << ", masked zero " << masked_zero);
        expect_like_alone(c);
        c.options.selection_bias = {bias.data(), DType::f32};
        expect_like_alone(c);
        sprinkle(c.logits, c.experts, -kInf, 1);
        sprinkle(c.logits, c.experts, kNan, 2);
        sprinkle(c.logits, c.experts, kInf, 3);
        expect_like_alone(c);
      }
    }
  }
}

TEST(RouteLanes, RowsOfAnyLengthAreWrittenWhereTheyBelong) {
  std::vector<std::uint8_t> valid(kTokens, 1);
  for (const std::int64_t off : {7, 18, 19, 31}) valid[static_cast<std::size_t>(off)] = 0;
  for (const std::int32_t topk : {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 64}) {
    for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
      Case c{.tokens = kTokens, .experts = 100, .logits = random_floats(3700, 2.0F, 7)};
      c.options = {.topk = topk};
      c.wanted = kRouting | bit(chosen_logit);
      c.weight_type = type;
      SCOPED_TRACE(topk);
      expect_like_alone(c);
      c.inputs.valid = valid.data();
      expect_like_alone(c);
      c.id_type = DType::i64;
      expect_like_alone(c);
    }
  }
}

// 16 elements reach the bound, as many as are sorted, before a whole mask of 64 that reaches it, too.
TEST(RouteLanes, TiesBehindAsManyCandidatesAsAreSorted) {
  Case c{.tokens = kTokens, .experts = 256, .logits = std::vector<float>(kTokens * 256, -1.0F)};
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const auto row = c.logits.begin() + t * 256;
    std::fill_n(row, 16, 1.0F);
    std::fill_n(row + 64 * (1 + t % 3), 64, 1.0F);
  }
  c.options = {.topk = 8};
  c.wanted = kRouting | bit(chosen_logit);
  expect_like_alone(c);
  expect_matches(c);
}

}  // namespace
