// A whole layer against the reference, and what must not change its bits.
#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <barrier>
#include <limits>
#include <thread>

#include "given_routing.hpp"
#include "made_layer.hpp"
#include "streamed_rows.hpp"

namespace {

using namespace made;

RouterOptions router_of(const LayerCase& shape) {
  return {.topk = shape.topk, .normalize = shape.topk % 2 == 0 ? Normalize::sum : Normalize::none};
}

LayerOptions options_of(const Arithmetic& arithmetic, int threads = 2) {
  return {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(threads)};
}

reference::Table tokens(const LayerCase& shape, std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  return random_table(count, shape.hidden, 1.0, random);
}

// The routing that the layer made, as the reference takes it.
reference::Routing taken(const Routing& routing) {
  reference::Routing out;
  out.topk = routing.topk;
  out.expert.assign(routing.expert, routing.expert + routing.tokens * routing.topk);
  out.weight.assign(routing.weight, routing.weight + routing.tokens * routing.topk);
  return out;
}

void expect_routing(const Routing& found, const reference::Routing& expected) {
  for (std::int64_t i = 0; i < found.tokens * found.topk; ++i) {
    EXPECT_EQ(found.expert[i], expected.expert[static_cast<std::size_t>(i)]) << "slot " << i;
    EXPECT_NEAR(found.weight[i], expected.weight[static_cast<std::size_t>(i)], kWeightTolerance) << "slot " << i;
  }
}

// By the rows that were seen to be streamed; where none can be seen, by what the kernels say.
Path path_of(const Routing& routing, const Weights& weights, const Arithmetic& arithmetic) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(weights.shape.experts));
  for (std::int64_t i = 0; i < routing.tokens * routing.topk; ++i) {
    if (routing.expert[i] >= 0) ++rows[static_cast<std::size_t>(routing.expert[i])];
  }
  if (weights.kind != Shared::none) rows.push_back(routing.tokens);
  const Math math = math_of(arithmetic.format, arithmetic.activations);
  const std::int64_t most = switchyard::testing::streamed_rows(math, arithmetic.format)
                                .value_or(current_kernels().stream_rows(math, arithmetic.format));
  return *std::max_element(rows.begin(), rows.end()) <= most ? Path::small_batch : Path::grouped;
}

void check_against_reference(const Weights& weights, const Arithmetic& arithmetic, std::int64_t count, DType in,
                             DType out) {
  const RouterOptions router = router_of(weights.shape);
  const Layer layer = weights.layer(router, options_of(arithmetic));
  const reference::Table x = tokens(weights.shape, count, 7);
  const Rows rows(in, x);
  Rows y(out, x.rows, x.cols);
  Workspace workspace(layer.workspace_bytes(count));
  std::memset(workspace.data(), 0xff, workspace.bytes());
  const ForwardResult result = layer.forward(rows.view(), y.view(), workspace);
  EXPECT_EQ(result.path, path_of(result.routing, weights, arithmetic));
  ASSERT_EQ(result.routing.tokens, count);
  expect_routing(result.routing, reference::route(weights.logits(x), router));
  const reference::Table expected = weights.expected(x, taken(result.routing), arithmetic.activations);
  const double tolerance =
      out == DType::bf16 ? std::max(arithmetic.tolerance, kBf16OutputTolerance) : arithmetic.tolerance;
  EXPECT_LE(difference(y, expected), tolerance) << weights.shape.name << " tokens " << count << " " << arithmetic.name
                                                << " in " << dtype_name(in) << " out " << dtype_name(out);
}

// Runs x in parts of the given sizes and puts the outputs together.
Rows in_parts(const Layer& layer, const Rows& x, const std::vector<std::int64_t>& sizes) {
  Rows y(DType::f32, x.rows, x.cols);
  Workspace workspace(layer.workspace_bytes(x.rows));
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    layer.forward(x.view(begin, size), y.view(begin, size), workspace);
    begin += size;
  }
  EXPECT_EQ(begin, x.rows);
  return y;
}

TEST(Layer, MatchesTheReferenceOverShapesTokensAndTypes) {
  for (const LayerCase& shape : kTestCases) {
    const Weights weights(shape, Shared::none, 1);
    for (const Arithmetic& arithmetic : kArithmetics) {
      for (const std::int64_t count : kTestTokens) {
        check_against_reference(weights, arithmetic, count, DType::f32, DType::f32);
      }
      check_against_reference(weights, arithmetic, 17, DType::bf16, DType::bf16);
    }
  }
}

TEST(Layer, DeepLayersMatchTheReferenceWhateverTheBatch) {
  const Weights weights(kDeepCase, Shared::none, 12);
  for (const Arithmetic& arithmetic : kArithmetics) {
    check_against_reference(weights, arithmetic, 7, DType::f32, DType::f32);
    const Layer layer = weights.layer(router_of(kDeepCase), options_of(arithmetic, 3));
    const Rows x(DType::f32, tokens(kDeepCase, 15, 18));
    EXPECT_EQ(in_parts(layer, x, {1, 14}).bytes, forward(layer, x).bytes) << arithmetic.name;
  }
}

TEST(Layer, BitsDoNotDependOnTheCallersFloatMode) {
  const Weights weights(kTestCases[1], Shared::gated, 13);
  reference::Table x = tokens(weights.shape, 60, 19);
  for (double& value : x.value) {
    value *= 1e-20;  // products of three of these are denormal
  }
  const Rows rows(DType::f32, x);
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Rows expected = forward(weights.layer(router_of(weights.shape), options_of(arithmetic)), rows);
    const unsigned before = _mm_getcsr();
    for (const unsigned mode : {0x8040U, 0x2000U, 0x4000U, 0x6000U}) {  // flushing, and the other roundings
      _mm_setcsr(before | mode);
      const Layer layer = weights.layer(router_of(weights.shape), options_of(arithmetic));
      const Rows found = forward(layer, rows);
      const unsigned after = _mm_getcsr();
      _mm_setcsr(before);
      EXPECT_EQ(after & 0xffc0U, (before | mode) & 0xffc0U) << "the caller's mode is its own";
      EXPECT_EQ(found.bytes, expected.bytes) << arithmetic.name << " mode " << mode;
    }
  }
}

TEST(Layer, MatchesTheReferenceWithSharedExperts) {
  for (const LayerCase& shape : {kTestCases[1], kTestCases[2]}) {
    for (const Shared kind : {Shared::plain, Shared::gated}) {
      const Weights weights(shape, kind, 2);
      for (const Arithmetic& arithmetic : kArithmetics) {
        for (const std::int64_t count : {1, 17}) {
          check_against_reference(weights, arithmetic, count, DType::f32, DType::f32);
          check_against_reference(weights, arithmetic, count, DType::bf16, DType::f32);
        }
      }
    }
  }
}

TEST(Layer, WidenedBf16WeightsGiveTheBitsOfF32Weights) {
  const Weights weights(kTestCases[1], Shared::gated, 3);
  const RouterOptions router = router_of(weights.shape);
  const Rows x(DType::f32, tokens(weights.shape, 96, 8));
  const Rows f32 = forward(weights.layer(router, options_of(kArithmetics[0])), x);
  const Rows widened = forward(weights.layer(router, options_of(kArithmetics[1])), x);
  EXPECT_EQ(f32.bytes, widened.bytes);
}

std::vector<std::int64_t> random_split(std::int64_t total, std::mt19937& random) {
  std::vector<std::int64_t> sizes;
  while (total > 0) {
    sizes.push_back(std::uniform_int_distribution<std::int64_t>(1, std::min<std::int64_t>(total, 60))(random));
    total -= sizes.back();
  }
  return sizes;
}

TEST(Layer, BitsDoNotDependOnTheBatch) {
  constexpr std::int64_t kTokens = 80;
  for (const LayerCase& shape : {kTestCases[0], kTestCases[1], kTestCases[2]}) {
    const Weights weights(shape, Shared::gated, 4);
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer(router_of(shape), options_of(arithmetic));
      const Rows x(DType::f32, tokens(shape, kTokens, 9));
      const Rows whole = in_parts(layer, x, {kTokens});
      EXPECT_EQ(in_parts(layer, x, std::vector<std::int64_t>(kTokens, 1)).bytes, whole.bytes) << arithmetic.name;
      std::mt19937 random(5);
      for (int split = 0; split < 3; ++split) {
        EXPECT_EQ(in_parts(layer, x, random_split(kTokens, random)).bytes, whole.bytes) << arithmetic.name;
      }
    }
  }
}

TEST(Layer, BitsDoNotDependOnThePosition) {
  const Weights weights(kTestCases[1], Shared::gated, 4);
  reference::Table x = tokens(weights.shape, 40, 10);
  reference::Table reversed(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    std::copy_n(x.value.begin() + t * x.cols, x.cols, reversed.value.begin() + (x.rows - 1 - t) * x.cols);
  }
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Layer layer = weights.layer(router_of(weights.shape), options_of(arithmetic));
    const Rows straight = forward(layer, Rows(DType::f32, x));
    const Rows back = forward(layer, Rows(DType::f32, reversed));
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t h = 0; h < x.cols; ++h) {
        ASSERT_EQ(straight.at(t, h), back.at(x.rows - 1 - t, h)) << arithmetic.name;
      }
    }
  }
}

TEST(Layer, BitsDoNotDependOnTheThreads) {
  const Weights weights(kTestCases[0], Shared::plain, 5);
  const Rows x(DType::f32, tokens(weights.shape, 96, 11));
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Rows one = forward(weights.layer(router_of(weights.shape), options_of(arithmetic, 1)), x);
    for (const int threads : {2, 3, 7}) {
      EXPECT_EQ(forward(weights.layer(router_of(weights.shape), options_of(arithmetic, threads)), x).bytes, one.bytes);
    }
  }
}

// More tokens than one chunk holds: 64 slots of 192 bytes each, with bf16 activations of 160, fill 64 MiB at 5461 and
// 6553 tokens, on or off.
constexpr LayerCase kWide{"wide", 32, 16, 64, 64};
constexpr std::int64_t kManyTokens = 6700;
constexpr std::int64_t kPartTokens = 100;
constexpr std::int64_t kPartBegins[] = {0, 3300, 6600};  // around the border of the two chunks, and at both ends

bool is_part(const Rows& part, const Rows& whole, std::int64_t begin) {
  const auto at = static_cast<std::ptrdiff_t>(begin * whole.cols * 4);
  return std::equal(part.bytes.begin(), part.bytes.end(), whole.bytes.begin() + at);
}

TEST(Layer, BitsDoNotDependOnTheChunks) {
  const Weights weights(kWide, Shared::none, 6);
  const Layer layer = weights.layer({.topk = kWide.topk}, options_of(kArithmetics[0]));
  // Beyond a chunk of rows and of logits (16384 tokens), the workspace grows by the routing alone.
  EXPECT_EQ(layer.workspace_bytes(40000) - layer.workspace_bytes(20000),
            20000 * kWide.topk * (sizeof(std::int32_t) + sizeof(float)));
  const Rows x(DType::f32, tokens(kWide, kManyTokens, 12));
  const Rows whole = forward(layer, x);
  for (const std::int64_t begin : kPartBegins) {
    Rows part(DType::f32, kPartTokens, kWide.hidden);
    layer.forward(x.view(begin, part.rows), part.view(), Workspace(layer.workspace_bytes(part.rows)));
    EXPECT_TRUE(is_part(part, whole, begin)) << "from " << begin;
  }
}

TEST(Layer, BitsOfNoArithmeticDependOnTheChunks) {
  const Weights weights(kWide, Shared::plain, 6);
  const Rows x(DType::f32, tokens(kWide, kManyTokens, 12));
  std::mt19937 random(13);
  GivenRouting given = random_routing(kManyTokens, kWide.topk, kWide.experts, random, 32);
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Layer layer = weights.layer({.topk = kWide.topk}, options_of(arithmetic));
    const Rows whole = forward(layer, x, given.view());
    for (const std::int64_t begin : kPartBegins) {
      Rows part(DType::f32, kPartTokens, kWide.hidden);
      layer.forward(x.view(begin, part.rows), given.view(begin, part.rows), part.view(),
                    Workspace(layer.workspace_bytes(part.rows, kWide.topk)));
      EXPECT_TRUE(is_part(part, whole, begin)) << arithmetic.name << " from " << begin;
    }
  }
}

void check_given(const LayerCase& shape, GivenRouting given) {
  const Routing routing = given.view();
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Weights weights(shape, Shared::none, 7);
    const Layer layer = weights.layer(router_of(shape), options_of(arithmetic));
    const reference::Table x = tokens(shape, routing.tokens, 13);
    const Rows y = forward(layer, Rows(DType::f32, x), routing);
    EXPECT_LE(difference(y, weights.expected(x, taken(routing), arithmetic.activations)), arithmetic.tolerance);
  }
}

TEST(Layer, TakesAGivenRoutingWithOffSlotsAndDuplicates) {
  std::mt19937 random(8);
  check_given(kTestCases[1], random_routing(17, 5, 10, random));
  check_given(kTestCases[4], random_routing(96, 7, 3, random));  // more slots than experts
}

TEST(Layer, TakesAllTokensOnOneExpert) {
  GivenRouting given{1, std::vector<std::int32_t>(300, 9), std::vector<float>(300, 0.5F)};
  check_given(kTestCases[1], given);
}

TEST(Layer, WritesZerosWhereAllSlotsAreOff) {
  GivenRouting given{2, std::vector<std::int32_t>(4, -1), std::vector<float>(4, 1.0F)};
  const Weights weights(kTestCases[1], Shared::none, 7);
  const Layer layer = weights.layer(router_of(weights.shape), options_of(kArithmetics[0]));
  const Rows y = forward(layer, Rows(DType::f32, tokens(weights.shape, 2, 1)), given.view());
  EXPECT_EQ(y.bytes, std::vector<std::byte>(y.bytes.size(), std::byte{0}));
}

TEST(Layer, NanAndInfinityStayInTheirToken) {
  const Weights weights(kTestCases[1], Shared::gated, 8);
  const Layer layer = weights.layer(router_of(weights.shape), options_of(kArithmetics[0]));
  reference::Table x = tokens(weights.shape, 20, 14);
  const Rows clean = forward(layer, Rows(DType::f32, x));
  x.at(3, 5) = std::numeric_limits<double>::quiet_NaN();
  x.at(11, 0) = std::numeric_limits<double>::infinity();
  const Rows dirty = forward(layer, Rows(DType::f32, x));
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t h = 0; h < x.cols; ++h) {
      if (t == 3 || t == 11) {
        EXPECT_FALSE(std::isfinite(dirty.at(t, h)));
      } else {
        EXPECT_EQ(dirty.at(t, h), clean.at(t, h));
      }
    }
  }
}

TEST(Layer, TakesRowsAtADistance) {
  const Weights weights(kTestCases[2], Shared::none, 9);
  const Layer layer = weights.layer(router_of(weights.shape), options_of(kArithmetics[0]));
  const reference::Table x = tokens(weights.shape, 6, 15);
  const Rows dense(DType::f32, x);
  reference::Table spread(x.rows, x.cols + 3);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    std::copy_n(x.value.begin() + t * x.cols, x.cols, spread.value.begin() + t * spread.cols);
  }
  const Rows from(DType::f32, spread);
  Rows to(DType::f32, x.rows, x.cols + 7);
  ConstMatrix in = from.view();
  in.cols = x.cols;
  Matrix out = to.view();
  out.cols = x.cols;
  Workspace workspace(layer.workspace_bytes(x.rows));
  layer.forward(in, out, workspace);
  const Rows expected = forward(layer, dense);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t h = 0; h < x.cols; ++h) {
      EXPECT_EQ(to.at(t, h), expected.at(t, h));
    }
    for (std::int64_t h = x.cols; h < to.cols; ++h) {
      EXPECT_TRUE(std::isnan(to.at(t, h))) << "written outside of its columns";
    }
  }
}

TEST(Layer, RefusesArgumentsThatShareMemory) {
  const Weights weights(kTestCases[4], Shared::none, 14);
  const Layer layer = weights.layer(router_of(weights.shape), options_of(kArithmetics[0]));
  const Rows x(DType::f32, tokens(weights.shape, 4, 20));
  Rows y(DType::f32, 4, weights.shape.hidden);
  Workspace workspace(layer.workspace_bytes(4) + layer.workspace_bytes(4, weights.shape.topk));
  const Routing routing = layer.forward(x.view(), y.view(), workspace).routing;
  const auto refused = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.code() == Code::invalid_argument ? error.what() : "another code";
    }
    return "nothing";
  };
  EXPECT_EQ(refused([&] { layer.forward(x.view(), routing, y.view(), workspace); }),
            "layer: the workspace and the routing's experts overlap, expected separate memory");
  const std::int64_t slots = routing.tokens * routing.topk;
  std::vector<std::int32_t> expert(routing.expert, routing.expert + slots);
  std::vector<float> weight(routing.weight, routing.weight + slots);
  const auto with = [&](std::int32_t* ids, float* weights_of) {
    return refused([&] { layer.forward(x.view(), {4, routing.topk, ids, weights_of}, y.view(), workspace); });
  };
  // What lies at both ends of y, and right behind it.
  std::memcpy(y.bytes.data(), expert.data(), expert.size() * sizeof(std::int32_t));
  auto* first = reinterpret_cast<std::int32_t*>(y.bytes.data());
  auto* last = reinterpret_cast<float*>(y.bytes.data() + y.bytes.size() - sizeof(float));
  EXPECT_EQ(with(first, weight.data()), "layer: y and the routing's experts overlap, expected separate memory");
  EXPECT_EQ(with(expert.data(), last), "layer: y and the routing's weights overlap, expected separate memory");
  EXPECT_EQ(with(expert.data(), weight.data()), "nothing");
  std::vector<float> both(static_cast<std::size_t>(4 * y.cols + slots));
  std::copy(weight.begin(), weight.end(), both.end() - slots);
  EXPECT_EQ(refused([&] {
              layer.forward(x.view(), {4, routing.topk, expert.data(), both.data() + 4 * y.cols},
                            {both.data(), 4, y.cols}, workspace);
            }),
            "nothing");
  const Matrix inside(static_cast<float*>(workspace.data()), 4, weights.shape.hidden);
  const ConstMatrix inside_x(static_cast<const float*>(workspace.data()), 4, weights.shape.hidden);
  EXPECT_EQ(refused([&] { layer.forward(x.view(), inside, workspace); }),
            "layer: y and the workspace overlap, expected separate memory");
  EXPECT_EQ(refused([&] { layer.forward(inside_x, y.view(), workspace); }),
            "layer: the workspace and x overlap, expected separate memory");
  EXPECT_EQ(refused([&] {
              layer.forward({y.view().data, DType::f32, 4, y.cols}, y.view(), workspace);
            }),
            "layer: y and x overlap, expected separate memory");
  EXPECT_EQ(
      refused([&] { layer.forward(x.view(), y.view(), Workspace(nullptr, workspace.bytes())); }),
      "workspace: found no memory for " + std::to_string(workspace.bytes()) + " bytes, expected a block of that size");
  ConstMatrix far = x.view();
  far.rows = kMaxTokens;
  far.stride = std::int64_t{1} << 31;
  EXPECT_NE(refused([&] { layer.forward(far, y.view(), workspace); }).find("expected less than 2^63 bytes"),
            std::string::npos);
}

TEST(Layer, TwoLayersRunAtOnceFromTwoThreads) {
  const Weights weights(kTestCases[0], Shared::none, 10);
  const Rows x(DType::f32, tokens(weights.shape, 48, 16));
  const Layer layer = weights.layer(router_of(weights.shape), options_of(kArithmetics[0], 3));
  const Rows expected = forward(layer, x);
  std::barrier start(2);
  const auto work = [&] {
    start.arrive_and_wait();
    for (int i = 0; i < 10; ++i) {
      ASSERT_EQ(forward(layer, x).bytes, expected.bytes);
    }
  };
  std::thread other(work);
  work();
  other.join();
}

TEST(Layer, RunsOnTheHostsThreads) {
  const Weights weights(kTestCases[1], Shared::none, 11);
  const Rows x(DType::f32, tokens(weights.shape, 48, 17));
  const Rows expected = forward(weights.layer(router_of(weights.shape), options_of(kArithmetics[0])), x);
  int calls = 0;
  const auto one_after_the_other = [](void* host, int workers, Threads::Body body, void* data) {
    ++*static_cast<int*>(host);
    for (int worker = 0; worker < workers; ++worker) {
      body(data, worker);
    }
  };
  const auto at_once = [](void* host, int workers, Threads::Body body, void* data) {
    ++*static_cast<int*>(host);
    std::vector<std::thread> threads;
    for (int worker = 0; worker < workers; ++worker) {
      threads.emplace_back(body, data, worker);
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
  };
  for (const Threads::Run run : {Threads::Run(one_after_the_other), Threads::Run(at_once)}) {
    LayerOptions options = options_of(kArithmetics[0]);
    options.threads = Threads::host(4, run, &calls);
    const int before = calls;
    EXPECT_EQ(forward(weights.layer(router_of(weights.shape), options), x).bytes, expected.bytes);
    EXPECT_GT(calls, before);
  }
}

}  // namespace
