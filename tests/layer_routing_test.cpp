// What comes to a layer's forward beside the hidden states: padding, replayed experts, token ids; and a router in bf16.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "made_layer.hpp"

namespace {

using namespace switchyard;
using namespace made;

constexpr LayerCase kShape{"h32_f24_e6_k2", 32, 24, 6, 2};
// So many experts that logits of a few thousand tokens do not fit in what the router works on at a time.
constexpr LayerCase kManyExperts{"h8_f8_e300_k2", 8, 8, 300, 2};
constexpr std::int64_t kManyTokens = 4000;

struct Result {
  std::vector<std::byte> y;
  std::vector<std::int32_t> expert;
  std::vector<float> weight;
  bool operator==(const Result&) const = default;
};

Result run(const Layer& layer, const Rows& x, const RouteInputs& inputs) {
  Rows y(DType::f32, x.rows, x.cols);
  Workspace workspace(layer.workspace_bytes(x.rows));
  std::memset(workspace.data(), 0xff, workspace.bytes());
  const Routing routing = layer.forward(x.view(), y.view(), workspace, inputs).routing;
  const std::int64_t slots = routing.tokens * routing.topk;
  return {y.bytes, {routing.expert, routing.expert + slots}, {routing.weight, routing.weight + slots}};
}

Rows random_rows(const LayerCase& shape, std::int64_t tokens, unsigned seed) {
  std::mt19937 random(seed);
  return {DType::f32, random_table(tokens, shape.hidden, 1.0, random)};
}

RouterOptions router_of(const LayerCase& shape) { return {.topk = shape.topk, .normalize = Normalize::sum}; }

LayerOptions two_threads() {
  LayerOptions options;
  options.threads = Threads::pool(2);
  return options;
}

TEST(LayerRouting, ReplayGivesTheBytesOfTheForwardThatItFollows) {
  const Weights weights(kManyExperts, Shared::plain, 1);
  const Layer layer = weights.layer(router_of(kManyExperts), two_threads());
  const Rows x = random_rows(kManyExperts, kManyTokens, 2);
  const Result live = run(layer, x, {});
  RouteInputs inputs;
  inputs.forced = {live.expert.data(), DType::i32};
  EXPECT_EQ(run(layer, x, inputs), live);

  std::vector<std::uint8_t> replayed(kManyTokens, 1);
  std::vector<std::int16_t> forced(live.expert.size(), 0);
  for (std::size_t t = 0; t < replayed.size(); ++t) {
    replayed[t] = t % 3 != 0;
  }
  for (std::size_t i = 0; i < forced.size(); ++i) {
    forced[i] = static_cast<std::int16_t>(replayed[i / 2] != 0 ? live.expert[i] : -7);
  }
  inputs.forced = {forced.data(), DType::i16};
  inputs.replayed = replayed.data();
  EXPECT_EQ(run(layer, x, inputs), live) << "missing rows are routed live";
}

TEST(LayerRouting, ForcedExpertsAreTaken) {
  const Weights weights(kShape, Shared::none, 3);
  const Layer layer = weights.layer(router_of(kShape), two_threads());
  const Rows x = random_rows(kShape, 3, 4);
  const std::vector<std::int64_t> forced{5, 0, 1, 1, 2, 4};
  RouteInputs inputs;
  inputs.forced = {forced.data(), DType::i64};
  const Result found = run(layer, x, inputs);
  EXPECT_EQ(found.expert, (std::vector<std::int32_t>{5, 0, 1, 1, 2, 4}));
  for (std::size_t t = 0; t < 3; ++t) {
    EXPECT_NEAR(found.weight[2 * t] + found.weight[2 * t + 1], 1.0, 1e-6);
  }
  EXPECT_EQ(found.weight[2], 0.5F) << "the same expert twice";
}

TEST(LayerRouting, PaddingUsesNoExpertAndChangesNoOther) {
  for (const Shared shared : {Shared::none, Shared::plain}) {
    const Weights weights(kManyExperts, shared, 5);
    const Layer layer = weights.layer(router_of(kManyExperts), two_threads());
    const Rows x = random_rows(kManyExperts, kManyTokens, 6);
    const Result all = run(layer, x, {});
    std::vector<std::uint8_t> valid(kManyTokens);
    for (std::size_t t = 0; t < valid.size(); ++t) {
      valid[t] = t % 5 != 0;
    }
    RouteInputs inputs;
    inputs.valid = valid.data();
    const Result some = run(layer, x, inputs);
    const std::size_t row = all.y.size() / valid.size();
    const std::vector<std::byte> zeros(row);
    for (std::size_t t = 0; t < valid.size(); ++t) {
      EXPECT_EQ(some.expert[2 * t], valid[t] != 0 ? all.expert[2 * t] : -1) << "token " << t;
      EXPECT_EQ(some.weight[2 * t], valid[t] != 0 ? all.weight[2 * t] : 0.0F) << "token " << t;
      if (valid[t] != 0) {
        EXPECT_EQ(std::memcmp(&some.y[t * row], &all.y[t * row], row), 0) << "token " << t;
      } else if (shared == Shared::none) {
        EXPECT_EQ(std::memcmp(&some.y[t * row], zeros.data(), row), 0) << "token " << t;
      }
    }
  }
}

TEST(LayerRouting, ATableChoosesByTokenId) {
  const Weights weights(kShape, Shared::none, 7);
  const std::vector<std::int64_t> table{0, 3, 5, 5, 2, 1};
  RouterOptions options = router_of(kShape);
  options.table = {table.data(), DType::i64};
  options.table_rows = 3;
  const Layer layer = weights.layer(options, two_threads());
  const Rows x = random_rows(kShape, 4, 8);
  const std::vector<std::int32_t> token_id{2, 0, 1, 2};
  RouteInputs inputs;
  inputs.token_id = {token_id.data(), DType::i32};
  EXPECT_EQ(run(layer, x, inputs).expert, (std::vector<std::int32_t>{2, 1, 0, 3, 5, 5, 2, 1}));
  EXPECT_THROW(run(layer, x, {}), Error);
  // Replayed but for its second token, which is not there, and the last, whose row has no id.
  const std::vector<std::int16_t> forced{4, 1, 3, 3, 1, 1, 0, -1};
  const std::vector<std::uint8_t> replayed{1, 0, 1, 1};
  inputs.forced = {forced.data(), DType::i16};
  inputs.replayed = replayed.data();
  EXPECT_EQ(run(layer, x, inputs).expert, (std::vector<std::int32_t>{4, 1, 0, 3, 1, 1, 2, 1}));
}

TEST(LayerRouting, AWeightStoredInBf16TakesHalfTheMemoryAndGivesTheBitsOfF32) {
  for (const LayerCase& shape : {kShape, kManyExperts}) {
    for (const DType activations : {DType::f32, DType::bf16}) {
      const Weights weights(shape, Shared::gated, 13);
      LayerOptions options{.format = Format::bf16, .activations = activations, .threads = Threads::pool(1)};
      const Layer narrow = weights.layer(router_of(shape), options, DType::bf16);
      options.threads = Threads::pool(7);  // which share the shared gate's panel, and that of the router of few experts
      const Layer wide = weights.layer(router_of(shape), options, DType::f32);
      EXPECT_EQ(*narrow.options().router, DType::f32);
      const std::int64_t panels = (shape.experts + 31) / 32 + 1;
      EXPECT_EQ(wide.weight_bytes() - narrow.weight_bytes(), static_cast<std::size_t>(panels * 32 * 32 * 2));
      for (const std::int64_t tokens : {1, 9, 60}) {
        SCOPED_TRACE(std::string(shape.name) + " " + dtype_name(activations) + " " + std::to_string(tokens));
        std::mt19937 random(14);
        const Rows x(activations, random_table(tokens, shape.hidden, 1.0, random));
        const Result expected = run(wide, x, {});
        EXPECT_EQ(run(narrow, x, {}), expected);
      }
    }
  }
}

TEST(LayerRouting, ARouterInBf16GivesLogitsInBf16) {
  const Weights weights(kShape, Shared::none, 9);
  RouterOptions options{.topk = kShape.topk, .score = Score::logit};
  LayerOptions layer_options = two_threads();
  layer_options.router = DType::bf16;
  const Layer layer = weights.layer(options, layer_options);
  std::mt19937 random(10);
  const reference::Table x = random_table(50, kShape.hidden, 1.0, random);
  const Result found = run(layer, {DType::f32, x}, {});
  const reference::Table logits = weights.logits(x);
  for (std::size_t i = 0; i < found.weight.size(); ++i) {
    const double exact = logits.at(static_cast<std::int64_t>(i / 2), found.expert[i]);
    EXPECT_EQ(round_bf16(found.weight[i]), found.weight[i]);
    EXPECT_NEAR(found.weight[i], exact, std::abs(exact) / 256 + 1e-6);
  }
  EXPECT_TRUE(layer.router().round_logits);
}

// What the router of a layer of zeros runs in.
DType made_router_type(DType weight, bool narrow, DType activations, std::optional<DType> asked) {
  const std::vector<std::byte> zeros(256);
  const WeightView view{zeros.data(), weight, 4, 1};
  LayerWeights weights;
  weights.experts = 3;
  weights.hidden = weights.ffn = 4;
  weights.router = view;
  weights.narrow_router = narrow;
  weights.expert = [&](std::int32_t) { return ExpertTensors{view, view, view}; };
  const Layer layer(weights, {}, {.format = Format::bf16, .activations = activations, .router = asked});
  EXPECT_EQ(layer.router().round_logits, layer.options().router == DType::bf16);
  return *layer.options().router;
}

TEST(LayerRouting, ARouterRunsInTheModelsTypeWhereTheWeightsAskForIt) {
  for (const DType weight : {DType::f32, DType::bf16, DType::f16}) {
    for (const DType activations : {DType::f32, DType::bf16}) {
      for (const bool narrow : {false, true}) {
        SCOPED_TRACE(std::string(dtype_name(weight)) + " " + dtype_name(activations) + (narrow ? " narrow" : ""));
        const bool bf16 = narrow && weight == DType::bf16 && activations == DType::bf16;
        EXPECT_EQ(made_router_type(weight, narrow, activations, {}), bf16 ? DType::bf16 : DType::f32);
        EXPECT_EQ(made_router_type(weight, narrow, activations, DType::f32), DType::f32);
        EXPECT_EQ(made_router_type(weight, narrow, activations, DType::bf16), DType::bf16);
      }
    }
  }
  try {
    made_router_type(DType::f32, false, DType::f32, DType::f16);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "layer: found a router in f16, expected f32 or bf16");
  }
}

TEST(LayerRouting, RefusesInputsWhereItWrites) {
  const Weights weights(kShape, Shared::none, 11);
  const Layer layer = weights.layer(router_of(kShape), two_threads());
  const Rows x = random_rows(kShape, 4, 12);
  Rows y(DType::f32, 4, kShape.hidden);
  Workspace workspace(layer.workspace_bytes(4));
  const auto message = [&](const RouteInputs& inputs) -> std::string {
    try {
      layer.forward(x.view(), y.view(), workspace, inputs);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const std::int64_t borders[] = {0, 4};
  for (auto* memory : {static_cast<std::byte*>(workspace.data()), y.bytes.data()}) {
    const std::string written = memory == y.bytes.data() ? "y" : "the workspace";
    const auto expected = [&](const char* read) {
      return "layer: " + written + " and " + read + " overlap, expected separate memory";
    };
    std::memset(memory, 0, 64);
    std::memcpy(memory, borders, sizeof borders);
    RouteInputs inputs;
    inputs.forced = {memory + 8, DType::i16};
    EXPECT_EQ(message(inputs), expected("forced"));
    inputs = {};
    inputs.valid = reinterpret_cast<std::uint8_t*>(memory);
    EXPECT_EQ(message(inputs), expected("valid"));
    inputs = {};
    inputs.replayed = reinterpret_cast<std::uint8_t*>(memory);
    EXPECT_EQ(message(inputs), expected("replayed"));
    inputs = {};
    inputs.token_id = {memory, DType::i64};
    EXPECT_EQ(message(inputs), expected("token_id"));
    inputs = {};
    inputs.sequence_begin = reinterpret_cast<std::int64_t*>(memory);
    EXPECT_EQ(message(inputs), expected("sequence_begin"));
  }
  EXPECT_EQ(message({}), "nothing");
}

}  // namespace
