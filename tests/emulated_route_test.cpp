// The AVX-512 texts of routing, compiled with emulated intrinsics, against the plain one: every rule, output and gradient.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "emulated_kernels.hpp"
#include "kernel_runs.hpp"
#include "route_cases.hpp"
#include "route_runs.hpp"

namespace {

using namespace switchyard;
using kernel_runs::bits_of;
using route_runs::Case;

// Sums as numbers whose NaN equal one another.
std::uint64_t bits_of_sum(double value) {
  return std::isnan(value) ? 0x7ff8000000000000U : elements::load<std::uint64_t>(&value, 0);
}

struct Outcome {
  std::vector<std::int32_t> expert, histogram;
  std::vector<std::uint32_t> weight, probability, chosen_logit, aux_score, cutoff, dlogits;
  std::vector<std::uint8_t> byte_map, bit_map;
  std::vector<std::int64_t> count;
  std::vector<std::uint64_t> sums;
  bool operator==(const Outcome&) const = default;
};

// Elements of the case's weight type, as the bits of their values.
std::vector<std::uint32_t> narrow_bits(const std::vector<std::byte>& bytes, DType type) {
  std::vector<float> values(bytes.size() / dtype_bytes(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(elements::value_at({bytes.data(), type}, static_cast<std::int64_t>(i)));
  }
  return bits_of(values);
}

// What needs a whole row of scores keeps tokens from being routed side by side.
enum class Ask { everything, choice };

class Runner {
 public:
  Runner(const Kernels& kernels, const Case& c, Ask ask)
      : kernels_(kernels), case_(c), ask_(ask), logits_(route_runs::placed(c)) {
    slots_ = static_cast<std::size_t>(c.tokens * c.options.topk);
    cells_ = static_cast<std::size_t>(c.tokens * c.experts);
  }

  Outcome run() {
    forward();
    if (outputs_.cutoff != nullptr && (case_.wanted & route_runs::bit(route_runs::histogram)) != 0) {
      count_bins();
    }
    backward();
    out_.chosen_logit = bits_of(chosen_logit_);
    out_.cutoff = bits_of(cutoff_);
    return out_;
  }

 private:
  void forward() {
    std::vector<std::byte> weight(slots_ * dtype_bytes(case_.weight_type));
    std::vector<std::byte> probability(cells_ * dtype_bytes(case_.weight_type));
    std::vector<float> aux(cells_);
    std::vector<double> sums(static_cast<std::size_t>(case_.experts) + 1);
    out_.expert.resize(slots_);
    chosen_logit_.resize(slots_);
    cutoff_.resize(static_cast<std::size_t>(case_.tokens));
    out_.byte_map.resize(cells_);
    out_.bit_map.resize(static_cast<std::size_t>(case_.tokens * ((case_.experts + 7) / 8)));
    out_.count.resize(static_cast<std::size_t>(case_.experts) + 1);
    outputs_.expert = {out_.expert.data(), DType::i32};
    outputs_.weight = {weight.data(), case_.weight_type};
    outputs_.probability = {probability.data(), case_.weight_type};
    outputs_.byte_map = out_.byte_map.data();
    outputs_.bit_map = out_.bit_map.data();
    outputs_.chosen_logit = chosen_logit_.data();
    outputs_.aux_score = ask_ == Ask::everything ? aux.data() : nullptr;
    const bool ranked = (case_.wanted & route_runs::bit(route_runs::cutoff)) != 0;
    outputs_.cutoff = ranked ? cutoff_.data() : nullptr;
    RouteArgs args{};
    args.logits = logits_.bytes.data();
    args.logits_type = case_.logits_type;
    args.stride = case_.experts;
    args.experts = static_cast<std::int32_t>(case_.experts);
    args.options = &case_.options;
    args.selection_bias = static_cast<const float*>(case_.options.selection_bias.data);
    args.inputs = &case_.inputs;
    args.outputs = &outputs_;
    args.end = case_.tokens;
    args.count = out_.count.data();
    args.score_sum = ask_ == Ask::everything ? sums.data() : nullptr;
    args.z_sum = ask_ == Ask::everything ? &sums.back() : nullptr;
    args.valid_count = &out_.count.back();
    args.scratch = static_cast<float*>(scratch_.data());
    kernels_.route(args);
    out_.weight = narrow_bits(weight, case_.weight_type);
    out_.probability = narrow_bits(probability, case_.weight_type);
    out_.aux_score = bits_of(aux);
    for (const double sum : sums) {
      out_.sums.push_back(bits_of_sum(sum));
    }
  }

  void count_bins() {
    constexpr std::int32_t kBins = 9;
    out_.histogram.resize(static_cast<std::size_t>(case_.experts * kBins));
    for (std::int64_t begin = 0; begin < case_.experts; begin += kLanes) {
      kernels_.histogram({logits_.bytes.data(), case_.logits_type, case_.experts, case_.tokens,
                          static_cast<std::int32_t>(case_.experts), &case_.options, case_.inputs.valid, cutoff_.data(),
                          begin, kBins, -0.5F, 0.5F, out_.histogram.data()});
    }
  }

  // Of weights alone, which is sparse for most rules, and of everything.
  void backward() {
    const std::vector<float> of_weight = kernel_runs::normal_values(slots_, 11);
    const std::vector<float> of_probability = kernel_runs::normal_values(cells_, 12);
    const std::vector<float> of_aux = kernel_runs::normal_values(static_cast<std::size_t>(case_.experts), 13);
    RouteGradients gradients;
    gradients.expert = {out_.expert.data(), DType::i32};
    gradients.weight = {of_weight.data(), DType::f32};
    back(gradients);
    gradients.probability = {of_probability.data(), DType::f32};
    gradients.aux = of_aux.data();
    gradients.z = 0.25F;
    back(gradients);
  }

  void back(const RouteGradients& gradients) {
    std::vector<std::byte> dlogits(cells_ * dtype_bytes(case_.weight_type));
    RouteBackwardArgs args{};
    args.logits = logits_.bytes.data();
    args.logits_type = case_.logits_type;
    args.stride = case_.experts;
    args.experts = static_cast<std::int32_t>(case_.experts);
    args.options = &case_.options;
    args.inputs = &case_.inputs;
    args.gradients = &gradients;
    args.end = case_.tokens;
    args.dlogits = dlogits.data();
    args.dlogits_type = case_.weight_type;
    args.dlogits_stride = case_.experts;
    args.scratch = static_cast<float*>(scratch_.data());
    kernels_.route_backward(args);
    const auto bits = narrow_bits(dlogits, case_.weight_type);
    out_.dlogits.insert(out_.dlogits.end(), bits.begin(), bits.end());
  }

  const Kernels& kernels_;
  const Case& case_;
  Ask ask_;
  elements::Elements logits_;
  std::size_t slots_ = 0;
  std::size_t cells_ = 0;
  RouteOutputs outputs_ = {};
  std::vector<float> chosen_logit_;
  std::vector<float> cutoff_;
  Workspace scratch_{route_workspace_bytes(case_.tokens, static_cast<std::int32_t>(case_.experts))};
  Outcome out_;
};

class EmulatedRoute : public testing::TestWithParam<const Kernels*> {
 protected:
  void SetUp() override {
    if (available_isas().size() < 2) {
      GTEST_SKIP() << "this machine has no AVX2, which the emulation is compiled for";
    }
  }

  static void expect_bits_of_plain(const Case& c, Ask ask = Ask::everything) {
    EXPECT_EQ(Runner(*GetParam(), c, ask).run(), Runner(kKernelsPlain, c, ask).run())
        << "experts " << c.experts << " topk " << c.options.topk << " " << dtype_name(c.logits_type);
  }
};

constexpr std::uint8_t kValid[] = {1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1};
constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};

// 19 tokens: a full block of lanes and a part of one.
Case case_of(const RouterOptions& options, std::int64_t experts, DType type) {
  Case c{.tokens = 19, .experts = experts, .options = options};
  c.wanted = options.groups == 0 && options.topk < experts ? route_runs::everything_of(options.score) : 0;
  c.inputs.valid = kValid;
  c.logits_type = type;
  c.weight_type = type;
  return c;
}

TEST_P(EmulatedRoute, EveryRuleGivesTheBitsOfPlain) {
  for (const std::int32_t topk : {1, 2, 18}) {
    std::size_t turn = 0;
    for (const auto& rule : route_cases::rules(topk)) {
      SCOPED_TRACE(rule.name);
      const DType type = kTypes[turn++ % 3];
      Case c = case_of(rule.options, 37, type);
      c.logits = kernel_runs::normal_values(19 * 37, static_cast<unsigned>(turn));
      expect_bits_of_plain(c);
      c.logits = kernel_runs::wild_values(19 * 37, false, static_cast<unsigned>(turn));
      expect_bits_of_plain(c);
    }
  }
}

TEST_P(EmulatedRoute, BiasGroupsAndOrdersGiveTheBitsOfPlain) {
  const auto bias = kernel_runs::normal_values(64, 7);
  for (const auto& kind : route_cases::kKinds) {
    for (const Order order : {Order::score, Order::expert, Order::any}) {
      for (const std::int32_t groups : {0, 2, 8}) {
        SCOPED_TRACE(kind.name);
        RouterOptions options{.topk = 6, .score = kind.score, .normalize = Normalize::sum, .groups = groups};
        options.kept_groups = groups / 2;
        options.group_best = groups == 8 ? 3 : 1;
        options.masked_zero = order == Order::expert;
        options.selection_bias = {bias.data(), DType::f32};
        options.chosen = kind.chosen;
        options.order = order;
        options.round_logits = order == Order::any;
        Case c = case_of(options, 64, DType::f32);
        c.logits = kernel_runs::normal_values(19 * 64, 3);
        expect_bits_of_plain(c);
        c.logits = kernel_runs::wild_values(19 * 64, false, 4);
        expect_bits_of_plain(c);
      }
    }
  }
}

// Duplicates, slots of −1 and rows that were not recorded among them; odd numbers of experts, for every id type.
TEST_P(EmulatedRoute, GivenIdsGiveTheBitsOfPlain) {
  constexpr std::int64_t kExperts = 37;
  constexpr std::int32_t kTopk = 5;
  std::vector<std::int64_t> ids(19 * kTopk);
  std::mt19937 random(6);
  for (auto& id : ids) id = static_cast<std::int64_t>(random() % (kExperts + 1)) - 1;
  std::vector<std::int64_t> named(ids);
  for (auto& id : named) id = std::max<std::int64_t>(id, 0);
  std::vector<std::int64_t> token(19);
  for (auto& row : token) row = static_cast<std::int64_t>(random() % 19);
  std::vector<std::uint8_t> replayed(19);
  for (auto& one : replayed) one = static_cast<std::uint8_t>(random() % 4 != 0);
  std::size_t turn = 0;
  for (const auto& rule : route_cases::rules(kTopk)) {
    SCOPED_TRACE(rule.name);
    constexpr DType kIds[] = {DType::i16, DType::i32, DType::i64};
    const elements::Elements forced = elements::of(kIds[turn % 3], ids);
    const elements::Elements table = elements::of(kIds[turn % 3], named);
    const elements::Elements tokens = elements::of(turn % 2 == 0 ? DType::i32 : DType::i64, token);
    Case c = case_of(rule.options, kExperts, kTypes[turn++ % 3]);
    c.wanted = 0;
    c.logits = kernel_runs::normal_values(19 * kExperts, static_cast<unsigned>(turn));
    c.inputs.forced = forced.view();
    expect_bits_of_plain(c);
    c.inputs.replayed = replayed.data();
    expect_bits_of_plain(c);
    c.inputs.forced = {};
    c.inputs.replayed = nullptr;
    c.options.table = table.view();
    c.options.table_rows = 19;
    c.inputs.token_id = tokens.view();
    expect_bits_of_plain(c);
  }
}

TEST_P(EmulatedRoute, EveryNumberOfExpertsGivesTheBitsOfPlain) {
  for (const std::int64_t experts : {1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 257, 2050}) {
    for (const std::int32_t topk : {1, 2, 8, 16, 17, 33, 64}) {
      for (const Score score : {Score::softmax, Score::sigmoid}) {
        const auto most = static_cast<std::int32_t>(std::min<std::int64_t>(topk, experts));
        Case c = case_of({.topk = most, .score = score}, experts, DType::f32);
        c.logits = kernel_runs::normal_values(static_cast<std::size_t>(19 * experts), 5);
        expect_bits_of_plain(c);
        for (float& logit : c.logits) logit = std::round(logit);  // ties at every rank
        expect_bits_of_plain(c);
      }
    }
  }
}

// Whole blocks of narrow logits are read in ways of their own, where nothing asks for a whole row.
TEST_P(EmulatedRoute, WholeBlocksOfNarrowLogitsGiveTheBitsOfPlain) {
  const auto bias = kernel_runs::normal_values(256, 7);
  for (const std::int64_t experts : {16, 64, 256}) {
    for (const auto& kind : route_cases::kKinds) {
      for (const DType type : {DType::bf16, DType::f16}) {
        for (const std::int32_t groups : {0, 4}) {
          SCOPED_TRACE(std::string(kind.name) + ", groups " + std::to_string(groups));
          RouterOptions options{.topk = 8, .score = kind.score, .normalize = Normalize::sum, .groups = groups};
          options.kept_groups = groups / 2;
          options.group_best = 2;
          options.chosen = kind.chosen;
          Case c = case_of(options, experts, type);
          c.wanted = 0;
          c.logits = kernel_runs::normal_values(static_cast<std::size_t>(19 * experts), 3);
          expect_bits_of_plain(c, Ask::choice);
          c.logits = kernel_runs::wild_values(static_cast<std::size_t>(19 * experts), false, 4);
          expect_bits_of_plain(c, Ask::choice);
          c.options.selection_bias = {bias.data(), DType::f32};
          c.logits = kernel_runs::normal_values(static_cast<std::size_t>(19 * experts), 5);
          expect_bits_of_plain(c, Ask::choice);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Avx512, EmulatedRoute,
                         testing::Values(&kEmulatedAvx512, &kEmulatedAvx512Vnni, &kEmulatedAvx512Bf16),
                         [](const auto& kernels) { return std::string(isa_name(kernels.param->isa)); });

}  // namespace
