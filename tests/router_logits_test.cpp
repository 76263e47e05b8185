// The logits of a layer's router: the numbers that its forward routes by, so that `route` gives the rest of them, and
// gradients follow.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "elements.hpp"
#include "every_isa.hpp"
#include "guarded.hpp"
#include "made_layer.hpp"
#include "switchyard/cpu.hpp"

namespace {

using namespace switchyard;
using namespace made;
using switchyard::testing::Guarded;

constexpr LayerCase kShape{"h37_f24_e12_k3", 37, 24, 12, 3};
// So many experts that logits of a few thousand tokens do not fit in what the router works on at a time.
constexpr LayerCase kManyExperts{"h8_f8_e300_k2", 8, 8, 300, 2};
constexpr std::int64_t kManyTokens = 4000;

Rows random_rows(DType dtype, std::int64_t tokens, std::int64_t hidden, unsigned seed) {
  std::mt19937 random(seed);
  return {dtype, random_table(tokens, hidden, 1.0, random)};
}

LayerOptions options_of(DType router, int threads) {
  LayerOptions options;
  options.router = router;
  options.threads = Threads::pool(threads);
  return options;
}

// In memory of exactly the size that is promised.
std::vector<float> logits_of(const Layer& layer, ConstMatrix x, std::int32_t experts) {
  const std::size_t bytes = layer.workspace_bytes(x.rows);
  const Guarded memory(bytes, true);
  const auto count = static_cast<std::size_t>(x.rows * experts);
  const Guarded out(count * sizeof(float), true);
  layer.router_logits(x, {out.data(), DType::f32, x.rows, experts}, Workspace(memory.data(), bytes));
  std::vector<float> logits(count);
  std::copy_n(out.data(), count * sizeof(float), reinterpret_cast<std::byte*>(logits.data()));
  return logits;
}

std::vector<float> logits_of(const Layer& layer, const Rows& x, std::int32_t experts) {
  return logits_of(layer, x.view(), experts);
}

TEST(RouterLogits, AreTheRoutersProduct) {
  for (const auto& [shape, tokens] : {std::pair{kShape, std::int64_t{0}}, std::pair{kShape, std::int64_t{1}},
                                      std::pair{kShape, std::int64_t{17}}, std::pair{kManyExperts, kManyTokens}}) {
    const Weights weights(shape, Shared::none, 1);
    std::mt19937 random(2);
    const reference::Table x = random_table(tokens, shape.hidden, 1.0, random);
    const reference::Table expected = weights.logits(x);
    for (const DType router : {DType::f32, DType::bf16}) {
      for (const DType x_type : {DType::f32, DType::bf16}) {
        const Layer layer = weights.layer({.topk = shape.topk}, options_of(router, 2));
        const std::vector<float> found = logits_of(layer, {x_type, x}, shape.experts);
        ASSERT_EQ(found.size(), expected.value.size());
        for (std::size_t i = 0; i < found.size(); ++i) {
          // The numbers are bf16 ones, so that nothing but the sums is rounded.
          ASSERT_NEAR(found[i], expected.value[i], 5 * kF32Tolerance) << dtype_name(router) << " " << i;
        }
      }
    }
  }
}

TEST(RouterLogits, HaveTheSameBitsForThreadsBatchesAndInstructionSets) {
  const Weights weights(kManyExperts, Shared::none, 3);
  const Rows x = random_rows(DType::f32, kManyTokens, kManyExperts.hidden, 4);
  for (const DType router : {DType::f32, DType::bf16}) {
    const Layer alone = weights.layer({.topk = 2}, options_of(router, 1));
    const std::vector<float> first = logits_of(alone, x, kManyExperts.experts);
    on_every_isa([&](Isa isa) {
      for (const int threads : {1, 3}) {
        const Layer layer = weights.layer({.topk = 2}, options_of(router, threads));
        EXPECT_EQ(logits_of(layer, x, kManyExperts.experts), first) << isa_name(isa) << " threads " << threads;
      }
    });
    for (const std::int64_t token : {0, 1, 2500, 3999}) {
      const std::vector<float> one = logits_of(alone, x.view(token, 1), kManyExperts.experts);
      EXPECT_TRUE(std::equal(one.begin(), one.end(), first.begin() + token * kManyExperts.experts)) << token;
    }
  }
}

TEST(RouterLogits, RowsMayStandApart) {
  constexpr std::int64_t kTokens = 9;
  const Weights weights(kShape, Shared::none, 5);
  const Layer layer = weights.layer({.topk = 3}, options_of(DType::f32, 2));
  const Rows dense = random_rows(DType::bf16, kTokens, kShape.hidden, 6);
  const std::vector<float> expected = logits_of(layer, dense, kShape.experts);
  const std::int64_t x_stride = kShape.hidden + 3;
  const std::int64_t stride = kShape.experts + 5;
  std::vector<std::byte> apart(static_cast<std::size_t>(kTokens * x_stride) * 2, std::byte{0xff});
  for (std::size_t t = 0; t < kTokens; ++t) {
    std::memcpy(&apart[t * static_cast<std::size_t>(x_stride) * 2],
                &dense.bytes[t * static_cast<std::size_t>(kShape.hidden) * 2],
                static_cast<std::size_t>(kShape.hidden) * 2);
  }
  ConstMatrix x(apart.data(), DType::bf16, kTokens, kShape.hidden);
  x.stride = x_stride;
  std::vector<float> found(static_cast<std::size_t>(kTokens * stride), -7.0F);
  Matrix logits(found.data(), kTokens, kShape.experts);
  logits.stride = stride;
  layer.router_logits(x, logits, Workspace(layer.workspace_bytes(kTokens)));
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t e = 0; e < stride; ++e) {
      const float wanted = e < kShape.experts ? expected[static_cast<std::size_t>(t * kShape.experts + e)] : -7.0F;
      ASSERT_EQ(found[static_cast<std::size_t>(t * stride + e)], wanted) << t << " " << e;
    }
  }
}

// A routing in every output that some trainer reads.
struct Routed {
  std::vector<std::int32_t> expert;
  std::vector<float> weight;
  std::vector<float> chosen_logit;
  std::vector<std::int64_t> count;
};

Routed route_logits(const std::vector<float>& logits, std::int32_t experts, const RouterOptions& options,
                    const RouteInputs& inputs) {
  const std::int64_t tokens = static_cast<std::int64_t>(logits.size()) / experts;
  const auto slots = static_cast<std::size_t>(tokens * options.topk);
  Routed out{std::vector<std::int32_t>(slots), std::vector<float>(slots), std::vector<float>(slots),
             std::vector<std::int64_t>(static_cast<std::size_t>(experts))};
  RouteOutputs outputs;
  outputs.expert = {out.expert.data(), DType::i32};
  outputs.weight = {out.weight.data(), DType::f32};
  outputs.chosen_logit = out.chosen_logit.data();
  outputs.count = out.count.data();
  const Threads threads = Threads::pool(2);
  route({logits.data(), tokens, experts}, options, inputs, outputs,
        Workspace(route_workspace_bytes(tokens, experts, 1, threads)), threads);
  return out;
}

struct Variant {
  const char* name;
  RouterOptions options;
};

// Arrays live here, and are overwritten once the layers are made.
struct Arrays {
  std::vector<std::uint16_t> bias;
  std::vector<float> logit_bias;
  std::vector<float> expert_scale;
  std::vector<std::int16_t> table;

  explicit Arrays(std::size_t ids) {
    for (std::size_t e = 0; e < ids; ++e) {
      bias.push_back(elements::bf16_bits(0.25F * static_cast<float>(e % 5) - 0.5F));
      logit_bias.push_back(0.125F * static_cast<float>(e % 3));
      expert_scale.push_back(1.0F + 0.5F * static_cast<float>(e % 2));
    }
    table = {0, 5, 3, 7, 7, 1};
  }
  void overwrite() {
    std::fill(bias.begin(), bias.end(), std::uint16_t{0x7fc0});
    std::fill(logit_bias.begin(), logit_bias.end(), NAN);
    std::fill(expert_scale.begin(), expert_scale.end(), NAN);
    std::fill(table.begin(), table.end(), std::int16_t{-9});
  }
  std::vector<Variant> variants() const {
    const RouterOptions plain{.topk = 3};
    RouterOptions biased = plain;
    biased.score = Score::sigmoid;
    biased.normalize = Normalize::sum;
    biased.epsilon = 1e-20F;
    biased.scale = 2.5F;
    biased.selection_bias = {bias.data(), DType::bf16};
    RouterOptions grouped = biased;
    grouped.groups = 4;
    grouped.kept_groups = 2;
    grouped.group_best = 2;
    RouterOptions changed = plain;
    changed.score = Score::logit;
    changed.chosen = ChosenScore::softmax;
    changed.logit_scale = 0.75F;
    changed.logit_bias = logit_bias.data();
    changed.softcap = 2.0F;
    changed.expert_scale = expert_scale.data();
    changed.order = Order::expert;
    RouterOptions any = plain;
    any.normalize = Normalize::sum;
    any.order = Order::any;
    RouterOptions looked_up = biased;
    looked_up.table = {table.data(), DType::i16};
    looked_up.table_rows = 2;
    return {{"plain", plain},     {"biased", biased}, {"grouped", grouped},
            {"changed", changed}, {"any", any},       {"looked up", looked_up}};
  }
};

// `route` of the logits gives the routing of a forward, and a forward with that routing its output, bit for bit.
void check_chain(const Layer& layer, const Rows& x, std::int32_t ids, const RouteInputs& inputs) {
  Rows y(DType::f32, x.rows, x.cols);
  const Workspace workspace(layer.workspace_bytes(x.rows));
  const Routing live = layer.forward(x.view(), y.view(), workspace, inputs).routing;
  const std::int64_t slots = live.tokens * live.topk;
  const std::vector<std::int32_t> expert(live.expert, live.expert + slots);
  const std::vector<float> weight(live.weight, live.weight + slots);

  const std::vector<float> logits = logits_of(layer, x, ids);
  Routed routed = route_logits(logits, ids, layer.router(), inputs);
  EXPECT_EQ(routed.expert, expert);
  EXPECT_EQ(std::memcmp(routed.weight.data(), weight.data(), weight.size() * sizeof(float)), 0);
  std::vector<std::int64_t> count(routed.count.size());
  for (const std::int32_t e : expert) {
    if (e >= 0) {
      ++count[static_cast<std::size_t>(e)];
    }
  }
  EXPECT_EQ(routed.count, count);
  const Routing given{x.rows, live.topk, routed.expert.data(), routed.weight.data()};
  Rows again(DType::f32, x.rows, x.cols);
  layer.forward(x.view(), given, again.view(), workspace);
  EXPECT_EQ(again.bytes, y.bytes);
}

TEST(RouterLogits, RouteOfThemIsTheRoutingOfTheForward) {
  constexpr std::int64_t kTokens = 150;
  for (const std::int32_t identity_experts : {0, 4}) {
    Extras extras;
    extras.identity_experts = identity_experts;
    const Weights weights(kShape, Shared::plain, 7, extras);
    Arrays arrays(static_cast<std::size_t>(weights.ids()));
    const std::vector<Variant> variants = arrays.variants();
    std::vector<Layer> layers;
    for (const Variant& variant : variants) {
      for (const DType router : {DType::f32, DType::bf16}) {
        layers.push_back(weights.layer(variant.options, options_of(router, 2)));
      }
    }
    arrays.overwrite();
    std::vector<std::uint8_t> valid;
    std::vector<std::int64_t> token_id;
    std::vector<std::int16_t> forced;
    for (int t = 0; t < kTokens; ++t) {
      valid.push_back(t % 4 != 1);
      token_id.push_back(t % 2);
      for (int s = 0; s < kShape.topk; ++s) {
        forced.push_back(static_cast<std::int16_t>(t % 3 == 0 ? -1 : (t + 5 * s) % weights.ids()));
      }
    }
    for (std::size_t i = 0; i < layers.size(); ++i) {
      for (const DType x_type : {DType::f32, DType::bf16}) {
        const Rows x = random_rows(x_type, kTokens, kShape.hidden, 8);
        RouteInputs inputs;
        inputs.token_id = {token_id.data(), DType::i64};
        for (const bool with_mask : {false, true}) {
          SCOPED_TRACE(std::string(variants[i / 2].name) + (i % 2 == 0 ? " f32 " : " bf16 ") + dtype_name(x_type) +
                       (with_mask ? " masked" : ""));
          inputs.valid = with_mask ? valid.data() : nullptr;
          check_chain(layers[i], x, weights.ids(), inputs);
          if (layers[i].router().table.data == nullptr) {
            RouteInputs replay = inputs;
            replay.forced = {forced.data(), DType::i16};
            check_chain(layers[i], x, weights.ids(), replay);
          }
        }
      }
    }
  }
}

TEST(RouterLogits, RouteOfThemIsTheRoutingOfAForwardInSeveralGoes) {
  const Weights weights(kManyExperts, Shared::none, 9);
  const Layer layer = weights.layer({.topk = 2, .normalize = Normalize::sum}, options_of(DType::f32, 2));
  check_chain(layer, random_rows(DType::f32, kManyTokens, kManyExperts.hidden, 10), kManyExperts.experts, {});
}

TEST(RouterLogits, AreWhatTheChosenLogitsAre) {
  const Weights weights(kShape, Shared::none, 11);
  const Layer layer = weights.layer({.topk = 3, .score = Score::logit}, options_of(DType::f32, 2));
  const Rows x = random_rows(DType::f32, 20, kShape.hidden, 12);
  const std::vector<float> logits = logits_of(layer, x, kShape.experts);
  const Routed routed = route_logits(logits, kShape.experts, layer.router(), {});
  EXPECT_EQ(routed.chosen_logit, routed.weight);
  for (std::size_t i = 0; i < routed.expert.size(); ++i) {
    EXPECT_EQ(routed.chosen_logit[i], logits[i / 3 * 12 + static_cast<std::size_t>(routed.expert[i])]);
  }
}

// The whole chain against a loss in double precision, whose choice is held fixed: L = Σ upstream · weight.
class Chain {
 public:
  static constexpr std::int64_t kTokens = 6;
  using Score = std::function<reference::Vector(const reference::Vector&, const std::vector<std::size_t>&)>;

  Chain(const RouterOptions& options, DType dlogits_type, unsigned seed)
      : weights_(kShape, Shared::none, seed), options_(options), dlogits_type_(dlogits_type) {
    std::mt19937 random(seed + 1);
    x_ = random_table(kTokens, kShape.hidden, 1.0, random);
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < kTokens * kShape.topk; ++i) {
      upstream_.push_back(normal(random));
    }
  }

  void check(const Score& weigh, double tolerance) {
    const Layer layer = weights_.layer(options_, options_of(DType::f32, 2));
    const std::vector<float> logits = logits_of(layer, {DType::f32, x_}, kShape.experts);
    const Routed routed = route_logits(logits, kShape.experts, layer.router(), {});
    const std::vector<float> router = floats(weights_.router);
    std::vector<float> dx(x_.value.size());
    std::vector<float> dweight(router.size());
    backward(layer, logits, routed, router, dx, dweight);
    const auto loss = [&] { return loss_of(routed.expert, weigh); };
    for (std::size_t i = 0; i < dx.size(); i += 5) {
      ASSERT_NEAR(dx[i], slope(x_.value[i], loss), tolerance) << "dx " << i;
    }
    for (std::size_t i = 0; i < dweight.size(); i += 7) {
      ASSERT_NEAR(dweight[i], slope(weights_.router.value[i], loss), tolerance) << "dweight " << i;
    }
    EXPECT_GT(*std::max_element(dx.begin(), dx.end()), 100 * tolerance) << "the test must see something";
  }

 private:
  void backward(const Layer& layer, const std::vector<float>& logits, const Routed& routed,
                const std::vector<float>& router, std::vector<float>& dx, std::vector<float>& dweight) const {
    constexpr std::int32_t kExperts = kShape.experts;
    std::vector<float> dlogits(logits.size());  // room for every type
    RouteGradients gradients;
    gradients.expert = {routed.expert.data(), DType::i32};
    gradients.weight = {upstream_.data(), DType::f32};
    Matrix d(dlogits.data(), kTokens, kExperts);
    d.dtype = dlogits_type_;
    route_backward({logits.data(), kTokens, kExperts}, layer.router(), {}, gradients, d,
                   Workspace(route_workspace_bytes(kTokens, kExperts)));
    const std::vector<float> x = floats(x_);
    router_backward({x.data(), kTokens, kShape.hidden}, {router.data(), DType::f32, kShape.hidden, 1},
                    {dlogits.data(), dlogits_type_, kTokens, kExperts}, {dx.data(), kTokens, kShape.hidden},
                    {dweight.data(), kExperts, kShape.hidden}, nullptr);
  }

  double loss_of(const std::vector<std::int32_t>& expert, const Score& weigh) const {
    const reference::Table logits = weights_.logits(x_);
    double sum = 0;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const auto begin = static_cast<std::size_t>(t * kShape.topk);
      const std::vector<std::size_t> chosen(expert.begin() + t * kShape.topk, expert.begin() + (t + 1) * kShape.topk);
      const reference::Vector weight = weigh(reference::row_of(logits, t), chosen);
      for (std::size_t s = 0; s < weight.size(); ++s) {
        sum += upstream_[begin + s] * weight[s];
      }
    }
    return sum;
  }

  template <class Loss>
  static double slope(double& number, const Loss& loss) {
    constexpr double kStep = 1e-4;
    const double before = number;
    number = before + kStep;
    const double above = loss();
    number = before - kStep;
    const double below = loss();
    number = before;
    return (above - below) / (2 * kStep);
  }

  Weights weights_;
  RouterOptions options_;
  DType dlogits_type_;
  reference::Table x_;
  std::vector<float> upstream_;
};

reference::Vector sigmoid_shares(const reference::Vector& logit, const std::vector<std::size_t>& chosen) {
  reference::Vector weight;
  double sum = 0;
  for (const std::size_t e : chosen) {
    weight.push_back(1 / (1 + std::exp(-logit[e])));
    sum += weight.back();
  }
  for (double& w : weight) {
    w *= 2.5 / sum;
  }
  return weight;
}

reference::Vector softmax_shares(const reference::Vector& logit, const std::vector<std::size_t>& chosen) {
  reference::Vector weight;
  double sum = 0;
  for (const double l : logit) {
    sum += std::exp(l);
  }
  for (const std::size_t e : chosen) {
    weight.push_back(std::exp(logit[e]) / sum);
  }
  return weight;
}

TEST(RouterLogits, GradientsFollowThroughToTokensAndWeight) {
  RouterOptions sigmoid{.topk = 3, .score = Score::sigmoid, .normalize = Normalize::sum};
  sigmoid.scale = 2.5F;
  const RouterOptions softmax{.topk = 3};
  for (const auto& [dtype, tolerance] :
       {std::pair{DType::f32, 1e-5}, std::pair{DType::bf16, 2e-3}, std::pair{DType::f16, 5e-4}}) {
    SCOPED_TRACE(dtype_name(dtype));
    ASSERT_NO_FATAL_FAILURE(Chain(sigmoid, dtype, 13).check(sigmoid_shares, tolerance));
    ASSERT_NO_FATAL_FAILURE(Chain(softmax, dtype, 15).check(softmax_shares, tolerance));
  }
}

// What a call throws, and that it wrote nothing.
class RouterLogitsErrors : public ::testing::Test {
 protected:
  RouterLogitsErrors()
      : layer_(Weights(kShape, Shared::none, 17).layer({.topk = 3}, {})),
        x_(random_rows(DType::f32, 4, kShape.hidden, 18)),
        out_(4 * static_cast<std::size_t>(kShape.experts), -7.0F),
        workspace_(layer_.workspace_bytes(4)),
        x(std::as_const(x_).view()),
        logits(out_.data(), 4, kShape.experts) {}

  void expect(const std::string& message) { expect(message, workspace_); }
  void expect(const std::string& message, const Workspace& workspace) {
    try {
      layer_.router_logits(x, logits, workspace);
      FAIL() << "expected: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::invalid_argument);
      EXPECT_EQ(error.what(), message);
    }
    EXPECT_EQ(out_, std::vector<float>(out_.size(), -7.0F));
  }

  Layer layer_;
  Rows x_;
  std::vector<float> out_;
  Workspace workspace_;
  ConstMatrix x;
  Matrix logits;
};

TEST_F(RouterLogitsErrors, WrongX) {
  x.dtype = DType::f16;
  expect("layer: x is f16, expected f32 or bf16");
  x.dtype = DType::f32;
  x.cols = 36;
  expect(
      "layer: x is [4, 36] with stride 37, expected 0..1099511627776 tokens, 37 columns and a stride of "
      "37..2147483648");
  x.cols = 37;
  x.data = nullptr;
  expect("layer: x has no data, expected [4, 37]");
}

TEST_F(RouterLogitsErrors, WrongLogits) {
  logits.dtype = DType::bf16;
  expect("layer: logits is bf16, expected f32");
  logits.dtype = DType::f32;
  logits.cols = 11;
  expect(
      "layer: logits is [4, 11] with stride 12, expected 0..1099511627776 tokens, 12 columns and a stride of "
      "12..2147483648");
  logits.cols = 12;
  logits.stride = 11;
  expect(
      "layer: logits is [4, 12] with stride 11, expected 0..1099511627776 tokens, 12 columns and a stride of "
      "12..2147483648");
  logits.stride = 12;
  logits.rows = 3;
  expect("layer: logits has 3 rows, expected 4 as x");
  logits.rows = 4;
  logits.data = nullptr;
  expect("layer: logits has no data, expected [4, 12]");
}

TEST_F(RouterLogitsErrors, SharedMemory) {
  logits.data = x_.bytes.data() + 16;
  expect("layer: logits and x overlap, expected separate memory");
  logits.data = workspace_.data();
  expect("layer: logits and the workspace overlap, expected separate memory");
  logits.data = out_.data();
  x.data = workspace_.data();
  expect("layer: the workspace and x overlap, expected separate memory");
}

TEST_F(RouterLogitsErrors, TooSmallAWorkspace) {
  const std::size_t bytes = layer_.workspace_bytes(4);
  expect("layer: found a workspace of " + std::to_string(bytes - kWorkspaceAlignment) + " bytes, expected at least " +
             std::to_string(bytes),
         Workspace(workspace_.data(), bytes - kWorkspaceAlignment));
}

TEST_F(RouterLogitsErrors, NoRouter) {
  const std::vector<float> zeros(64);
  const WeightView view{zeros.data(), DType::f32, 4, 1};
  const std::vector<float> bias(3, NAN);
  LayerWeights weights;
  weights.experts = 3;
  weights.hidden = weights.ffn = 4;
  weights.expert = [&](std::int32_t) { return ExpertTensors{view, view, view}; };
  RouterOptions options{.topk = 2};
  options.logit_bias = bias.data();
  layer_ = Layer(weights, options, {});
  EXPECT_EQ(layer_.router().logit_bias, nullptr) << "a pointer to the caller's memory must not stay";
  x = ConstMatrix(zeros.data(), 4, 4);
  logits.cols = 3;
  expect("layer: it was made without a router, expected a forward with a given routing");
}

}  // namespace
