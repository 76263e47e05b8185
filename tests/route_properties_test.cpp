// What holds for every routing, whatever the logits: RapidCheck draws them, ties and infinities among them.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <numeric>

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
rc::Gen<float> any_logit() {
  return rc::gen::map(rc::gen::inRange(-40, 41), [](int step) {
    return step == 40 ? kInf : step == -40 ? -kInf : step == 39 ? kNan : static_cast<float>(step) / 8;
  });
}

RouterOptions any_rule(std::int64_t experts) {
  const auto topk = *rc::gen::inRange(1, static_cast<int>(std::min<std::int64_t>(experts, 20)) + 1);
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

Case any_case() {
  Case c;
  c.tokens = *rc::gen::inRange<std::int64_t>(0, 90);
  c.experts = *rc::gen::element<std::int64_t>(2, 5, 8, 16, 33, 64, 100);
  c.options = any_rule(c.experts);
  c.wanted = kUsual;
  c.logits = *rc::gen::container<std::vector<float>>(static_cast<std::size_t>(c.tokens * c.experts), any_logit());
  return c;
}

// Rows `order` of values of `width` bytes each.
std::vector<std::byte> permuted(const std::vector<std::byte>& bytes, const std::vector<std::size_t>& order) {
  std::vector<std::byte> out;
  const std::size_t width = order.empty() ? 0 : bytes.size() / order.size();
  for (const std::size_t row : order) {
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(row * width);
    out.insert(out.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
  }
  return out;
}

bool of_tokens(unsigned output) { return output < count || output == cutoff; }

void hold(const char* what, const std::function<void()>& property) { EXPECT_TRUE(rc::check(what, property)); }

TEST(RouteProperties, PermutingTokensPermutesOutputs) {
  hold("permuting tokens permutes outputs", [] {
    const Case c = any_case();
    std::vector<std::size_t> order(static_cast<std::size_t>(c.tokens));
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::shuffle(order.begin(), order.end(), std::mt19937(*rc::gen::arbitrary<unsigned>()));
    Case moved = c;
    for (std::size_t t = 0; t < order.size(); ++t) {
      std::copy_n(c.logits.begin() + static_cast<std::ptrdiff_t>(order[t]) * c.experts, c.experts,
                  moved.logits.begin() + static_cast<std::ptrdiff_t>(t) * c.experts);
    }
    const Results before = run(c);
    const Results after = run(moved);
    for (unsigned output = 0; output < kOutputs; ++output) {
      if ((c.wanted >> output & 1) != 0 && of_tokens(output)) {
        RC_ASSERT(after.bytes[output] == permuted(before.bytes[output], order));
      }
    }
    RC_ASSERT(after.bytes[count] == before.bytes[count]);
  });
}

TEST(RouteProperties, EveryOutputTellsTheSameStory) {
  hold("ids, maps, counts and probabilities agree", [] {
    const Case c = any_case();
    const Results found = run(c);
    const auto ids = found.ids();
    const auto weights = found.weights();
    const auto probabilities = found.floats(probability);
    const auto bytes = found.as<std::uint8_t>(byte_map);
    const auto bits = found.as<std::uint8_t>(bit_map);
    std::vector<std::int64_t> counts(static_cast<std::size_t>(c.experts));
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const auto first = static_cast<std::size_t>(t * c.options.topk);
      std::vector<std::int64_t> mine(ids.begin() + static_cast<std::ptrdiff_t>(first),
                                     ids.begin() + static_cast<std::ptrdiff_t>(first) + c.options.topk);
      for (std::int64_t e = 0; e < c.experts; ++e) {
        const auto at = std::find(mine.begin(), mine.end(), e);
        const bool chosen = at != mine.end();
        const auto cell = static_cast<std::size_t>(t * c.experts + e);
        const auto byte = static_cast<std::size_t>(t * ((c.experts + 7) / 8) + e / 8);
        RC_ASSERT(bytes[cell] == (chosen ? 1 : 0));
        RC_ASSERT((bits[byte] >> (e % 8) & 1) == (chosen ? 1 : 0));
        RC_ASSERT(std::count(mine.begin(), mine.end(), e) == (chosen ? 1 : 0));
        const float weight = chosen ? weights[first + static_cast<std::size_t>(at - mine.begin())] : 0.0F;
        RC_ASSERT(probabilities[cell] == weight || (std::isnan(weight) && std::isnan(probabilities[cell])));
        counts[static_cast<std::size_t>(e)] += chosen ? 1 : 0;
      }
    }
    RC_ASSERT(found.as<std::int64_t>(count) == counts);
  });
}

TEST(RouteProperties, ReplayingARoutingGivesItsBytes) {
  hold("replaying a routing's own ids gives its bytes", [] {
    const Case c = any_case();
    const Results live = run(c);
    Case replay = c;
    replay.inputs.forced = {live.bytes[expert].data(), c.id_type};
    RC_ASSERT(run(replay) == live);
  });
}

TEST(RouteProperties, BatchesThreadsAndSetsGiveTheSameBytes) {
  hold("batches, threads and instruction sets give the same bytes", [] {
    const Case c = any_case();
    const Results whole = run(c);
    const std::int64_t split = *rc::gen::inRange<std::int64_t>(0, c.tokens + 1);
    Case head = c;
    Case tail = c;
    head.tokens = split;
    tail.tokens = c.tokens - split;
    head.logits.assign(c.logits.begin(), c.logits.begin() + split * c.experts);
    tail.logits.assign(c.logits.begin() + split * c.experts, c.logits.end());
    const Results first = run(head);
    const Results second = run(tail);
    for (unsigned output = 0; output < kOutputs; ++output) {
      if ((c.wanted >> output & 1) != 0 && of_tokens(output)) {
        std::vector<std::byte> both = first.bytes[output];
        both.insert(both.end(), second.bytes[output].begin(), second.bytes[output].end());
        RC_ASSERT(both == whole.bytes[output]);
      }
    }
    Case threaded = c;
    threaded.threads = *rc::gen::inRange(2, 5);
    RC_ASSERT(run(threaded) == whole);
    bool same = true;
    on_every_isa([&](Isa) { same = same && run(c) == whole; });
    RC_ASSERT(same);
  });
}

}  // namespace
