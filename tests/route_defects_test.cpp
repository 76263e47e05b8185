// One test for each way in which fused routers are known to go wrong.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <set>

#include "route_cases.hpp"
#include "route_checks.hpp"

namespace {

using namespace route_runs;

std::vector<std::int64_t> first_ids(std::int32_t count) {
  std::vector<std::int64_t> ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

double sigmoid_of(float logit) { return 1 / (1 + std::exp(-static_cast<double>(logit))); }

// ---- ties

TEST(RouteDefects, EqualRowsGiveTheFirstIdsForEveryTopk) {
  const std::vector<float> bias(64, 0.25F);
  for (const auto& kind : route_cases::kKinds) {
    for (std::int32_t topk = 1; topk <= 64; ++topk) {
      RouterOptions options{.topk = topk, .score = kind.score, .chosen = kind.chosen};
      EXPECT_EQ(ids_of(std::vector<float>(64, 0.5F), options), first_ids(topk)) << kind.name;
      options.selection_bias = f32(bias);
      EXPECT_EQ(ids_of(std::vector<float>(64, 0.5F), options), first_ids(topk)) << kind.name;
    }
  }
}

// Logits on a coarse grid tie at every rank.
std::vector<float> coarse(std::int64_t tokens, std::int64_t experts, unsigned seed) {
  std::vector<float> logits = random_floats(static_cast<std::size_t>(tokens * experts), 1.0F, seed);
  for (float& logit : logits) logit = std::round(logit * 2) / 2;
  return logits;
}

TEST(RouteDefects, TiesGoToTheLowerIdBelowAndAboveSixteen) {
  for (const std::int32_t topk : {1, 2, 8, 15, 16, 17, 20, 31, 32, 33, 64}) {
    expect_matches(
        {.tokens = 20, .experts = 70, .logits = coarse(20, 70, 2), .options = {.topk = topk}, .wanted = kUsual});
  }
}

TEST(RouteDefects, ChoiceDoesNotChangeWhereTopkCrossesSixteenOrThirtyTwo) {
  for (const std::int64_t experts : {64, 100, 8161}) {
    const std::vector<float> logits = coarse(1, experts, 3);
    const auto most = ids_of(logits, {.topk = 64});
    for (std::int32_t topk = 1; topk < 64; ++topk) {
      const auto fewer = ids_of(logits, {.topk = topk});
      EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), most.begin())) << topk;
    }
  }
}

TEST(RouteDefects, MoreThan8160ExpertsTieByIdToo) {
  for (const std::int64_t experts : {8159, 8160, 8161, 8200}) {
    for (const std::int32_t topk : {4, 16, 40}) {
      expect_matches({.tokens = 2, .experts = experts, .logits = coarse(2, experts, 4), .options = {.topk = topk}});
    }
  }
}

TEST(RouteDefects, SignedZerosAreEqual) {
  for (const std::int32_t topk : {3, 20}) {
    std::vector<float> logits;
    for (int e = 0; e < 40; ++e) logits.push_back(e % 2 == 0 ? -0.0F : 0.0F);
    for (const Score score : {Score::softmax, Score::sigmoid, Score::logit}) {
      RouterOptions options{.topk = topk, .score = score};
      EXPECT_EQ(ids_of(logits, options), first_ids(topk));
      options.selection_bias = f32(logits);
      EXPECT_EQ(ids_of(logits, options), first_ids(topk));
    }
  }
}

TEST(RouteDefects, EqualGroupsKeepTheLowerOnes) {
  RouterOptions options{.topk = 4, .score = Score::sigmoid};
  options.groups = 4;
  options.kept_groups = 2;
  options.group_best = 2;
  EXPECT_EQ(ids_of(std::vector<float>(16, 0.25F), options), first_ids(4));
  options.masked_zero = true;
  EXPECT_EQ(ids_of(std::vector<float>(16, -kInf), options), first_ids(4)) << "all scores are 0, kept or not";
}

// ---- infinities

TEST(RouteDefects, TheRestAtMinusInfinityIsTakenByIdWithoutDuplicates) {
  std::vector<float> logits(64, -kInf);
  logits[9] = 2.0F;
  logits[7] = 1.0F;
  for (const Score score : {Score::softmax, Score::sigmoid, Score::sqrt_softplus}) {
    for (const std::int32_t topk : {4, 10, 16, 33, 64}) {
      const auto ids = ids_of(logits, {.topk = topk, .score = score});
      EXPECT_EQ(std::vector<std::int64_t>(ids.begin(), ids.begin() + 4), (std::vector<std::int64_t>{9, 7, 0, 1}));
      EXPECT_EQ(std::set<std::int64_t>(ids.begin(), ids.end()).size(), static_cast<std::size_t>(topk));
    }
  }
}

TEST(RouteDefects, DuplicatesNeverComeFromMaskedGroups) {
  RouterOptions options{.topk = 4, .score = Score::sigmoid};
  options.groups = 4;
  options.kept_groups = 1;
  std::vector<float> bias(16, -kInf);
  bias[9] = 0.0F;
  options.selection_bias = f32(bias);
  EXPECT_EQ(ids_of(std::vector<float>(16, 1.0F), options), (std::vector<std::int64_t>{9, 0, 1, 2}));
}

TEST(RouteDefects, MinusInfinityInFrontDoesNotPoisonASoftmax) {
  for (std::size_t holes = 1; holes < 40; ++holes) {
    std::vector<float> logits = random_floats(40, 1.0F, static_cast<unsigned>(holes));
    std::fill_n(logits.begin(), holes, -kInf);
    expect_matches(one_token(logits, {.topk = 4}, kUsual));
    expect_matches(one_token(logits, {.topk = 1, .score = Score::logit, .chosen = ChosenScore::softmax}, kUsual));
  }
}

TEST(RouteDefects, SeveralPlusInfinitiesShareASoftmax) {
  const std::vector<float> logits{1.0F, kInf, 3.0F, kInf};
  for (const Normalize normalize : {Normalize::none, Normalize::sum}) {
    const Results found = run(one_token(logits, {.topk = 3, .normalize = normalize}, kUsual));
    EXPECT_EQ(found.ids(), (std::vector<std::int64_t>{1, 3, 2}));
    EXPECT_EQ(found.weights(), (std::vector<float>{0.5F, 0.5F, 0.0F}));
    EXPECT_EQ(found.floats(aux_score), (std::vector<float>{0.0F, 0.5F, 0.0F, 0.5F}));
  }
  const Results chosen = run(one_token(logits, {.topk = 3, .score = Score::logit, .chosen = ChosenScore::softmax}));
  EXPECT_EQ(chosen.weights(), (std::vector<float>{0.5F, 0.5F, 0.0F}));
}

TEST(RouteDefects, InfiniteLogitsHaveSigmoids) {
  const std::vector<float> logits{-kInf, kInf, 0.0F};
  const RouterOptions options{.topk = 3, .score = Score::sigmoid};
  EXPECT_EQ(run(one_token(logits, options)).weights(), (std::vector<float>{1.0F, 0.5F, 0.0F}));
  const RouterOptions llama{.topk = 3, .score = Score::logit, .chosen = ChosenScore::sigmoid};
  EXPECT_EQ(run(one_token(logits, llama)).weights(), (std::vector<float>{1.0F, 0.5F, 0.0F}));
}

TEST(RouteDefects, RowsWithoutAFiniteLogitAreUniform) {
  for (const float value : {-kInf, kNan, kMinusNan}) {
    const Results found = run(one_token(std::vector<float>(20, value), {.topk = 4}, kUsual));
    EXPECT_EQ(found.ids(), first_ids(4));
    EXPECT_EQ(found.weights(), std::vector<float>(4, 1.0F / 20));
    EXPECT_EQ(found.floats(aux_score), std::vector<float>(20, 1.0F / 20));
  }
}

TEST(RouteDefects, ScoresThatAreAllZeroGiveZeroWeights) {
  for (const float epsilon : {0.0F, 1e-20F}) {
    const Results found =
        run(one_token(std::vector<float>(8, -kInf),
                      {.topk = 2, .score = Score::sigmoid, .normalize = Normalize::sum, .epsilon = epsilon}, kUsual));
    EXPECT_EQ(found.ids(), first_ids(2));
    EXPECT_EQ(found.weights(), (std::vector<float>{0.0F, 0.0F}));
    EXPECT_EQ(found.floats(aux_score), std::vector<float>(8, 0.0F));
  }
}

// ---- NaN

TEST(RouteDefects, NanIsNeverChosenBeforeANumber) {
  for (const float nan : {kNan, kMinusNan}) {
    for (const auto& kind : route_cases::kKinds) {
      for (const std::int32_t topk : {1, 8, 9, 12, 15, 16, 40, 63}) {
        for (const std::size_t at : {std::size_t{0}, std::size_t{3}, std::size_t{31}, std::size_t{63}}) {
          std::vector<float> logits = random_floats(64, 1.0F, static_cast<unsigned>(at) + 1);
          std::vector<float> without = logits;
          logits[at] = nan;
          without[at] = -kInf;
          const RouterOptions options{.topk = topk, .score = kind.score, .chosen = kind.chosen};
          const Results found = run(one_token(logits, options, kUsual));
          EXPECT_EQ(found, run(one_token(without, options, kUsual))) << kind.name;
          const auto ids = found.ids();
          EXPECT_EQ(std::count(ids.begin(), ids.end(), static_cast<std::int64_t>(at)), 0) << kind.name;
        }
      }
    }
  }
}

TEST(RouteDefects, NanStandsAmongMinusInfinities) {
  const std::vector<float> logits{kNan, 1.0F, -kInf, 2.0F, kMinusNan};
  EXPECT_EQ(ids_of(logits, {.topk = 5}), (std::vector<std::int64_t>{3, 1, 0, 2, 4}));
  expect_matches(one_token(logits, {.topk = 5}, kUsual));
}

TEST(RouteDefects, NanIsNotTurnedIntoANumberByScaleAndCap) {
  RouterOptions options{.topk = 3, .score = Score::sigmoid};
  options.logit_scale = -1.0F;
  options.softcap = 2.0F;
  EXPECT_EQ(ids_of({kNan, 90.0F, 1.0F, 80.0F}, options), (std::vector<std::int64_t>{2, 1, 3}));
}

TEST(RouteDefects, NanInABiasCountsAsMinusInfinity) {
  RouterOptions options{.topk = 4, .score = Score::sigmoid};
  for (const float nan : {kNan, kMinusNan}) {
    const std::vector<float> bias{0.0F, nan, 0.0F, 0.0F};
    options.selection_bias = f32(bias);
    EXPECT_EQ(ids_of({1.0F, 5.0F, 2.0F, 3.0F}, options), (std::vector<std::int64_t>{3, 2, 0, 1}));
  }
}

TEST(RouteDefects, NanInAGroupLeavesItsOtherExpertsInTheGame) {
  RouterOptions options{.topk = 2, .score = Score::sigmoid};
  options.groups = 2;
  options.kept_groups = 1;
  EXPECT_EQ(ids_of({kNan, 5.0F, 2.0F, 3.0F}, options), (std::vector<std::int64_t>{1, 0}));
}

// ---- weights

TEST(RouteDefects, ABiasNeverTouchesTheWeights) {
  struct Pair {
    float bias;
    float logit;
  };
  for (const Pair& pair : {Pair{0.1F, -16.0F}, Pair{1.0F, -18.0F}, Pair{2.0F, -16.0F}, Pair{12.0F, -16.0F},
                           Pair{100.0F, -4.0F}, Pair{100.0F, -40.0F}, Pair{-1e30F, 3.0F}}) {
    const std::vector<float> bias(4, pair.bias);
    RouterOptions options{.topk = 3, .score = Score::sigmoid};
    options.selection_bias = f32(bias);
    const std::vector<float> logits{pair.logit, pair.logit - 2, pair.logit - 4, pair.logit - 9};
    for (const float w : run(one_token(std::vector<float>(4, pair.logit), options)).weights()) {
      EXPECT_NEAR(w / sigmoid_of(pair.logit), 1.0, 1e-6) << "bias " << pair.bias << " logit " << pair.logit;
    }
    const Results found = run(one_token(logits, options));
    for (std::size_t s = 0; s < 3; ++s) {
      const float logit = logits[static_cast<std::size_t>(found.ids()[s])];
      EXPECT_NEAR(found.weights()[s] / sigmoid_of(logit), 1.0, 1e-6) << "bias " << pair.bias << " logit " << logit;
    }
  }
}

TEST(RouteDefects, TinySigmoidsUnderALargeBiasAreNormalisedAmongThemselves) {
  const std::vector<float> bias(8, 12.0F);
  RouterOptions options{.topk = 4, .score = Score::sigmoid, .normalize = Normalize::sum, .epsilon = 1e-20F};
  options.selection_bias = f32(bias);
  const std::vector<float> logits{-17.0F, -18.0F, -16.5F, -17.5F, -17.2F, -18.1F, -16.9F, -17.7F};
  const Results found = run(one_token(logits, options));
  EXPECT_EQ(found.ids(), first_ids(4)) << "equal after the bias in single precision";
  double sum = 0;
  for (std::size_t s = 0; s < 4; ++s) sum += sigmoid_of(logits[s]);
  for (std::size_t s = 0; s < 4; ++s) {
    EXPECT_NEAR(found.weights()[s], sigmoid_of(logits[s]) / sum, 1e-6);
  }
}

TEST(RouteDefects, WeightsThatUnderflowKeepTheirIds) {
  const Results found = run(one_token({-200.0F, 300.0F, -1000.0F, -500.0F}, {.topk = 4}, kUsual));
  EXPECT_EQ(found.ids(), (std::vector<std::int64_t>{1, 0, 3, 2}));
  EXPECT_EQ(found.weights(), (std::vector<float>{1.0F, 0.0F, 0.0F, 0.0F}));
  EXPECT_EQ(found.as<std::uint8_t>(byte_map), (std::vector<std::uint8_t>{1, 1, 1, 1}));
  EXPECT_EQ(found.as<std::int64_t>(count), (std::vector<std::int64_t>{1, 1, 1, 1}));
}

TEST(RouteDefects, FarApartAndHugeLogitsKeepTheirOrder) {
  const float top = std::numeric_limits<float>::max();
  expect_matches(one_token({-200.0F, 300.0F, 0.0F, -top, top, 100.0F}, {.topk = 6}));
  expect_matches(one_token({88.0F, 89.0F, -88.0F, 87.9F}, {.topk = 4, .normalize = Normalize::sum}));
  expect_matches(one_token({30.0F, 31.0F, 32.0F}, {.topk = 3, .score = Score::sigmoid}));
  expect_matches(one_token({-100.0F, 1e4F, 20.0F, 21.0F}, {.topk = 4, .score = Score::sqrt_softplus}));
}

TEST(RouteDefects, ForcedExpertsFarBelowTheLargestAreNormalisedAmongThemselves) {
  const std::int32_t ids[] = {2, 1};
  Case c = one_token({300.0F, -1.0F, 0.0F, 5.0F}, {.topk = 2, .normalize = Normalize::sum});
  c.inputs.forced = {ids, DType::i32};
  expect_matches(c);
}

TEST(RouteDefects, OneChosenExpertIsNormalisedToOne) {
  for (const auto& kind : route_cases::kKinds) {
    for (const Normalize normalize : {Normalize::sum, Normalize::clamped_sum, Normalize::power_norm}) {
      const RouterOptions options{.topk = 1, .score = kind.score, .normalize = normalize, .chosen = kind.chosen};
      Case c = one_token({0.5F, 2.0F, 1.0F}, options);
      EXPECT_EQ(run(c).weights(), std::vector<float>{1.0F}) << kind.name;
      const auto dlogits = backward(c, {1}, {.weight = {1.0F}});
      for (std::int64_t e = 0; e < 3; ++e) {
        EXPECT_NEAR(elements::value_at(dlogits.view(), e), 0.0, 1e-7) << kind.name;
      }
    }
  }
}

TEST(RouteDefects, AScaleOfZeroIsZeroNotNone) {
  EXPECT_EQ(run(one_token({1.0F, 2.0F}, {.topk = 2, .scale = 0.0F})).weights(), (std::vector<float>{0.0F, 0.0F}));
}

TEST(RouteDefects, AMaskOfZeroLetsDroppedExpertsWinOverNegativeOnes) {
  const std::vector<float> bias{0.0F, -0.5F, 0.0F, 0.0F};
  RouterOptions options{.topk = 2, .score = Score::sigmoid};
  options.groups = 2;
  options.kept_groups = 1;
  options.selection_bias = f32(bias);
  EXPECT_EQ(ids_of({4.0F, -4.0F, 1.0F, 1.0F}, options), (std::vector<std::int64_t>{0, 1}));
  options.masked_zero = true;
  EXPECT_EQ(ids_of({4.0F, -4.0F, 1.0F, 1.0F}, options), (std::vector<std::int64_t>{0, 2}));
}

TEST(RouteDefects, TheSlopeOfAVeryNegativeSqrtSoftplusIsHalfOfIt) {
  for (const float logit : {-20.0F, -50.0F, -80.0F, -90.0F, -100.0F}) {
    Case c = one_token({logit, -kInf}, {.topk = 1, .score = Score::sqrt_softplus});
    const double expected = std::exp(static_cast<double>(logit) / 2);
    EXPECT_NEAR(run(c).weights()[0] / expected, 1.0, 1e-3) << logit;
    const auto dlogits = backward(c, {0}, {.weight = {1.0F}});
    EXPECT_NEAR(elements::value_at(dlogits.view(), 0) / (expected / 2), 1.0, 1e-3) << logit;
  }
}

// ---- sizes

TEST(RouteDefects, NoTokensAreRouted) {
  for (const auto& rule : route_cases::rules(2)) {
    const Case c{.tokens = 0, .experts = 5, .options = rule.options, .wanted = everything_of(rule.options.score)};
    const Results found = run(c);
    EXPECT_TRUE(found.ids().empty());
    EXPECT_EQ(found.as<std::int64_t>(count), std::vector<std::int64_t>(5, 0));
    EXPECT_EQ(found.as<double>(score_sum), std::vector<double>(5, 0.0));
    EXPECT_EQ(found.as<double>(z_sum), std::vector<double>{0.0});
    EXPECT_EQ(found.as<std::int64_t>(valid_count), std::vector<std::int64_t>{0});
    if ((c.wanted & bit(histogram)) != 0) {
      EXPECT_EQ(found.as<std::int32_t>(histogram), std::vector<std::int32_t>(35, kCountedBefore));
    }
  }
}

TEST(RouteDefects, AllMaskedCountsNothing) {
  Case c{.tokens = 9, .experts = 5, .options = {.topk = 2}, .wanted = everything_of(Score::softmax)};
  c.logits.assign(45, kInf);
  const std::vector<std::uint8_t> valid(9, 0);
  c.inputs.valid = valid.data();
  expect_matches(c);
  const Results found = run(c);
  EXPECT_EQ(found.ids(), std::vector<std::int64_t>(18, -1));
  EXPECT_EQ(found.as<std::int64_t>(valid_count), std::vector<std::int64_t>{0});
}

TEST(RouteDefects, TheCutoffOfTiesIsTheTiedValue) {
  for (const std::int32_t topk : {1, 7, 8, 15, 16, 31, 32, 63, 64}) {
    Case c{.tokens = 1, .experts = 80, .logits = std::vector<float>(80, 0.0F), .options = {.topk = topk}};
    c.options.score = Score::sigmoid;
    c.wanted = kRouting | bit(cutoff);
    EXPECT_EQ(run(c).floats(cutoff), std::vector<float>{0.5F}) << topk;
    EXPECT_EQ(run(c).ids(), first_ids(topk)) << "the tie with the highest id is dropped";
    c.logits[79] = 9.0F;
    EXPECT_EQ(run(c).floats(cutoff), std::vector<float>{0.5F}) << topk;
  }
}

// A released configuration without groups says n_group 1.
TEST(RouteDefects, OneGroupIsNone) {
  const std::vector<float> bias = random_floats(40, 0.2F, 1);
  for (const Score score : {Score::softmax, Score::sigmoid}) {
    for (const bool biased : {false, true}) {
      for (const std::int32_t kept : {0, 1}) {
        Case c{.tokens = 20, .experts = 40, .options = {.topk = 4, .score = score}};
        c.wanted = everything_of(score);
        c.options.selection_bias = biased ? f32(bias) : ConstArray{};
        c.logits = random_floats(800, 20.0F, 2);
        const Results none = run(c);
        const Gradients weights{.weight = random_floats(80, 1.0F, 3)};
        const auto gradient = backward(c, none.ids(), weights).bytes;
        c.options.groups = 1;
        c.options.kept_groups = kept;
        c.options.group_best = 2;
        EXPECT_EQ(run(c), none);
        EXPECT_EQ(backward(c, none.ids(), weights).bytes, gradient);
      }
    }
  }
  Case mixer{.tokens = 1, .experts = 4, .logits = {1, 2, 3, 4}, .options = {.topk = 2, .score = Score::sparsemixer}};
  mixer.options.groups = mixer.options.kept_groups = 1;
  EXPECT_EQ(run(mixer).ids(), (std::vector<std::int64_t>{3, 2}));
}

// Pages that are never touched take no memory.
class Mapped {
 public:
  explicit Mapped(std::size_t bytes)
      : bytes_(bytes),
        data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Mapped() {
    if (data_ != MAP_FAILED) munmap(data_, bytes_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  bool failed() const { return data_ == MAP_FAILED; }
  float* data() const { return static_cast<float*>(data_); }

 private:
  std::size_t bytes_;
  void* data_;
};

TEST(RouteDefects, MoreThanTwoToTheThirtyOneElementsAreReached) {
  constexpr std::int64_t kTokens = 40000;
  constexpr std::int64_t kWide = kMaxExperts;  // 2.6e9 logits
  const Mapped logits(kTokens * kWide * sizeof(float));
  if (logits.failed()) {
    GTEST_SKIP() << "no address space for 10 GB";
  }
  std::vector<std::uint8_t> valid(kTokens, 0);
  valid.back() = 1;
  logits.data()[kTokens * kWide - 2] = 3.0F;
  logits.data()[kTokens * kWide - 1] = 4.0F;
  std::vector<std::int32_t> ids(kTokens * 2);
  RouteInputs inputs;
  inputs.valid = valid.data();
  RouteOutputs outputs;
  outputs.expert = {ids.data(), DType::i32};
  Workspace workspace(route_workspace_bytes(kTokens, kWide));
  route({logits.data(), kTokens, kWide}, {.topk = 2}, inputs, outputs, workspace);
  EXPECT_EQ(ids[kTokens * 2 - 2], kWide - 1);
  EXPECT_EQ(ids[kTokens * 2 - 1], kWide - 2);
}

TEST(RouteDefects, RowsFarApartAreReached) {
  constexpr std::int64_t kStride = std::int64_t{3} << 30;  // elements
  constexpr std::int64_t kBytes = (kStride + 8) * static_cast<std::int64_t>(sizeof(float));
  const Mapped logits(kBytes);
  const Mapped dlogits(kBytes);
  if (logits.failed() || dlogits.failed()) {
    GTEST_SKIP() << "no address space for 24 GB";
  }
  logits.data()[3] = 1.0F;
  logits.data()[kStride + 5] = 1.0F;
  ConstMatrix matrix(logits.data(), 2, 8);
  matrix.stride = kStride;
  std::int32_t ids[] = {-7, -7};
  RouteOutputs outputs;
  outputs.expert = {ids, DType::i32};
  Workspace workspace(route_workspace_bytes(2, 8));
  route(matrix, {}, {}, outputs, workspace);
  EXPECT_EQ(ids[0], 3);
  EXPECT_EQ(ids[1], 5);
  Matrix gradient(dlogits.data(), 2, 8);
  gradient.stride = kStride;
  const float ones[] = {1.0F, 1.0F};
  RouteGradients given;
  given.expert = {ids, DType::i32};
  given.weight = {ones, DType::f32};
  route_backward(matrix, {}, {}, given, gradient, workspace);
  EXPECT_GT(dlogits.data()[kStride + 5], 0.1F);
  EXPECT_LT(dlogits.data()[kStride], 0.0F);
}

}  // namespace
