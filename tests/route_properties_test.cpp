// What holds for every routing, whatever the logits: RapidCheck draws them, ties and infinities among them.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "every_isa.hpp"
#include "route_cases.hpp"
#include "route_runs.hpp"

namespace {

using namespace route_runs;

const std::vector<float>& bias() {
  static const std::vector<float> kBias = route_cases::per_expert(-0.25F, 1.0F / 128, 11);
  return kBias;
}

// Few different values, so that ties and not finite numbers are common.
std::vector<float> any_logits(std::size_t size) {
  std::mt19937 random(*rc::gen::arbitrary<unsigned>());
  std::vector<float> logits(size);
  for (float& logit : logits) {
    const int step = static_cast<int>(random() % 81) - 40;
    logit = step == 40 ? kInf : step == -40 ? -kInf : step == 39 ? kNan : static_cast<float>(step) / 8;
  }
  return logits;
}

RouterOptions any_rule(std::int64_t experts) {
  const auto most = static_cast<int>(std::min<std::int64_t>(experts, kMaxTopk));
  const auto topk = *rc::gen::oneOf(rc::gen::inRange(1, std::min(most, 8) + 1), rc::gen::inRange(1, most + 1));
  const auto rules = route_cases::rules(topk);
  RouterOptions options = rules[*rc::gen::inRange<std::size_t>(0, rules.size())].options;
  if (options.score == Score::sparsemixer) {
    return options;
  }
  if (*rc::gen::arbitrary<bool>()) {
    options.selection_bias = {bias().data(), DType::f32};
  }
  if (experts % 4 == 0 && options.topk <= experts / 2 && *rc::gen::arbitrary<bool>()) {
    options.groups = 4;
    options.kept_groups = 2;
    options.group_best = *rc::gen::inRange(1, std::min(3, static_cast<int>(experts / 4)) + 1);
    options.masked_zero = *rc::gen::arbitrary<bool>();
  }
  options.order = *rc::gen::element(Order::score, Order::expert, Order::any);
  return options;
}

// A case with what comes with its tokens.
struct Drawn {
  Case c;
  std::vector<std::uint8_t> valid;     // [T] or empty
  std::vector<std::int64_t> table;     // [rows,K] or empty
  std::vector<std::int64_t> token_id;  // [T] or empty

  // To be called when all of it stands where it stays.
  void link() {
    c.inputs.valid = valid.empty() ? nullptr : valid.data();
    c.inputs.token_id = {token_id.empty() ? nullptr : token_id.data(), DType::i64};
    c.options.table = {table.empty() ? nullptr : table.data(), DType::i64};
  }
};

void draw_table(Drawn& drawn) {
  constexpr std::int64_t kRows = 9;
  Case& c = drawn.c;
  std::mt19937 random(*rc::gen::arbitrary<unsigned>());
  drawn.table.resize(static_cast<std::size_t>(kRows * c.options.topk));
  for (auto& id : drawn.table) id = static_cast<std::int64_t>(random()) % c.experts;
  drawn.token_id.resize(static_cast<std::size_t>(c.tokens));
  for (auto& row : drawn.token_id) row = static_cast<std::int64_t>(random()) % kRows;
  c.options.table_rows = kRows;
  c.weight_type = c.probability_type = DType::f32;  // in which duplicates add up
}

rc::Gen<DType> any_floats() { return rc::gen::element(DType::f32, DType::bf16, DType::f16); }

void draw(Drawn& drawn) {
  Case& c = drawn.c;
  c.tokens = *rc::gen::inRange<std::int64_t>(0, 90);
  c.experts = *rc::gen::element<std::int64_t>(2, 5, 8, 16, 33, 64, 100, 256, 600);
  c.options = any_rule(c.experts);
  c.logits = any_logits(static_cast<std::size_t>(c.tokens * c.experts));
  c.logits_type = *any_floats();
  c.weight_type = c.probability_type = *any_floats();
  c.id_type = *rc::gen::element(DType::i16, DType::i32, DType::i64);
  const bool given = c.tokens > 0 && *rc::gen::inRange(0, 4) == 0;
  if (given) draw_table(drawn);
  if (*rc::gen::arbitrary<bool>()) {
    drawn.valid = *rc::gen::container<std::vector<std::uint8_t>>(static_cast<std::size_t>(c.tokens),
                                                                 rc::gen::element<std::uint8_t>(0, 1, 1, 255));
  }
  const bool ranked = !given && c.options.groups == 0 && c.options.topk < c.experts;
  const bool alone = *rc::gen::arbitrary<bool>();  // what keeps tokens from being routed side by side
  c.wanted = alone ? (ranked ? everything_of(c.options.score) : kUsual) : kSideBySide;
  drawn.link();
}

// Rows `order` of `rows` rows of equal length.
template <class Value>
std::vector<Value> permuted(const std::vector<Value>& values, std::size_t rows, const std::vector<std::size_t>& order) {
  std::vector<Value> out;
  const std::size_t width = rows == 0 ? 0 : values.size() / rows;
  for (const std::size_t row : order) {
    const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row * width);
    out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
  }
  return out;
}

// The tokens of `order` and what comes with them.
void take(const Drawn& all, const std::vector<std::size_t>& order, Drawn& some) {
  const auto tokens = static_cast<std::size_t>(all.c.tokens);
  some = all;
  some.c.tokens = static_cast<std::int64_t>(order.size());
  some.c.logits = permuted(all.c.logits, tokens, order);
  some.valid = permuted(all.valid, tokens, order);
  some.token_id = permuted(all.token_id, tokens, order);
  if (order.empty()) {
    some.c.options.table_rows = 0;
    some.table.clear();
  }
  some.link();
}

std::vector<std::size_t> range(std::size_t begin, std::size_t end) {
  std::vector<std::size_t> order(end - begin);
  std::iota(order.begin(), order.end(), begin);
  return order;
}

bool of_tokens(unsigned output) { return output < count || output == cutoff; }

void hold(const std::string& what, const std::function<void()>& property) { EXPECT_TRUE(rc::check(what, property)); }

TEST(RouteProperties, PermutingTokensPermutesOutputs) {
  hold("permuting tokens permutes outputs", [] {
    Drawn all;
    draw(all);
    const auto tokens = static_cast<std::size_t>(all.c.tokens);
    std::vector<std::size_t> order = range(0, tokens);
    std::shuffle(order.begin(), order.end(), std::mt19937(*rc::gen::arbitrary<unsigned>()));
    Drawn moved;
    take(all, order, moved);
    const Results before = run(all.c);
    const Results after = run(moved.c);
    for (unsigned output = 0; output < kOutputs; ++output) {
      if (of_tokens(output)) {
        RC_ASSERT(after.bytes[output] == permuted(before.bytes[output], tokens, order));
      }
    }
    for (const Output output : {count, valid_count, histogram}) {
      RC_ASSERT(after.bytes[output] == before.bytes[output]);
    }
  });
}

struct Story {
  const Results& found;
  std::vector<std::int64_t> ids = found.ids();
  std::vector<float> weights = found.weights();
  std::vector<float> probabilities = found.floats(probability);
};

// All that is said of one expert of a token. Returns its slots.
std::int64_t tell(const Drawn& drawn, const Story& story, std::int64_t t, std::int64_t e) {
  const Case& c = drawn.c;
  std::int64_t slots = 0;
  float weight = 0.0F;  // duplicates of a table add up
  for (std::int64_t s = t * c.options.topk; s < (t + 1) * c.options.topk; ++s) {
    const auto slot = static_cast<std::size_t>(s);
    slots += story.ids[slot] == e ? 1 : 0;
    weight += story.ids[slot] == e ? story.weights[slot] : 0.0F;
  }
  const auto cell = static_cast<std::size_t>(t * c.experts + e);
  const auto byte = static_cast<std::size_t>(t * ((c.experts + 7) / 8) + e / 8);
  const int routed = slots > 0 ? 1 : 0;
  const float probable = story.probabilities[cell];
  RC_ASSERT(slots <= 1 || !drawn.table.empty());
  RC_ASSERT(static_cast<int>(story.found.bytes[byte_map][cell]) == routed);
  RC_ASSERT((static_cast<int>(story.found.bytes[bit_map][byte]) >> (e % 8) & 1) == routed);
  RC_ASSERT(probable == weight || (std::isnan(weight) && std::isnan(probable)));
  return slots;
}

TEST(RouteProperties, EveryOutputTellsTheSameStory) {
  hold("ids, maps, counts and probabilities agree", [] {
    Drawn drawn;
    draw(drawn);
    const Results found = run(drawn.c);
    const Story story{found};
    for (std::size_t slot = 0; slot < story.ids.size(); ++slot) {
      const std::size_t t = slot / static_cast<std::size_t>(drawn.c.options.topk);
      const bool valid = drawn.valid.empty() || drawn.valid[t] != 0;
      if (valid) {
        RC_ASSERT(story.ids[slot] >= 0);
        RC_ASSERT(story.ids[slot] < drawn.c.experts);
      } else {
        RC_ASSERT(story.ids[slot] == -1);
        RC_ASSERT(story.weights[slot] == 0.0F);
      }
    }
    std::vector<std::int64_t> counts(static_cast<std::size_t>(drawn.c.experts));
    for (std::int64_t t = 0; t < drawn.c.tokens; ++t) {
      for (std::int64_t e = 0; e < drawn.c.experts; ++e)
        counts[static_cast<std::size_t>(e)] += tell(drawn, story, t, e);
    }
    RC_ASSERT(found.as<std::int64_t>(count) == counts);
  });
}

TEST(RouteProperties, ReplayingARoutingGivesItsBytes) {
  hold("replaying a routing's own ids gives its bytes", [] {
    Drawn drawn;
    draw(drawn);
    drawn.c.wanted &= kUsual;
    const Results live = run(drawn.c);
    Case replay = drawn.c;
    replay.options.table = {};
    replay.options.table_rows = 0;
    replay.inputs.token_id = {};
    replay.inputs.forced = {live.bytes[expert].data(), drawn.c.id_type};
    RC_ASSERT(run(replay) == live);
  });
}

TEST(RouteProperties, BatchesThreadsAndSetsGiveTheSameBytes) {
  hold("batches, threads and instruction sets give the same bytes", [] {
    Drawn all;
    draw(all);
    const Results whole = run(all.c);
    const auto tokens = static_cast<std::size_t>(all.c.tokens);
    const auto split = *rc::gen::inRange<std::size_t>(0, tokens + 1);
    Drawn head;
    Drawn tail;
    take(all, range(0, split), head);
    take(all, range(split, tokens), tail);
    const Results first = run(head.c);
    const Results second = run(tail.c);
    for (unsigned output = 0; output < kOutputs; ++output) {
      if (of_tokens(output)) {
        std::vector<std::byte> both = first.bytes[output];
        both.insert(both.end(), second.bytes[output].begin(), second.bytes[output].end());
        RC_ASSERT(both == whole.bytes[output]);
      }
    }
    Case threaded = all.c;
    threaded.threads = *rc::gen::inRange(2, 5);
    RC_ASSERT(run(threaded) == whole);
    bool same = true;
    on_every_isa([&](Isa) { same = same && run(all.c) == whole; });
    RC_ASSERT(same);
  });
}

}  // namespace
