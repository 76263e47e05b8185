// Routing and its gradient on the instruction sets of this machine: each gives the bits of plain code, in every output.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "route_cases.hpp"
#include "route_runs.hpp"
#include "switchyard/cpu.hpp"

namespace {

using namespace route_runs;

constexpr std::int64_t kTokens = 21;  // all lanes and as few as go there, too
constexpr std::int64_t kBegin[] = {0, 6, 6, kTokens};
constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16};

// One bit pattern for all NaN, of which the sets promise no more than that there is one.
template <class Bits>
void unify_nans(std::vector<std::byte>& bytes, Bits infinity) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(Bits)) {
    const auto magnitude = elements::load<Bits>(&bytes[at], 0) & static_cast<Bits>(~Bits{} >> 1U);
    if (magnitude > infinity) std::memset(&bytes[at], 0xff, sizeof(Bits));
  }
}

void unify_nans(std::vector<std::byte>& bytes, DType type) {
  if (type == DType::f32) unify_nans(bytes, std::uint32_t{0x7f800000U});
  if (type == DType::bf16) unify_nans(bytes, std::uint16_t{0x7f80});
  if (type == DType::f16) unify_nans(bytes, std::uint16_t{0x7c00});
}

Results unified(Results results) {
  unify_nans(results.bytes[weight], results.weight_type);
  unify_nans(results.bytes[probability], results.probability_type);
  for (const Output output : {chosen_logit, aux_score, cutoff}) unify_nans(results.bytes[output], DType::f32);
  for (const Output output : {score_sum, z_sum}) unify_nans(results.bytes[output], 0x7ff0000000000000U);
  return results;
}

class RouteIsa : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    const auto available = available_isas();
    if (std::find(available.begin(), available.end(), GetParam()) == available.end()) {
      GTEST_SKIP() << "this machine has no " << isa_name(GetParam()) << ": its bits are not compared here";
    }
  }
  void TearDown() override { set_isa(before_); }

  template <class Work>
  static auto on(Isa isa, const Work& work) {
    set_isa(isa);
    EXPECT_EQ(current_isa(), isa);
    return work();
  }

  static void expect_bits_of_plain(const Case& c) {
    const Results plain = unified(on(Isa::plain, [&] { return run(c); }));
    const Results found = unified(on(GetParam(), [&] { return run(c); }));
    for (unsigned output = 0; output < kOutputs; ++output) {
      ASSERT_EQ(found.bytes[output], plain.bytes[output])
          << "output " << output << ", " << c.options.topk << " of " << c.experts << ", " << c.options.groups
          << " groups, " << dtype_name(c.logits_type);
    }
  }

  static void expect_gradient_bits_of_plain(const Case& c, const std::vector<std::int64_t>& ids,
                                            const Gradients& gradients) {
    const auto gradient = [&] {
      elements::Elements found = backward(c, ids, gradients);
      unify_nans(found.bytes, found.dtype);
      return found;
    };
    const auto plain = on(Isa::plain, gradient);
    ASSERT_EQ(on(GetParam(), gradient), plain) << c.options.topk << " of " << c.experts << ", "
                                               << dtype_name(c.logits_type) << " to " << dtype_name(gradients.type);
  }

 private:
  Isa before_ = current_isa();
};

// Ties in every second row, and in every third what is not finite.
std::vector<float> mixed_logits(std::int64_t experts, unsigned seed) {
  std::vector<float> logits = random_floats(static_cast<std::size_t>(kTokens * experts), 2.0F, seed);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const std::size_t row = i / static_cast<std::size_t>(experts);
    if (row % 2 == 1) logits[i] = std::round(logits[i] * 4) / 4;
    if (row % 3 == 2 && i % 7 == row % 7) logits[i] = row % 9 == 2 ? kInf : row % 9 == 5 ? -kInf : kNan;
  }
  return logits;
}

std::vector<std::uint8_t> mask() {
  std::vector<std::uint8_t> valid(kTokens, 1);
  for (const std::size_t off : {3U, 4U, 20U}) valid[off] = 0;
  return valid;
}

unsigned most_outputs(const Case& c) {
  const bool ranked = c.options.groups == 0 && c.options.topk < c.experts;
  return ranked ? everything_of(c.options.score) : kUsual;
}

constexpr std::int64_t kExperts[] = {5, 16, 45, 64, 200, 256, 300, 1000};
constexpr std::int32_t kTopks[] = {1, 2, 8, 16, 17, 20, 64};

// Calls check(case, turn) for each number of experts and slots and type of logits, with rules in turn.
template <class Check>
void for_cases(std::size_t rules_each, const Check& check) {
  std::size_t turn = 0;
  for (const std::int32_t topk : kTopks) {
    const auto rules = route_cases::rules(topk);
    for (const std::int64_t experts : kExperts) {
      for (std::size_t i = 0; topk <= experts && i < 3 * rules_each; ++i) {
        const auto& rule = rules[turn * 31 % rules.size()];
        SCOPED_TRACE(rule.name);
        Case c{.tokens = kTokens, .experts = experts, .options = rule.options};
        c.logits_type = kFloats[i % 3];
        c.weight_type = kFloats[turn / 3 % 3];
        c.probability_type = kFloats[turn / 9 % 3];
        c.options.order = turn % 5 == 0 ? Order::expert : turn % 5 == 1 ? Order::any : Order::score;
        c.logits = mixed_logits(experts, static_cast<unsigned>(turn));
        ASSERT_NO_FATAL_FAILURE(check(c, turn));
        ++turn;
      }
    }
  }
}

TEST_P(RouteIsa, EveryOutputHasTheBitsOfPlain) {
  const auto valid = mask();
  for_cases(3, [&](Case& c, std::size_t) {
    c.wanted = most_outputs(c);
    expect_bits_of_plain(c);
    c.inputs.valid = valid.data();
    c.inputs.sequence_begin = kBegin;
    c.inputs.sequences = 3;
    expect_bits_of_plain(c);
    c.wanted = kSideBySide;
    expect_bits_of_plain(c);
  });
}

TEST_P(RouteIsa, GroupsAndBiasesHaveTheBitsOfPlain) {
  const auto valid = mask();
  const std::vector<float> bias = route_cases::per_expert(-0.25F, 1.0F / 128, 11);
  const elements::Elements narrow_bias = elements::of(DType::bf16, bias);
  for_cases(3, [&](Case& c, std::size_t turn) {
    if (c.options.score == Score::sparsemixer) return;
    c.options.selection_bias = turn % 2 == 0 ? narrow_bias.view() : elements::ConstArray{bias.data(), DType::f32};
    c.wanted = most_outputs(c);
    expect_bits_of_plain(c);
    c.wanted = kSideBySide;
    expect_bits_of_plain(c);
    const std::int32_t groups = c.experts % 4 == 0 ? 4 : c.experts % 5 == 0 ? 5 : 0;
    if (groups == 0 || c.options.topk * groups > 2 * c.experts) return;
    c.options.groups = groups;
    c.options.kept_groups = 2;
    c.options.group_best = static_cast<std::int32_t>(std::min<std::int64_t>(1 + turn % 3, c.experts / groups));
    c.options.masked_zero = turn % 7 == 0;
    expect_bits_of_plain(c);
    c.options.selection_bias = {};
    expect_bits_of_plain(c);
    c.wanted = kUsual;
    c.inputs.valid = valid.data();
    expect_bits_of_plain(c);
  });
}

TEST_P(RouteIsa, EveryGradientHasTheBitsOfPlain) {
  const auto valid = mask();
  for_cases(5, [&](Case& c, std::size_t turn) {
    c.inputs.valid = valid.data();
    c.inputs.sequence_begin = kBegin;
    c.inputs.sequences = 3;
    const auto ids = on(Isa::plain, [&] { return run(c).ids(); });
    Gradients gradients = random_gradients(c, kParts[turn % 7], static_cast<unsigned>(turn));
    gradients.type = kFloats[turn / 2 % 3];
    gradients.weight_type = kFloats[turn / 4 % 3];
    gradients.probability_type = kFloats[turn / 8 % 3];
    expect_gradient_bits_of_plain(c, ids, gradients);
  });
}

TEST_P(RouteIsa, EveryRuleWithEveryGradientHasTheBitsOfPlain) {
  const auto valid = mask();
  for (const std::int32_t topk : {2, 17}) {
    std::size_t turn = 0;
    for (const auto& rule : route_cases::rules(topk)) {
      SCOPED_TRACE(rule.name);
      for (const Parts& parts : kParts) {
        Case c{.tokens = kTokens, .experts = 45, .options = rule.options};
        c.logits_type = kFloats[turn % 3];
        c.logits = mixed_logits(45, static_cast<unsigned>(turn));
        c.inputs.valid = valid.data();
        c.wanted = kRouting | bit(chosen_logit);
        const Results forward = on(Isa::plain, [&] { return run(c); });
        Gradients gradients = random_gradients(c, parts, static_cast<unsigned>(turn));
        gradients.type = kFloats[turn++ / 3 % 3];
        expect_gradient_bits_of_plain(c, forward.ids(), gradients);
        if (!route_gradient_is_sparse(c.options) || parts.aux || parts.z) continue;
        gradients.chosen_logit = forward.floats(chosen_logit);
        gradients.with_logits = false;
        expect_gradient_bits_of_plain(c, forward.ids(), gradients);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, RouteIsa,
                         testing::Values(Isa::avx2, Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16,
                                         Isa::avx512_bf16_halves),
                         [](const auto& isa) { return std::string(isa_name(isa.param)); });

}  // namespace
