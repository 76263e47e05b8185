// A rollout is routed live, captured, exported and replayed: the same experts, the same bits, and gradients.
#include "switchyard/replay.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "position_rows.hpp"
#include "switchyard/capture.hpp"
#include "switchyard/record_export.hpp"

namespace {

using namespace position_rows;

constexpr std::int32_t kExperts = 32;
constexpr std::int32_t kTopk = 4;
const std::vector<std::int32_t> kLayers = {1, 2, 6};

std::vector<float> random_floats(std::size_t count, unsigned seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(random); });
  return values;
}

RouterOptions router() {
  static const std::vector<float> kBias = random_floats(kExperts, 77, 0.3F);
  RouterOptions options;
  options.topk = kTopk;
  options.score = Score::sigmoid;
  options.normalize = Normalize::sum;
  options.epsilon = 1e-20F;
  options.scale = 2.5F;
  options.selection_bias = {kBias.data(), DType::f32};
  options.groups = 4;
  options.kept_groups = 2;
  options.group_best = 2;
  return options;
}

struct Routed {
  std::vector<std::int32_t> expert;
  std::vector<float> weight;
  std::vector<float> dlogits;  // for the gradients 1, 2, … of the slots
  bool operator==(const Routed&) const = default;
};

Routed run(const std::vector<float>& logits, const RouteInputs& inputs) {
  const auto tokens = static_cast<std::int64_t>(logits.size()) / kExperts;
  const auto slots = static_cast<std::size_t>(tokens * kTopk);
  Routed routed{std::vector<std::int32_t>(slots), std::vector<float>(slots), std::vector<float>(logits.size())};
  RouteOutputs outputs;
  outputs.expert = {routed.expert.data(), DType::i32};
  outputs.weight = {routed.weight.data(), DType::f32};
  const Workspace workspace(route_workspace_bytes(tokens, kExperts));
  const ConstMatrix l(logits.data(), tokens, kExperts);
  route(l, router(), inputs, outputs, workspace);
  std::vector<float> dweight(slots);
  for (std::size_t i = 0; i < slots; ++i) dweight[i] = static_cast<float>(i % kTopk + 1);
  RouteGradients gradients;
  gradients.expert = {routed.expert.data(), DType::i32};
  gradients.weight = {dweight.data(), DType::f32};
  route_backward(l, router(), inputs, gradients, {routed.dlogits.data(), tokens, kExperts}, workspace);
  return routed;
}

// Logits [layer][tokens,E] of two sequences of 10 and 14 tokens, captured but for the last row of each.
struct Rollout {
  RecordSchema schema{kExperts, kTopk, kLayers, SlotOrder::kept, ""};
  std::vector<std::vector<float>> logits;
  std::vector<Routed> live;
  Capture capture{schema};

  Rollout() {
    for (std::size_t l = 0; l < kLayers.size(); ++l) {
      logits.push_back(random_floats(24 * kExperts, static_cast<unsigned>(l)));
      live.push_back(run(logits[l], {}));
      std::vector<std::int32_t> ids = live[l].expert;
      ids[9 * kTopk] = -1;
      ids[23 * kTopk + 1] = -1;
      capture.append(kLayers[l], {24, kTopk, ids.data(), nullptr}, std::vector<CaptureSpan>{{0, 0, 10}, {1, 0, 14}});
    }
  }
};

struct Exported {
  ExportLayout layout;
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> states;
  ReplayRows rows() const { return {{ids.data(), DType::i32}, states.data(), layout.rows}; }
};

Exported export_of(const Rollout& rollout, const ExportOptions& options) {
  const std::vector<RecordRows> rows = {rollout.capture.rows(0), rollout.capture.rows(1)};
  Exported out;
  out.layout = export_layout(rollout.schema, std::vector<std::int64_t>{10, 14}, options);
  out.ids.resize(out.layout.bytes / 4);
  out.states.resize(static_cast<std::size_t>(out.layout.rows));
  export_rows(rollout.schema, rows, options, out.ids.data(), out.layout.bytes, out.states);
  return out;
}

TEST(Replay, GivesTheBitsOfTheRollout) {
  const Rollout rollout;
  for (const Filler tail : {Filler::native, Filler::minus_one}) {
    ExportOptions options;
    options.tail = tail;
    const Exported exported = export_of(rollout, options);
    Replay replay(kLayers, kTopk);
    replay.add(exported.rows());
    for (std::size_t l = 0; l < kLayers.size(); ++l) {
      const RouteInputs inputs = replay.take(ReplayPass::forward, kLayers[l], 24);
      EXPECT_EQ(run(rollout.logits[l], inputs), rollout.live[l]) << "layer " << kLayers[l];
    }
    replay.check_consumed(ReplayPass::forward);
  }
}

TEST(Replay, HoldsTheExpertsWhileTheWeightsFollow) {
  const Rollout rollout;
  const Exported exported = export_of(rollout, {});
  Replay replay(kLayers, kTopk);
  replay.add(exported.rows());
  std::vector<float> drifted = rollout.logits[1];
  const std::vector<float> noise = random_floats(drifted.size(), 9);
  for (std::size_t i = 0; i < drifted.size(); ++i) drifted[i] += noise[i];
  const Routed live = run(drifted, {});
  const Routed replayed = run(drifted, replay.take(ReplayPass::forward, 2, 24));
  ASSERT_NE(live.expert, rollout.live[1].expert);
  for (std::size_t t = 0; t < 24; ++t) {
    const bool missing = t == 9 || t == 23;
    const Routed& source = missing ? live : rollout.live[1];
    double sum = 0;
    std::vector<double> score;
    for (std::size_t s = 0; s < kTopk; ++s) {
      const std::int32_t id = replayed.expert[t * kTopk + s];
      ASSERT_EQ(id, source.expert[t * kTopk + s]) << "token " << t;
      score.push_back(1 / (1 + std::exp(-double{drifted[t * kExperts + static_cast<std::size_t>(id)]})));
      sum += score.back();
    }
    double gradient = 0;
    for (std::size_t s = 0; s < kTopk; ++s) {
      const auto id = static_cast<std::size_t>(replayed.expert[t * kTopk + s]);
      EXPECT_NEAR(replayed.weight[t * kTopk + s], 2.5 * score[s] / sum, 1e-5);
      gradient += std::abs(replayed.dlogits[t * kExperts + id]);
    }
    EXPECT_GT(gradient, 1e-3) << "token " << t;
  }
}

TEST(Replay, FillersAreReplayedAndPaddingIsThere) {
  const Rollout rollout;
  ExportOptions options;
  options.tail = Filler::repeat_last;
  options.padding = Filler::balanced;
  options.sequence_multiple = 8;
  options.layers = {6};
  const Exported exported = export_of(rollout, options);
  Replay replay({6}, kTopk);
  replay.add(exported.rows());
  const std::vector<float> logits = random_floats(32 * kExperts, 5);
  const Routed routed = run(logits, replay.take(ReplayPass::forward, 6, 32));
  EXPECT_EQ(routed.expert, exported.ids);
}

TEST(Replay, TwoCursorsFollowAPipeline) {
  std::vector<std::int16_t> first(2 * 3 * 2);
  std::vector<std::int16_t> second(2 * 1 * 2);
  const std::vector<std::uint8_t> states(3, 1);
  Replay replay({4, 8}, 2);
  replay.add({{first.data(), DType::i16}, states.data(), 3});
  replay.add({{second.data(), DType::i16}, nullptr, 1});
  const auto take = [&](ReplayPass pass, std::int32_t layer, std::int64_t tokens) {
    return static_cast<const std::int16_t*>(replay.take(pass, layer, tokens).forced.data);
  };
  // 1F1B: forwards of both micro-batches, then a recomputation of the first, before all layers are through.
  EXPECT_EQ(take(ReplayPass::forward, 4, 3), first.data());
  EXPECT_EQ(take(ReplayPass::forward, 8, 3), first.data() + 6);
  EXPECT_EQ(take(ReplayPass::forward, 4, 1), second.data());
  EXPECT_EQ(take(ReplayPass::recompute, 8, 3), first.data() + 6);
  EXPECT_EQ(take(ReplayPass::recompute, 4, 3), first.data());
  EXPECT_EQ(replay.left(ReplayPass::forward), 1);
  EXPECT_EQ(replay.left(ReplayPass::recompute), 2);
  EXPECT_EQ(error_of([&] { replay.check_consumed(ReplayPass::forward); }),
            "mismatch: replay: layer 8 took 1 micro-batches in its forward pass, expected 2");
  EXPECT_EQ(error_of([&] { take(ReplayPass::recompute, 8, 1); }),
            "invalid argument: replay: layer 8 recomputes micro-batch 1, expected its forward before");
  EXPECT_EQ(error_of([&] { take(ReplayPass::forward, 8, 3); }),
            "invalid argument: replay: layer 8 has 3 tokens in micro-batch 1, expected its 1 rows");
  EXPECT_EQ(take(ReplayPass::forward, 8, 1), second.data() + 2);
  EXPECT_EQ(error_of([&] { take(ReplayPass::forward, 8, 1); }),
            "invalid argument: replay: layer 8 takes micro-batch 2 in its forward pass, expected at most 2 of them");
  EXPECT_EQ(error_of([&] { take(ReplayPass::forward, 5, 1); }),
            "invalid argument: replay: layer 5 takes rows, expected one of the 2 layers that were exported");
  replay.check_consumed(ReplayPass::forward);
  take(ReplayPass::recompute, 8, 1);
  take(ReplayPass::recompute, 4, 1);
  replay.check_consumed(ReplayPass::recompute);
  replay.rewind(ReplayPass::forward);
  EXPECT_EQ(replay.left(ReplayPass::forward), 4);
  EXPECT_EQ(take(ReplayPass::forward, 4, 3), first.data());
  replay.clear();
  EXPECT_EQ(replay.left(ReplayPass::forward), 0);
  EXPECT_EQ(replay.micro_batches(), 0);
}

TEST(Replay, RefusesWhatTheRouterWouldNotTake) {
  Replay replay({0}, 2);
  const std::uint8_t narrow[2] = {};
  EXPECT_EQ(error_of([&] {
              replay.add({{narrow, DType::u8}, nullptr, 1});
            }),
            "invalid argument: replay: found u8 ids, expected i16, i32 or i64, which the router takes");
  EXPECT_NE(error_of([&] { replay.add({{nullptr, DType::i32}, nullptr, 1}); }), "");
  EXPECT_NE(error_of([] { Replay({1, 1}, 2); }), "");
  EXPECT_NE(error_of([] { Replay({1}, 0); }), "");
  replay.add({{nullptr, DType::i32}, nullptr, 0});
  EXPECT_EQ(replay.take(ReplayPass::forward, 0, 0).forced.data, nullptr);
}

TEST(Replay, MeasuresHowFarRoutingDrifted) {
  const std::vector<std::int32_t> live = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3};
  const std::vector<std::int64_t> replayed = {3, 2, 1, 4, 5, 9, 8, 7, 9, -1, 2, 3};
  const std::vector<std::uint8_t> states = {1, 2, 1, 1};
  RouteOverlap overlap = route_overlap({live.data(), DType::i32}, {replayed.data(), DType::i64}, 4, 3, states.data());
  EXPECT_EQ(overlap.rows, 3);
  EXPECT_EQ(overlap.shared, 3 + 2 + 3);
  EXPECT_EQ(overlap.equal, 2);
  EXPECT_DOUBLE_EQ(overlap.mean_shared(), 8.0 / 3);
  EXPECT_DOUBLE_EQ(overlap.equal_fraction(), 2.0 / 3);
  const std::vector<std::uint8_t> second = {0, 1, 0, 0};
  overlap += route_overlap({live.data(), DType::i32}, {replayed.data(), DType::i64}, 4, 3, second.data());
  EXPECT_EQ(overlap.rows, 4);
  EXPECT_DOUBLE_EQ(overlap.equal_fraction(), 0.5);
  EXPECT_EQ(RouteOverlap().mean_shared(), 0);
  // A duplicate is one expert.
  const std::vector<std::int16_t> twice = {5, 5};
  const std::vector<std::int16_t> once = {5, 6};
  overlap = route_overlap({twice.data(), DType::i16}, {once.data(), DType::i16}, 1, 2);
  EXPECT_EQ(overlap.shared, 1);
  EXPECT_EQ(overlap.equal, 0);
  EXPECT_EQ(error_of([&] {
              route_overlap({live.data(), DType::i32}, {live.data(), DType::u8}, 1, 2);
            }),
            "invalid argument: replay: found u8 ids, expected i16, i32 or i64, which the router takes");
}

}  // namespace
