// Layers with more than plain experts: functions, biases, identity experts, a latent space and the rest.
#include <gtest/gtest.h>

#include <limits>

#include "given_routing.hpp"
#include "layer_variants.hpp"

namespace {

using namespace made;

constexpr LayerCase kShape = kTestCases[1];

LayerOptions options_of(const Arithmetic& arithmetic, int threads = 2) {
  return {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(threads)};
}

RouterOptions router_of(const LayerCase& shape) { return {.topk = shape.topk, .normalize = Normalize::sum}; }

reference::Table tokens(const LayerCase& shape, std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  return random_table(count, shape.hidden, 1.0, random);
}

reference::Routing taken(const Routing& routing) {
  const std::int64_t slots = routing.tokens * routing.topk;
  return {routing.topk, {routing.expert, routing.expert + slots}, {routing.weight, routing.weight + slots}};
}

void check_against_reference(const Weights& weights, const Arithmetic& arithmetic, std::int64_t count, DType type) {
  const Layer layer = weights.layer(router_of(weights.shape), options_of(arithmetic));
  const reference::Table x = tokens(weights.shape, count, 7);
  const Rows rows(type, x);
  Rows y(type, x.rows, x.cols);
  Workspace workspace(layer.workspace_bytes(count));
  std::memset(workspace.data(), 0xff, workspace.bytes());
  const Routing routing = layer.forward(rows.view(), y.view(), workspace).routing;
  const double tolerance =
      type == DType::bf16 ? std::max(arithmetic.tolerance, kBf16OutputTolerance) : arithmetic.tolerance;
  EXPECT_LE(difference(y, weights.expected(x, taken(routing), arithmetic.activations)), tolerance)
      << weights.extras.name << " " << weights.shape.name << " tokens " << count << " " << arithmetic.name << " "
      << dtype_name(type);
}

TEST(LayerParts, EveryFunctionMatchesTheReference) {
  for (const NamedFunction& each : kFunctions) {
    for (const LayerCase& shape : {kTestCases[1], kTestCases[2]}) {
      for (const bool biases : {false, true}) {
        Extras extras;
        extras.name = each.name;
        extras.function = each.function;
        extras.shared_function = each.function;
        extras.biases = biases;
        const Weights weights(shape, Shared::plain, 1, extras);
        for (const Arithmetic& arithmetic : kArithmetics) {
          check_against_reference(weights, arithmetic, 17, DType::f32);
          check_against_reference(weights, arithmetic, 1, DType::bf16);
        }
      }
    }
  }
}

TEST(LayerParts, EveryVariantMatchesTheReference) {
  for (const Extras& extras : kVariants) {
    for (const Shared kind : {Shared::none, Shared::plain, Shared::gated}) {
      const Weights weights(kShape, kind, 2, extras);
      for (const Arithmetic& arithmetic : kArithmetics) {
        for (const std::int64_t count : {0, 1, 33}) {
          check_against_reference(weights, arithmetic, count, DType::f32);
        }
        check_against_reference(weights, arithmetic, 17, DType::bf16);
      }
    }
  }
}

TEST(LayerParts, EveryVariantTakesAGivenRouting) {
  for (const Extras& extras : kVariants) {
    const Weights weights(kShape, Shared::gated, 3, extras);
    std::mt19937 random(8);
    GivenRouting given = random_routing(20, 5, weights.ids(), random);
    const reference::Table x = tokens(kShape, 20, 9);
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Rows y =
          forward(weights.layer(router_of(kShape), options_of(arithmetic)), Rows(DType::f32, x), given.view(0, 20));
      EXPECT_LE(difference(y, weights.expected(x, taken(given.view(0, 20)), arithmetic.activations)),
                arithmetic.tolerance)
          << extras.name << " " << arithmetic.name;
    }
  }
}

TEST(LayerParts, BitsDoNotDependOnBatchAndThreads) {
  constexpr std::int64_t kTokens = 61;
  std::vector<Extras> variants(kVariants.begin(), kVariants.end());
  for (const NamedFunction& each : kFunctions) {
    variants.push_back({.name = each.name, .function = each.function, .shared_function = each.function});
  }
  for (const Extras& extras : variants) {
    const Weights weights(kShape, Shared::gated, 4, extras);
    const Rows x(DType::f32, tokens(kShape, kTokens, 10));
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer(router_of(kShape), options_of(arithmetic));
      const Rows whole = forward(layer, x);
      Rows parts(DType::f32, x.rows, x.cols);
      Workspace workspace(layer.workspace_bytes(kTokens));
      const std::int64_t sizes[] = {1, 13, 1, 29, 17};
      std::int64_t begin = 0;
      for (const std::int64_t size : sizes) {
        layer.forward(x.view(begin, size), parts.view(begin, size), workspace);
        begin += size;
      }
      ASSERT_EQ(begin, kTokens);
      EXPECT_EQ(parts.bytes, whole.bytes) << extras.name << " " << arithmetic.name;
      for (const int threads : {1, 5}) {
        EXPECT_EQ(forward(weights.layer(router_of(kShape), options_of(arithmetic, threads)), x).bytes, whole.bytes)
            << extras.name << " " << arithmetic.name << " threads " << threads;
      }
    }
  }
}

// Beyond one chunk of tokens: 64 slots of 16 elements and 32 floats on or off, fill 64 MiB at some 5400 to
// 6600 tokens.
TEST(LayerParts, BitsDoNotDependOnTheChunks) {
  constexpr LayerCase kWide{"wide", 32, 16, 62, 64};
  constexpr std::int64_t kTokens = 6700;
  for (const Extras& extras :
       {Extras{.identity_experts = 2, .weight_site = WeightSite::input, .output_bias = true},
        Extras{.biases = true, .identity_experts = 2, .weight_site = WeightSite::between, .output_bias = true},
        Extras{.identity_experts = 0, .latent = 16, .latent_biases = true}}) {
    const Weights weights(kWide, Shared::none, 6, extras);
    const Rows x(DType::f32, tokens(kWide, kTokens, 12));
    std::mt19937 random(8);
    GivenRouting given = random_routing(kTokens, kWide.topk, weights.ids(), random, 32);
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer({.topk = 1}, options_of(arithmetic));
      const Rows whole = forward(layer, x, given.view(0, kTokens));
      for (const std::int64_t begin : {0, 3300, 6600}) {
        Rows part(DType::f32, 100, kWide.hidden);
        layer.forward(x.view(begin, 100), given.view(begin, 100), part.view(),
                      Workspace(layer.workspace_bytes(100, kWide.topk)));
        EXPECT_TRUE(std::equal(part.bytes.begin(), part.bytes.end(),
                               whole.bytes.begin() + static_cast<std::ptrdiff_t>(begin * kWide.hidden * 4)))
            << arithmetic.name << " from " << begin;
      }
    }
  }
}

TEST(LayerParts, NanAndInfinityStayInTheirToken) {
  std::vector<Extras> variants(kVariants.begin(), kVariants.end());
  for (const NamedFunction& each : kFunctions) {
    variants.push_back({.name = each.name, .function = each.function, .shared_function = each.function});
  }
  for (const Extras& extras : variants) {
    const Weights weights(kShape, Shared::plain, 8, extras);
    GivenRouting given{3, {}, {}};
    for (std::int32_t i = 0; i < 20 * 3; ++i) {  // the last id is an identity expert's, where there are any
      given.expert.push_back(i % 3 == 2 ? weights.ids() - 1 : i % kShape.experts);
      given.weight.push_back(0.25F);
    }
    const Layer layer = weights.layer(router_of(kShape), options_of(kArithmetics[0]));
    reference::Table x = tokens(kShape, 20, 14);
    const Rows clean = forward(layer, Rows(DType::f32, x), given.view(0, 20));
    for (std::int64_t h = 0; h < x.cols; ++h) {
      x.at(3, h) = std::numeric_limits<double>::quiet_NaN();
      x.at(11, h) = h == 5 ? std::numeric_limits<double>::infinity() : x.at(11, h);
    }
    const Rows dirty = forward(layer, Rows(DType::f32, x), given.view(0, 20));
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t h = 0; h < x.cols; ++h) {
        if (t == 3) {
          EXPECT_TRUE(std::isnan(dirty.at(t, h))) << extras.name;
        } else if (t != 11) {
          EXPECT_EQ(dirty.at(t, h), clean.at(t, h)) << extras.name;
        }
      }
    }
  }
}

TEST(LayerParts, IdentityExpertsGiveTheTokenItself) {
  const Weights weights(kShape, Shared::none, 9, {.identity_experts = 2});
  const Layer layer = weights.layer(router_of(kShape), options_of(kArithmetics[2]));
  EXPECT_EQ(layer.experts(), kShape.experts);
  const Rows x(DType::f32, tokens(kShape, 4, 15));
  GivenRouting given{2, {10, -1, -1, 11, 10, 11, -1, -1}, {0.5F, 1.0F, 1.0F, -2.0F, 0.25F, 0.5F, 1.0F, 1.0F}};
  const Rows y = forward(layer, x, given.view(0, 4));
  const double factor[] = {0.5, -2.0, 0.75, 0.0};
  for (std::int64_t t = 0; t < 4; ++t) {
    for (std::int64_t h = 0; h < x.cols; ++h) {
      EXPECT_EQ(y.at(t, h), factor[t] * x.at(t, h));
    }
  }
}

TEST(LayerParts, TheRouterChoosesIdentityExpertsToo) {
  const Weights weights(kShape, Shared::none, 10, {.identity_experts = 30});
  const Layer layer = weights.layer(router_of(kShape), options_of(kArithmetics[0]));
  const reference::Table x = tokens(kShape, 40, 16);
  Rows y(DType::f32, 40, kShape.hidden);
  Workspace workspace(layer.workspace_bytes(40));
  const Rows rows(DType::f32, x);
  const Routing routing = layer.forward(rows.view(), y.view(), workspace).routing;
  const reference::Table logits = weights.logits(x);
  std::int64_t identities = 0;
  for (std::int64_t t = 0; t < 40; ++t) {
    const auto row = reference::row_of(logits, t);
    EXPECT_EQ(routing.expert[t * kShape.topk], std::max_element(row.begin(), row.end()) - row.begin());
    for (std::int32_t s = 0; s < kShape.topk; ++s) {
      identities += routing.expert[t * kShape.topk + s] >= kShape.experts ? 1 : 0;
    }
  }
  EXPECT_GT(identities, 40);
  EXPECT_LT(identities, 40 * kShape.topk);
}

std::string refused(const std::function<void(LayerWeights&)>& spoil) {
  static const std::vector<float> values(4096, 1.0F);
  const auto view = [](std::int64_t in) { return WeightView{values.data(), DType::f32, in, 1}; };
  LayerWeights weights;
  weights.experts = 3;
  weights.hidden = 8;
  weights.ffn = 4;
  weights.expert = [&](std::int32_t) { return ExpertTensors{view(8), view(8), view(4)}; };
  weights.shared_ffn = 4;
  weights.shared = {view(8), view(8), view(4)};
  spoil(weights);
  try {
    const Layer layer(weights, {}, {});
  } catch (const Error& error) {
    return error.code() == Code::invalid_argument ? error.what() : "another code";
  }
  return "nothing";
}

TEST(LayerParts, RefusesWhatCannotBe) {
  EXPECT_EQ(refused([](LayerWeights&) {}), "nothing");
  EXPECT_EQ(refused([](LayerWeights& w) { w.identity_experts = -1; }),
            "layer: found -1 identity experts beside 3 experts, expected 0 and up to 65536 together");
  EXPECT_EQ(refused([](LayerWeights& w) { w.identity_experts = 65534; }),
            "layer: found 65534 identity experts beside 3 experts, expected 0 and up to 65536 together");
  EXPECT_EQ(refused([](LayerWeights& w) { w.latent = -4; }), "layer: found latent -4, expected 0..2147483648");
  EXPECT_EQ(refused([](LayerWeights& w) { w.latent = 4; }), "layer: latent_in has no data, expected it with latent 4");
  EXPECT_EQ(refused([](LayerWeights& w) {
              w.latent = 4;
              w.latent_in = w.shared.gate;
            }),
            "layer: latent_out has no data, expected it with latent 4");
  EXPECT_EQ(refused([](LayerWeights& w) {
              w.latent = 4;
              w.identity_experts = 2;
            }),
            "layer: found 2 identity experts with latent 4, expected one of them to be 0");
  EXPECT_EQ(refused([](LayerWeights& w) { w.weight_site = static_cast<WeightSite>(3); }),
            "layer: found weight_site 3, expected output (0), input (1) or between (2)");
  EXPECT_EQ(refused([](LayerWeights& w) { w.shared_scale = std::numeric_limits<float>::infinity(); }),
            "layer: found shared_scale inf, expected a finite number");
  EXPECT_EQ(refused([](LayerWeights& w) {
              w.output_bias = {w.shared.up.data, DType::i32, 1, 0};
            }),
            "experts: output bias is i32, expected f32, bf16 or f16");
  EXPECT_EQ(refused([](LayerWeights& w) { w.shared_function.activation = Activation::softcapped; }),
            "experts: found limit 0 for activation softcapped, expected a finite number > 0");
}

TEST(LayerParts, RefusesIdsBeyondTheIdentityExperts) {
  const Weights weights(kShape, Shared::none, 11, {.identity_experts = 2});
  const Layer layer = weights.layer(router_of(kShape), options_of(kArithmetics[0]));
  GivenRouting given{1, {11, 12}, {1.0F, 1.0F}};
  try {
    forward(layer, Rows(DType::f32, tokens(kShape, 2, 1)), given.view(0, 2));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "plan: token 1 slot 0 names expert 12, expected -1..11");
  }
}

}  // namespace
