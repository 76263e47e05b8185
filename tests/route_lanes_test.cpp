// Many tokens are routed side by side and few each on its own: both give the same bytes. Narrow logits of whole blocks are
// read in ways of their own there: they give what their values give.
#include <gtest/gtest.h>

#include "route_cases.hpp"
#include "route_checks.hpp"

namespace {

using namespace route_runs;

constexpr std::int64_t kTokens = 37;  // two times all lanes and a part
constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16};

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
    for (const DType type : kFloats) {
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
  for (const DType type : kFloats) {
    c.logits_type = type;
    expect_like_alone(c);
    expect_matches(c);
  }
}

// ---- narrow logits

void expect_like_widened(Case c) {
  const Results narrow = run(c);
  c.logits = elements::rounded(c.logits_type, c.logits);
  c.logits_type = DType::f32;
  c.gap = 0;
  const Results wide = run(c);
  for (unsigned output = 0; output < kOutputs; ++output) {
    ASSERT_EQ(narrow.bytes[output], wide.bytes[output]) << "output " << output;
  }
}

// What the quick way takes: up to 8 of whole blocks of experts.
struct Narrow {
  std::int64_t experts;
  std::int32_t topk, groups, kept, best;
};
constexpr Narrow kNarrow[] = {{16, 1, 0, 0, 1},  {16, 8, 0, 0, 1},  {32, 3, 0, 0, 1},  {64, 6, 0, 0, 1},
                              {256, 8, 0, 0, 1}, {256, 1, 0, 0, 1}, {32, 2, 2, 1, 2},  {64, 8, 4, 2, 1},
                              {64, 4, 8, 3, 2},  {256, 8, 8, 4, 2}, {256, 5, 16, 3, 3}};

RouterOptions options_of(const Narrow& shape, const route_cases::Kind& kind, Normalize normalize) {
  RouterOptions options{.topk = shape.topk, .score = kind.score, .normalize = normalize, .scale = 2.5F};
  options.chosen = kind.chosen;
  options.groups = shape.groups;
  options.kept_groups = shape.kept;
  options.group_best = shape.best;
  return options;
}

// Each kind of score with each shape, in bf16 and f16, with a bias and without.
template <class Check>
void for_narrow(const Check& check) {
  static const std::vector<float> kBias = route_cases::per_expert(-0.25F, 1.0F / 128, 11);
  for (const Narrow& shape : kNarrow) {
    for (const auto& kind : route_cases::kKinds) {
      for (const DType type : {DType::bf16, DType::f16}) {
        for (const bool biased : {false, true}) {
          const Normalize normalize = shape.topk % 2 == 0 ? Normalize::sum : Normalize::none;
          Case c{.tokens = kTokens, .experts = shape.experts, .options = options_of(shape, kind, normalize)};
          c.options.order = biased && type == DType::f16 ? Order::any : Order::score;
          if (biased) c.options.selection_bias = {kBias.data(), DType::f32};
          c.logits_type = type;
          c.wanted = kSideBySide;
          SCOPED_TRACE(testing::Message() << kind.name << ", " << shape.topk << " of " << shape.experts << " in "
                                          << shape.groups << " groups, " << dtype_name(type) << ", biased " << biased);
          ASSERT_NO_FATAL_FAILURE(check(c));
        }
      }
    }
  }
}

TEST(RouteLanes, NarrowLogitsMatch) {
  unsigned seed = 1;
  for_narrow([&](Case& c) {
    fill(c, seed++);
    expect_matches(c);
    c.wanted |= bit(z_sum);  // of all experts
    expect_matches(c);
  });
}

// Infinities and NaN where experts are chosen by their logits: the rest of a row is still taken side by side.
TEST(RouteLanes, NarrowLogitsThatAreNotFiniteMatch) {
  for (const float odd : {-kInf, kNan}) {
    for_narrow([&](Case& c) {
      if (c.options.selection_bias.data != nullptr || c.options.groups != 0) return;
      if (c.options.score == Score::logit && c.options.chosen == ChosenScore::none)
        return;  // weights would be infinite
      fill(c, 3);
      sprinkle(c.logits, c.experts, odd, 1);
      for (std::int64_t t = 0; t < kTokens; ++t) {  // enough that are finite to choose among
        for (std::int64_t e = 0; e < c.options.topk && t % 3 != 0; ++e) {
          float& logit = c.logits[static_cast<std::size_t>(t * c.experts + e)];
          logit = std::isfinite(logit) ? logit : static_cast<float>(e) / 4;
        }
      }
      expect_matches(c);
    });
  }
}

TEST(RouteLanes, NarrowLogitsGiveTheBytesOfTheirValues) {
  std::vector<std::uint8_t> valid(kTokens, 1);
  for (const std::int64_t off : {0, 15, 16, 30}) valid[static_cast<std::size_t>(off)] = 0;
  for_narrow([&](Case& c) {
    c.logits = tying(c.experts);
    expect_like_widened(c);
    c.gap = 3;
    c.wanted |= bit(z_sum);
    expect_like_widened(c);
    c.gap = 0;
    sprinkle(c.logits, c.experts, -kInf, 1);
    sprinkle(c.logits, c.experts, kInf, 3);
    if (c.options.selection_bias.data == nullptr) sprinkle(c.logits, c.experts, kNan, 2);
    expect_like_widened(c);
    c.wanted = kSideBySide;
    c.inputs.valid = valid.data();
    expect_like_widened(c);
  });
}

TEST(RouteLanes, NarrowLogitsAreRoutedAsEachTokenAlone) {
  for_narrow([&](Case& c) {
    c.wanted = kRouting | bit(chosen_logit);
    c.logits = tying(c.experts);
    sprinkle(c.logits, c.experts, -kInf, 1);
    expect_like_alone(c);
  });
}

// From one token, which is routed on its own, to more than all lanes.
TEST(RouteLanes, AnyNumberOfNarrowTokensMatches) {
  for (const DType type : {DType::bf16, DType::f16}) {
    for (const Score score : {Score::softmax, Score::sigmoid}) {
      for (const std::int64_t tokens : {1, 4, 5, 15, 16, 17, 20, 21, 80}) {
        Case c{.tokens = tokens, .experts = 64, .options = {.topk = 8, .score = score}, .wanted = kSideBySide};
        c.logits_type = type;
        fill(c, static_cast<unsigned>(tokens));
        expect_matches(c);
        expect_like_widened(c);
      }
    }
  }
}

}  // namespace
