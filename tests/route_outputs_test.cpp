// What `route` writes: each output on its own, and everything that may come with the tokens.
#include <gtest/gtest.h>

#include "route_cases.hpp"
#include "route_checks.hpp"

namespace {

using namespace route_runs;

// Every third token is padding, with logits that must not be looked at.
std::vector<std::uint8_t> pad(Case& c) {
  std::vector<std::uint8_t> valid;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    valid.push_back(t % 3 == 1 ? std::uint8_t{0} : static_cast<std::uint8_t>(1 + t % 2 * 7));
    if (valid.back() == 0) {
      std::fill_n(c.logits.begin() + t * c.experts, c.experts, t % 2 == 0 ? kNan : kInf);
    }
  }
  return valid;
}

std::vector<route_cases::Rule> some_rules(std::int32_t topk) {
  std::vector<route_cases::Rule> some;
  const auto all = route_cases::rules(topk);
  for (std::size_t i = 0; i < all.size(); i += 13) {
    some.push_back(all[i]);
  }
  return some;
}

// ---- each on its own

void expect_subsets_agree(const Case& whole) {
  const Results all = run(whole);
  std::mt19937 random(1);
  for (unsigned i = 0; i < kOutputs + 16; ++i) {
    Case part = whole;
    part.wanted = (i < kOutputs ? 1U << i : static_cast<unsigned>(random())) & whole.wanted;
    const Results found = run(part);
    for (unsigned output = 0; output < kOutputs; ++output) {
      if ((part.wanted >> output & 1) != 0) {
        EXPECT_EQ(found.bytes[output], all.bytes[output]) << "output " << output << " of " << part.wanted;
      }
    }
  }
}

TEST(RouteOutputs, BitsDoNotDependOnWhatElseIsAskedFor) {
  for (const std::int32_t topk : {1, 2, 17}) {
    for (const auto& rule : some_rules(topk)) {
      SCOPED_TRACE(rule.name);
      Case c{.tokens = 21, .experts = 43, .options = rule.options, .wanted = everything_of(rule.options.score)};
      fill(c, 1);
      const auto valid = pad(c);
      c.inputs.valid = valid.data();
      expect_subsets_agree(c);
    }
  }
}

TEST(RouteOutputs, BitsDoNotDependOnWhatElseIsAskedForWithGroupsAndEveryOrder) {
  const std::vector<float> bias = random_floats(48, 0.2F, 2);
  for (const Order order : {Order::score, Order::expert, Order::any}) {
    RouterOptions options{.topk = 6, .score = Score::sigmoid, .normalize = Normalize::sum, .epsilon = 1e-20F};
    options.groups = 4;
    options.kept_groups = 2;
    options.group_best = 2;
    options.selection_bias = {bias.data(), DType::f32};
    options.order = order;
    Case c{.tokens = 21, .experts = 48, .options = options, .wanted = kUsual};
    c.logits = random_floats(21 * 48, 2.0F, 3);
    expect_subsets_agree(c);
  }
}

TEST(RouteOutputs, NothingAskedForIsNothingWritten) {
  Case c{.tokens = 4, .experts = 8, .options = {.topk = 2}, .wanted = 0};
  c.logits = random_floats(32, 1.0F, 1);
  EXPECT_EQ(run(c), Results{});
}

TEST(RouteOutputs, EveryElementIsWrittenWhateverWasThere) {
  for (const auto& rule : some_rules(3)) {
    SCOPED_TRACE(rule.name);
    Case c{.tokens = 22, .experts = 35, .options = rule.options, .wanted = everything_of(rule.options.score)};
    fill(c, 4);
    const auto valid = pad(c);
    c.inputs.valid = valid.data();
    const Results first = run(c);
    c.poison = 0x3c;
    EXPECT_EQ(run(c), first);
  }
}

// ---- padding

TEST(RouteOutputs, PaddingIsRoutedNowhere) {
  for (const auto& rule : some_rules(4)) {
    for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(rule.name);
      Case c{.tokens = 31,
             .experts = 26,
             .options = rule.options,
             .wanted = everything_of(rule.options.score),
             .logits_type = type};
      fill(c, 5);
      const auto valid = pad(c);
      c.inputs.valid = valid.data();
      expect_matches(c);
      const Results found = run(c);
      for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_EQ(found.as<std::uint32_t>(weight)[4 + i], 0U) << "weights of padding are +0";
      }
    }
  }
}

TEST(RouteOutputs, PaddingLeavesTheOtherTokensAlone) {
  Case c{.tokens = 30, .experts = 26, .options = {.topk = 4}};
  c.logits = random_floats(30 * 26, 1.0F, 6);
  const Results unpadded = run(c);
  const auto valid = pad(c);
  c.inputs.valid = valid.data();
  const Results padded = run(c);
  for (std::size_t slot = 0; slot < 30 * 4; ++slot) {
    if (valid[slot / 4] != 0) {
      EXPECT_EQ(padded.ids()[slot], unpadded.ids()[slot]);
      EXPECT_EQ(padded.weights()[slot], unpadded.weights()[slot]);
    }
  }
}

// ---- replay

// Ids of every kind: of this token, duplicates, and garbage in rows that are missing.
struct Replay {
  elements::Elements ids;
  std::vector<std::uint8_t> present;
};

Replay replay(const Case& c, DType type, bool garbage) {
  std::mt19937 random(9);
  std::vector<std::int64_t> ids;
  std::vector<std::uint8_t> present;
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    present.push_back(t % 5 == 2 ? 0 : 1);
    for (std::int64_t s = 0; s < c.options.topk; ++s) {
      ids.push_back(static_cast<std::int64_t>(random() % static_cast<unsigned long>(c.experts)));
    }
    if (t % 5 == 2 && garbage) ids.back() = 32767;
    if (t % 5 == 3) ids[ids.size() - static_cast<std::size_t>(c.options.topk) / 2 - 1] = -1;
    if (t % 5 == 4) ids.back() = ids[ids.size() - static_cast<std::size_t>(c.options.topk)];
  }
  return {elements::of(type, ids), present};
}

TEST(RouteOutputs, ForcedIdsKeepTheirOrderAndGetLiveWeights) {
  for (const std::int32_t topk : {1, 3, 18}) {
    for (const auto& rule : some_rules(topk)) {
      for (const Order order : {Order::score, Order::expert, Order::any}) {
        SCOPED_TRACE(rule.name);
        Case c{.tokens = 25, .experts = 40, .options = rule.options, .wanted = kUsual};
        c.options.order = order;
        const std::vector<float> bias = random_floats(40, 0.2F, 8);
        c.options.selection_bias = {bias.data(), DType::f32};
        const DType types[] = {DType::i16, DType::i32, DType::i64};
        const Replay forced = replay(c, types[static_cast<int>(order)], true);
        c.inputs.forced = forced.ids.view();
        c.inputs.replayed = forced.present.data();
        fill(c, 7);
        expect_matches(c);
      }
    }
  }
}

TEST(RouteOutputs, WithoutAMaskEveryForcedRowCounts) {
  Case c{.tokens = 25, .experts = 40, .options = {.topk = 3, .score = Score::sigmoid}};
  const Replay forced = replay(c, DType::i32, false);
  c.inputs.forced = forced.ids.view();
  fill(c, 7);
  expect_matches(c);
  const auto ids = run(c).ids();
  for (std::int64_t t : {0, 1, 2, 4}) {
    EXPECT_EQ(ids[static_cast<std::size_t>(3 * t)], elements::id_at(forced.ids.view(), 3 * t)) << "token " << t;
  }
}

TEST(RouteOutputs, ForcedDuplicatesCountTwice) {
  const std::int32_t ids[] = {2, 2, 0};
  Case c{.tokens = 1, .experts = 4, .options = {.topk = 3, .score = Score::sigmoid, .normalize = Normalize::sum}};
  c.logits = {0.0F, 1.0F, 0.0F, 3.0F};
  c.inputs.forced = {ids, DType::i32};
  c.wanted = kUsual;
  const Results found = run(c);
  EXPECT_EQ(found.ids(), (std::vector<std::int64_t>{2, 2, 0}));
  for (const float w : found.weights()) {
    EXPECT_NEAR(w, 1.0 / 3, kWeightTolerance);
  }
  EXPECT_EQ(found.as<std::int64_t>(count), (std::vector<std::int64_t>{1, 0, 2, 0}));
  EXPECT_EQ(found.as<std::uint8_t>(byte_map), (std::vector<std::uint8_t>{1, 0, 1, 0}));
}

TEST(RouteOutputs, PaddingWinsOverReplay) {
  Case c{.tokens = 25, .experts = 40, .options = {.topk = 3}, .wanted = kUsual};
  const Replay forced = replay(c, DType::i32, true);
  c.inputs.forced = forced.ids.view();
  c.inputs.replayed = forced.present.data();
  fill(c, 7);
  const auto valid = pad(c);
  c.inputs.valid = valid.data();
  expect_matches(c);
}

struct Grouped {
  std::int64_t experts;
  std::int32_t topk, groups, kept, best;
};
constexpr Grouped kGrouped[] = {
    {16, 2, 4, 2, 2}, {48, 6, 3, 2, 1}, {64, 8, 8, 4, 2}, {60, 17, 5, 3, 3}, {256, 8, 8, 4, 2}};

// Calls check(case, turn) with groups for each kind of score, with a bias and without, in types and orders by turns.
template <class Check>
void for_groups(const Check& check) {
  static const std::vector<float> kBias = route_cases::per_expert(-0.25F, 1.0F / 128, 11);
  constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16};
  std::size_t turn = 0;
  for (const Grouped& shape : kGrouped) {
    for (const auto& kind : route_cases::kKinds) {
      for (const bool biased : {false, true}) {
        SCOPED_TRACE(testing::Message() << kind.name << ", " << shape.topk << " of " << shape.experts << ", biased "
                                        << biased);
        RouterOptions options{.topk = shape.topk, .score = kind.score, .scale = 2.5F, .groups = shape.groups};
        options.normalize = turn % 3 == 0 ? Normalize::none : Normalize::sum;
        options.kept_groups = shape.kept;
        options.group_best = shape.best;
        options.masked_zero = turn % 4 == 3;
        options.chosen = kind.chosen;
        options.order = turn % 5 == 0 ? Order::expert : turn % 5 == 1 ? Order::any : Order::score;
        if (biased) options.selection_bias = {kBias.data(), DType::f32};
        Case c{.tokens = 45, .experts = shape.experts, .options = options};
        c.logits_type = kFloats[turn / 2 % 3];
        c.weight_type = kFloats[turn / 6 % 3];
        ASSERT_NO_FATAL_FAILURE(check(c, turn));
        ++turn;
      }
    }
  }
}

TEST(RouteOutputs, PaddingIsRoutedNowhereWithGroups) {
  for_groups([](Case& c, std::size_t turn) {
    fill(c, static_cast<unsigned>(turn));
    const auto valid = pad(c);
    c.inputs.valid = valid.data();
    c.wanted = kUsual;
    expect_matches(c);
    c.wanted = kSideBySide;
    expect_matches(c);
  });
}

// Rows that are missing or have an id of −1 are chosen by groups and bias, as without a replay.
TEST(RouteOutputs, RowsThatAreNotForcedHaveGroupsAndBias) {
  for_groups([](Case& c, std::size_t turn) {
    constexpr DType kIds[] = {DType::i16, DType::i32, DType::i64};
    c.id_type = kIds[turn % 3];
    const Replay forced = replay(c, c.id_type, true);
    c.inputs.forced = forced.ids.view();
    c.inputs.replayed = forced.present.data();
    c.wanted = kUsual;
    fill(c, static_cast<unsigned>(turn));
    expect_matches(c);
    const auto valid = pad(c);
    c.inputs.valid = valid.data();
    expect_matches(c);
  });
}

// ---- tables

TEST(RouteOutputs, TablesChoose) {
  constexpr std::int64_t kRows = 50;
  for (const auto& rule : some_rules(5)) {
    for (const DType type : {DType::i16, DType::i32, DType::i64}) {
      for (const DType token_type : {DType::i32, DType::i64}) {
        SCOPED_TRACE(rule.name);
        std::mt19937 random(3);
        std::vector<std::int64_t> table(kRows * 5);
        for (auto& id : table) id = static_cast<std::int64_t>(random() % 40);
        const elements::Elements ids = elements::of(type, table);
        std::vector<std::int64_t> tokens(33);
        for (auto& token : tokens) token = static_cast<std::int64_t>(random() % kRows);
        const elements::Elements names = elements::of(token_type, tokens);
        const std::vector<float> bias = random_floats(40, 5.0F, 8);
        Case c{.tokens = 33, .experts = 40, .options = rule.options, .wanted = kUsual};
        c.options.table = ids.view();
        c.options.table_rows = kRows;
        c.options.selection_bias = {bias.data(), DType::f32};
        c.options.groups = 4;
        c.options.kept_groups = 1;
        c.inputs.token_id = names.view();
        fill(c, 4);
        const auto valid = pad(c);
        c.inputs.valid = valid.data();
        expect_matches(c);
      }
    }
  }
}

// Rows that are replayed, rows that are missing and rows with an id of −1: the last two take the table's.
TEST(RouteOutputs, ReplayWinsOverATable) {
  constexpr std::int64_t kRows = 50;
  for (const std::int32_t topk : {3, 18}) {
    for (const auto& rule : some_rules(topk)) {
      SCOPED_TRACE(rule.name);
      std::mt19937 random(3);
      const auto draw = [&](std::size_t count, std::uint64_t below) {
        std::vector<std::int64_t> values(count);
        for (auto& value : values) value = static_cast<std::int64_t>(random() % below);
        return values;
      };
      const elements::Elements table = elements::of(DType::i32, draw(kRows * static_cast<std::size_t>(topk), 40));
      const elements::Elements names = elements::of(DType::i64, draw(25, kRows));
      Case c{.tokens = 25, .experts = 40, .options = rule.options, .wanted = kUsual};
      c.options.table = table.view();
      c.options.table_rows = kRows;
      c.inputs.token_id = names.view();
      const Replay forced = replay(c, DType::i16, true);
      fill(c, 7);
      const Results by_table = run(c);
      c.inputs.forced = forced.ids.view();
      c.inputs.replayed = forced.present.data();
      expect_matches(c);

      const Results found = run(c);
      for (std::int64_t slot = 0; slot < 25 * topk; ++slot) {
        const auto at = static_cast<std::size_t>(slot);
        const bool missing = slot / topk % 5 == 2 || slot / topk % 5 == 3;
        EXPECT_EQ(found.ids()[at], missing ? by_table.ids()[at] : elements::id_at(forced.ids.view(), slot));
      }
      // Its gradients are those of the same experts without a table.
      Gradients gradients{.weight = random_floats(found.ids().size(), 1.0F, 4)};
      const elements::Elements replayed = backward(c, found.ids(), gradients);
      c.options.table = {};
      c.inputs = {};
      EXPECT_EQ(replayed, backward(c, found.ids(), gradients));
    }
  }
}

// ---- sums of sequences

TEST(RouteOutputs, SequencesHaveTheirOwnSums) {
  const std::int64_t begin[] = {0, 0, 7, 8, 150, 150, 233};
  for (const auto& rule : some_rules(4)) {
    SCOPED_TRACE(rule.name);
    Case c{.tokens = 233,
           .experts = 19,
           .options = rule.options,
           .wanted = everything_of(rule.options.score),
           .threads = 2};
    fill(c, 8);
    const auto valid = pad(c);
    c.inputs.valid = valid.data();
    c.inputs.sequence_begin = begin;
    c.inputs.sequences = 6;
    expect_matches(c);
  }
}

// Sums depend on the tokens alone: a sequence has the bits that it has on its own.
TEST(RouteOutputs, ASequenceHasTheSumsThatItHasAlone) {
  const std::int64_t begin[] = {0, 5, 300, 301, 700};
  constexpr std::int64_t kExperts = 24;
  Case c{.tokens = 700, .experts = kExperts, .options = {.topk = 3, .score = Score::sigmoid}, .wanted = kUsual};
  c.logits = random_floats(700 * kExperts, 2.0F, 9);
  c.inputs.sequence_begin = begin;
  c.inputs.sequences = 4;
  const Results whole = run(c);
  for (std::size_t s = 0; s < 4; ++s) {
    Case one{.tokens = begin[s + 1] - begin[s], .experts = kExperts, .options = c.options, .wanted = kUsual};
    one.logits.assign(c.logits.begin() + begin[s] * kExperts, c.logits.begin() + begin[s + 1] * kExperts);
    const Results alone = run(one);
    for (const Output output : {count, score_sum, z_sum, valid_count}) {
      const std::size_t size = alone.bytes[output].size();
      EXPECT_TRUE(std::equal(alone.bytes[output].begin(), alone.bytes[output].end(),
                             whole.bytes[output].begin() + static_cast<std::ptrdiff_t>(s * size)))
          << "sequence " << s << " output " << output;
    }
  }
}

// Every 64 tokens have scores of another size, so that doubles round when pieces are added: another order, other bits.
std::vector<float> uneven_logits(std::int64_t tokens, std::int64_t experts, unsigned seed) {
  std::vector<float> logits = random_floats(static_cast<std::size_t>(tokens * experts), 1.0F, seed);
  std::mt19937 random(seed);
  std::vector<float> drop(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t e = 0; e < experts; ++e) {
      float& of_expert = drop[static_cast<std::size_t>(e)];
      of_expert = t % 64 == 0 ? static_cast<float>(random() % 40) : of_expert;
      logits[static_cast<std::size_t>(t * experts + e)] -= of_expert;
    }
  }
  return logits;
}

TEST(RouteOutputs, ManyThreadsGiveTheBitsOfOne) {
  constexpr std::int64_t kExperts = 37;
  for (const Score score : {Score::softmax, Score::sigmoid, Score::logit}) {
    for (const std::int64_t tokens : {700, 1500}) {
      const std::int64_t begin[] = {0, 5, 300, 301, tokens};
      Case c{.tokens = tokens, .experts = kExperts, .options = {.topk = 5, .score = score}};
      c.logits = uneven_logits(tokens, kExperts, static_cast<unsigned>(tokens));
      c.wanted = everything_of(score);
      for (const bool apart : {false, true}) {
        c.inputs.sequence_begin = apart ? begin : nullptr;
        c.inputs.sequences = apart ? 4 : 1;
        c.threads = 1;
        const Results one = run(c);
        for (int turn = 0; turn < 25; ++turn) {  // pieces end in another order each time
          constexpr int kThreads[] = {2, 3, 5, 8, 16};
          c.threads = kThreads[turn % 5];
          const Results many = run(c);
          for (unsigned output = 0; output < kOutputs; ++output) {
            ASSERT_EQ(many.bytes[output], one.bytes[output])
                << "output " << output << ", " << c.threads << " threads, " << tokens << " tokens";
          }
        }
      }
    }
  }
}

// What belongs to tokens comes out of every part of a batch; sums are those of the part.
TEST(RouteOutputs, PartsOfABatchOnManyThreadsGiveItsBits) {
  constexpr std::int64_t kExperts = 37;
  constexpr std::int64_t kTokens = 700;
  Case c{.tokens = kTokens, .experts = kExperts, .options = {.topk = 5}, .wanted = everything_of(Score::softmax)};
  c.logits = uneven_logits(kTokens, kExperts, 3);
  const Results whole = run(c);
  for (const std::int64_t split : {1, 63, 64, 65, 300, 699}) {
    for (const int threads : {1, 2, 3, 5, 8}) {
      Case head = c;
      Case tail = c;
      head.threads = tail.threads = threads;
      head.tokens = split;
      tail.tokens = kTokens - split;
      head.logits.resize(static_cast<std::size_t>(split * kExperts));
      tail.logits.assign(c.logits.begin() + split * kExperts, c.logits.end());
      const Results first = run(head);
      const Results second = run(tail);
      for (const Output output : {expert, weight, probability, byte_map, bit_map, chosen_logit, aux_score, cutoff}) {
        std::vector<std::byte> both = first.bytes[output];
        both.insert(both.end(), second.bytes[output].begin(), second.bytes[output].end());
        ASSERT_EQ(both, whole.bytes[output]) << "output " << output << ", split at " << split;
      }
      const auto counts = first.as<std::int64_t>(count);
      auto sum = second.as<std::int64_t>(count);
      for (std::size_t e = 0; e < sum.size(); ++e) sum[e] += counts[e];
      ASSERT_EQ(sum, whole.as<std::int64_t>(count)) << "split at " << split;
    }
  }
}

// ---- quantile balancing

TEST(RouteOutputs, HistogramsMatchForAnyBins) {
  const std::vector<float> bias = random_floats(50, 0.2F, 8);
  for (const Score score : {Score::sigmoid, Score::sqrt_softplus, Score::logit}) {
    for (const std::int32_t bins : {1, 2, 9, 1000}) {
      Case c{.tokens = 70, .experts = 50, .options = {.topk = 8, .score = score}};
      c.wanted = bit(cutoff) | bit(histogram);
      c.options.selection_bias = {bias.data(), DType::f32};
      c.bins = bins;
      c.lower = -0.7F;
      c.upper = 0.9F;
      c.threads = 2;
      fill(c, 10);
      const auto valid = pad(c);
      c.inputs.valid = valid.data();
      const Results found = run(c);
      check_quantiles(c, found, reference::route_tokens(table_of(c), c.options, c.inputs));
      const auto entries = found.as<std::int32_t>(histogram);
      const std::int64_t valid_tokens = std::count_if(valid.begin(), valid.end(), [](auto v) { return v != 0; });
      EXPECT_EQ(std::accumulate(entries.begin(), entries.end(), std::int64_t{0}),
                50 * (valid_tokens + static_cast<std::int64_t>(bins) * kCountedBefore));
    }
  }
}

TEST(RouteOutputs, BinsStayAtTheirLargestNumber) {
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
  const std::vector<float> logits(9 * 4, 1.0F);
  std::vector<std::int32_t> bins(4 * 3, kMost - 5);
  RouteOutputs outputs;
  outputs.histogram = bins.data();
  outputs.bins = 3;
  outputs.qb_lower = -1.0F;
  outputs.qb_upper = 1.0F;
  const Workspace workspace(route_workspace_bytes(9, 4));
  for (int batch = 0; batch < 2; ++batch) {
    route({logits.data(), 9, 4}, {.topk = 1, .score = Score::sigmoid}, {}, outputs, workspace);
  }
  for (std::size_t i = 0; i < bins.size(); ++i) {
    EXPECT_EQ(bins[i], i % 3 == 1 ? kMost : kMost - 5) << "cutoff and scores are equal: the middle bin";
  }
}

}  // namespace
