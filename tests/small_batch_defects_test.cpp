// Bugs that small-batch MoE paths have had elsewhere, one test each: the comment names what must hold. Those of memory
// are in small_batch_memory_test.cpp.
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cmath>
#include <stdexcept>
#include <thread>

#include "constant_experts.hpp"
#include "every_isa.hpp"
#include "experts/weight_view.hpp"
#include "guarded.hpp"
#include "streamed_rows.hpp"
#include "switchyard/plan.hpp"

namespace {

using namespace made;
using switchyard::testing::Guarded;

// The path is chosen by the rows of the expert that has most, and said.
TEST(SmallBatchDefects, ThePathFollowsFromTheMostRowsOfAnExpert) {
  struct Limit {
    Format format;
    DType activations;
    std::int64_t rows;
    std::int64_t with_avx512;
    std::int64_t in_halves = with_avx512;
  };
  constexpr Limit kLimits[] = {{Format::f32, DType::f32, 3, 13},       {Format::bf16, DType::f32, 3, 13},
                               {Format::bf16, DType::bf16, 3, 13},     {Format::i8, DType::f32, 8, 13},
                               {Format::i4, DType::f32, 8, 26},        {Format::f8_e4m3, DType::f32, 6, 13},
                               {Format::mxfp8, DType::f32, 6, 13},     {Format::mxfp4, DType::f32, 6, 13},
                               {Format::nvfp4, DType::f32, 6, 13},     {Format::mxfp8, DType::bf16, 8, 24},
                               {Format::f8_e4m3, DType::bf16, 8, 24},  {Format::mxfp4, DType::bf16, 8, 26, 24},
                               {Format::nvfp4, DType::bf16, 8, 26, 24}};
  std::mt19937 random(6);
  for (const Limit& limit : kLimits) {
    const std::int64_t most = current_isa() == Isa::avx512_bf16_halves                    ? limit.in_halves
                              : current_isa() != Isa::plain && current_isa() != Isa::avx2 ? limit.with_avx512
                                                                                          : limit.rows;
    const Math math = math_of(limit.format, limit.activations);
    EXPECT_EQ(switchyard::testing::streamed_rows(math, limit.format).value_or(most), most);
    const Layer layer = constant_layer(4, 40, 9, 2, limit.format, limit.activations);
    for (std::int64_t rows = 0; rows <= 27; ++rows) {
      // Expert 3 has so many rows, expert 0 one of each token's other slots, if there is a token.
      Given given{rows, 2, {}, {}};
      for (std::int64_t t = 0; t < rows; ++t) {
        given.expert.insert(given.expert.end(), {t == 0 ? 0 : -1, 3});
        given.weight.insert(given.weight.end(), {0.5F, 0.25F});
      }
      const Rows x(DType::f32, random_table(rows, 40, 1.0, random));
      Rows y(DType::f32, rows, 40);
      const ForwardResult result =
          layer.forward(x.view(), given.view(), y.view(), Workspace(layer.workspace_bytes(rows, 2)));
      EXPECT_EQ(result.path, rows <= most ? Path::small_batch : Path::grouped)
          << format_name(limit.format) << " rows " << rows;
      for (std::int64_t t = 0; t < rows; ++t) ASSERT_EQ(y.at(t, 39), given.sum(t));
    }
  }
}

// Threads that share a panel's rows do not change the path.
TEST(SmallBatchDefects, ThePathDoesNotFollowFromTheThreads) {
  const std::int64_t most = current_kernels().stream_rows(Math::f32, Format::f32);
  std::mt19937 random(37);
  for (const int threads : {1, 2, 8}) {
    const Layer layer = constant_layer(1, 16, 8, threads);
    for (std::int64_t rows = 1; rows <= 70; ++rows) {
      const auto slots = static_cast<std::size_t>(rows);
      Given given{rows, 1, std::vector<std::int32_t>(slots, 0), std::vector<float>(slots, 0.5F)};
      const Rows x(DType::f32, random_table(rows, 16, 1.0, random));
      Rows y(DType::f32, rows, 16);
      const ForwardResult result =
          layer.forward(x.view(), given.view(), y.view(), Workspace(layer.workspace_bytes(rows, 1)));
      EXPECT_EQ(result.path, rows <= most ? Path::small_batch : Path::grouped) << threads << " threads, rows " << rows;
      for (std::int64_t t = 0; t < rows; ++t) ASSERT_EQ(y.at(t, 15), given.sum(t));
    }
  }
}

// A shared expert and the maps of a latent space have a row for every token.
TEST(SmallBatchDefects, ThePathFollowsFromTheTokensToo) {
  const LayerCase shape = kTestCases[1];
  std::mt19937 random(34);
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Math math = math_of(arithmetic.format, arithmetic.activations);
    const std::int64_t most = switchyard::testing::streamed_rows(math, arithmetic.format)
                                  .value_or(current_kernels().stream_rows(math, arithmetic.format));
    for (const Shared kind : {Shared::none, Shared::gated}) {
      for (const std::int64_t latent : {0, 24}) {
        const Layer layer = Weights(shape, kind, 35, {.latent = latent})
                                .layer({}, {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
        for (std::int64_t tokens = 1; tokens <= std::max<std::int64_t>(14, most + 1); ++tokens) {
          Given given{tokens, 1, {}, std::vector<float>(static_cast<std::size_t>(tokens), 0.5F)};
          for (std::int32_t t = 0; t < tokens; ++t) given.expert.push_back(t % shape.experts);  // few each
          const Rows x(DType::f32, random_table(tokens, shape.hidden, 1.0, random));
          Rows y(DType::f32, tokens, shape.hidden);
          const Path path =
              layer.forward(x.view(), given.view(), y.view(), Workspace(layer.workspace_bytes(tokens, 1))).path;
          const bool streams = tokens <= most || (kind == Shared::none && latent == 0);
          EXPECT_EQ(path, streams ? Path::small_batch : Path::grouped)
              << arithmetic.name << " tokens " << tokens << " latent " << latent;
        }
      }
    }
  }
}

// #3840: there is no shape without a kernel: every element of the output is written, whatever the sizes.
TEST(SmallBatchDefects, EveryShapeWritesEveryElement) {
  std::mt19937 random(7);
  for (std::int64_t size = 1; size <= 70; ++size) {
    for (std::int32_t format = 0; format < kFormats; ++format) {
      const Layer layer = constant_layer(3, size, 71 - size, 2, static_cast<Format>(format));
      Given given = random_given(4, 2, 3, random);
      const Rows x(DType::f32, random_table(4, size, 1.0, random));
      const Rows y = forward(layer, x, given.view());
      for (std::int64_t t = 0; t < 4; ++t) {
        for (std::int64_t h = 0; h < size; ++h) ASSERT_EQ(y.at(t, h), given.sum(t)) << "hidden " << size;
      }
    }
  }
}

// #2762: a slot that is off has no row, and nothing is read or written for it.
TEST(SmallBatchDefects, OffSlotsAddNothing) {
  const Layer layer = constant_layer(5, 20, 6, 2);
  std::mt19937 random(8);
  const Rows x(DType::f32, random_table(3, 20, 1.0, random));
  const float nan = std::nanf("");
  Given given{3, 3, {-1, 2, -1, -1, -1, -1, 4, 4, -1}, {nan, 1, nan, nan, nan, nan, 0.5F, 0.25F, nan}};
  const Rows y = forward(layer, x, given.view());
  EXPECT_EQ(y.at(0, 0), 3);
  EXPECT_EQ(y.at(1, 0), 0);
  EXPECT_EQ(y.at(2, 19), 3.75);
}

// #1469: ids beyond the experts are refused, by name.
TEST(SmallBatchDefects, IdsBeyondTheExpertsAreRefused) {
  const Layer layer = constant_layer(5, 20, 6, 2);
  std::mt19937 random(9);
  const Rows x(DType::f32, random_table(2, 20, 1.0, random));
  for (const std::int32_t id : {5, -2, INT32_MAX, INT32_MIN}) {
    Given given{2, 2, {0, 1, 2, id}, {1, 1, 1, 1}};
    try {
      forward(layer, x, given.view());
      FAIL() << id;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("token 1 slot 1 names expert " + std::to_string(id)), std::string::npos);
    }
  }
}

// #2629: row → token and slot → row are inverse, with several slots per token.
TEST(SmallBatchDefects, MapsOfAPlanAreInverse) {
  std::mt19937 random(10);
  for (const std::int32_t topk : {1, 3, 8}) {
    Given given = random_given(200, topk, 11, random);
    const Workspace workspace(plan_bytes(200, topk, 11, Threads::pool(2)));
    const Plan plan = make_plan(given.expert.data(), 200, topk, 11, workspace, Threads::pool(2));
    std::vector<int> seen(static_cast<std::size_t>(plan.rows));
    for (std::int64_t slot = 0; slot < 200 * topk; ++slot) {
      const std::int64_t row = plan.slot_to_row[slot];
      const std::int32_t expert = given.expert[static_cast<std::size_t>(slot)];
      ASSERT_EQ(row < 0, expert < 0);
      if (row < 0) continue;
      ++seen[static_cast<std::size_t>(row)];
      EXPECT_EQ(plan.row_to_token[row], slot / topk);
      EXPECT_TRUE(plan.offset[expert] <= row && row < plan.offset[expert + 1]);
    }
    EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
  }
}

// #3644, #3925: what is written has the type that was asked for.
TEST(SmallBatchDefects, OutputsHaveTheTypeTheyWereAskedFor) {
  const LayerCase shape = kTestCases[1];
  const Weights weights(shape, Shared::plain, 11);
  std::mt19937 random(12);
  const reference::Table values = random_table(9, shape.hidden, 1.0, random);
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Layer layer =
        weights.layer({.topk = shape.topk}, {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
    for (const DType in : {DType::f32, DType::bf16}) {
      const Rows x(in, values);
      const Rows wide = forward(layer, x, DType::f32);
      const Rows narrow = forward(layer, x, DType::bf16);
      for (std::int64_t t = 0; t < 9; ++t) {
        for (std::int64_t h = 0; h < shape.hidden; ++h) ASSERT_EQ(narrow.at(t, h), round_bf16(wide.at(t, h)));
      }
    }
  }
}

// #3803, #3946, #3875: extreme logits give finite weights whose sum is the scale.
TEST(SmallBatchDefects, ExtremeLogitsGiveWeightsThatSumToTheScale) {
  const LayerCase shape = kTestCases[1];
  std::mt19937 random(13);
  for (const Score score : {Score::softmax, Score::sigmoid}) {
    for (const double size : {1e-4, 1.0, 1e4}) {
      for (const float offset : {0.0F, 35.0F}) {
        Weights weights(shape, Shared::none, 14);
        for (double& value : weights.router.value) value *= size;
        const std::vector<float> bias(static_cast<std::size_t>(shape.experts), offset);
        RouterOptions router{.topk = shape.topk, .score = score, .normalize = Normalize::sum, .scale = 2.5F};
        if (score == Score::sigmoid) router.selection_bias = {bias.data(), DType::f32};
        const Layer layer = weights.layer(router, {});
        const Rows x(DType::f32, random_table(20, shape.hidden, 1.0, random));
        Rows y(DType::f32, 20, shape.hidden);
        const Workspace workspace(layer.workspace_bytes(20));
        const Routing routing = layer.forward(x.view(), y.view(), workspace).routing;
        for (std::int64_t t = 0; t < 20; ++t) {
          double sum = 0;
          for (std::int32_t k = 0; k < shape.topk; ++k) sum += static_cast<double>(routing.weight[t * shape.topk + k]);
          // All sigmoids of a token may be 0; then so are its weights.
          EXPECT_TRUE(std::abs(sum - 2.5) < 1e-5 || (score == Score::sigmoid && sum == 0)) << sum;
          EXPECT_TRUE(std::isfinite(y.at(t, 0)));
        }
      }
    }
  }
}

// #2238: experts and rows of zeros give zeros, in every format.
TEST(SmallBatchDefects, ZeroExpertsAndZeroRowsGiveZeros) {
  const LayerCase shape = kTestCases[0];
  std::mt19937 random(15);
  for (const bool zero_experts : {true, false}) {
    Weights weights(shape, Shared::none, 16);
    if (zero_experts) {
      for (reference::Expert& expert : weights.block.experts) {
        for (reference::Table* table : {&expert.gate, &expert.up, &expert.down}) {
          std::fill(table->value.begin(), table->value.end(), 0.0);
        }
      }
    }
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer({.topk = shape.topk},
                                        {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
      reference::Table values = random_table(3, shape.hidden, 1.0, random);
      if (!zero_experts) std::fill(values.value.begin(), values.value.end(), 0.0);
      const Rows y = forward(layer, Rows(DType::f32, values));
      for (std::int64_t t = 0; t < 3; ++t) {
        for (std::int64_t h = 0; h < shape.hidden; ++h) ASSERT_EQ(y.at(t, h), 0.0) << arithmetic.name;
      }
    }
  }
}

// #4027: one workspace over random batches gives what a fresh one gives.
TEST(SmallBatchDefects, OneWorkspaceOverRandomBatchesGivesWhatFreshOnesGive) {
  const LayerCase shape = kTestCases[1];
  const Weights weights(shape, Shared::gated, 17);
  const Layer layer = weights.layer({.topk = shape.topk}, {.threads = Threads::pool(2)});
  const std::size_t bytes = layer.workspace_bytes(40);
  const Guarded memory(bytes, true);
  const Workspace workspace(memory.data(), bytes);
  std::mt19937 random(18);
  for (int i = 0; i < 40; ++i) {
    const Rows x(DType::f32, random_table(random_of<std::int64_t>(random, 0, 40), shape.hidden, 1.0, random));
    Rows y(DType::f32, x.rows, x.cols);
    layer.forward(x.view(), y.view(), workspace);
    ASSERT_EQ(y.bytes, forward(layer, x).bytes) << "call " << i << " tokens " << x.rows;
  }
}

// #4027 too: small numbers are not lost before fp32 itself has no digits for them. Experts without curvature scale.
TEST(SmallBatchDefects, TinyMagnitudesScaleTheOutput) {
  const LayerCase shape = kTestCases[1];
  const Weights weights(shape, Shared::none, 19, {.name = "relu", .function = {Activation::relu, false}});
  const Layer layer = weights.layer({.topk = shape.topk}, {});
  std::mt19937 random(20);
  const reference::Table values = random_table(4, shape.hidden, 1.0, random);
  reference::Table tiny = values;
  for (double& value : tiny.value) value = std::ldexp(static_cast<double>(static_cast<float>(value)), -80);
  Given given = random_given(4, 3, shape.experts, random);
  const Rows y = forward(layer, Rows(DType::f32, values), given.view());
  const Rows small = forward(layer, Rows(DType::f32, tiny), given.view());
  for (std::int64_t h = 0; h < shape.hidden; ++h) EXPECT_EQ(small.at(1, h), std::ldexp(y.at(1, h), -80));
}

// #4531: no tokens, and tokens without an expert, end and write what there is to write.
TEST(SmallBatchDefects, NoTokensAndNoExpertsEnd) {
  const Layer layer = constant_layer(4, 12, 5, 3);
  Given none{0, 2, {}, {}};
  const Workspace workspace(layer.workspace_bytes(0, 2));
  layer.forward({nullptr, DType::f32, 0, 12}, none.view(), {nullptr, DType::f32, 0, 12}, workspace);
  std::mt19937 random(21);
  Given off{5, 2, std::vector<std::int32_t>(10, -1), std::vector<float>(10, 1)};
  const Rows y = forward(layer, Rows(DType::f32, random_table(5, 12, 1.0, random)), off.view());
  for (std::int64_t t = 0; t < 5; ++t) EXPECT_EQ(y.at(t, 11), 0.0);
}

// #4255, #4285: a forward ends, with the same bits, while others keep every processor busy.
TEST(SmallBatchDefects, ForwardsEndBesideWorkThatNeverYields) {
  const LayerCase shape = kTestCases[0];
  const Weights weights(shape, Shared::plain, 22);
  const Layer layer = weights.layer({.topk = shape.topk}, {.threads = Threads::pool(4)});
  std::mt19937 random(23);
  const Rows x(DType::f32, random_table(3, shape.hidden, 1.0, random));
  const Rows expected = forward(layer, x);
  std::atomic<bool> stop{false};
  std::vector<std::thread> hogs;
  for (int i = 0; i < Threads().count() + 1; ++i) {
    hogs.emplace_back([&] {
      while (!stop) {
      }
    });
  }
  for (int i = 0; i < 50; ++i) EXPECT_EQ(forward(layer, x).bytes, expected.bytes);
  stop = true;
  for (std::thread& hog : hogs) hog.join();
}

// #3371, #4139, #4192: callers that run at once never wait for one another's helpers.
TEST(SmallBatchDefects, ManyCallersAtOnceEnd) {
  const LayerCase shape = kTestCases[1];
  const Weights weights(shape, Shared::plain, 24);
  const Layer layer = weights.layer({.topk = shape.topk}, {.threads = Threads::pool(3)});
  std::mt19937 random(25);
  const Rows x(DType::f32, random_table(6, shape.hidden, 1.0, random));
  const Rows expected = forward(layer, x);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 6; ++i) {
    callers.emplace_back([&] {
      for (int call = 0; call < 30; ++call) wrong += forward(layer, x).bytes == expected.bytes ? 0 : 1;
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

// #3932: every code of a narrow type is read as what it stands for, subnormal ones too.
TEST(SmallBatchDefects, EveryCodeOfTheNarrowTypesIsReadExactly) {
  std::vector<std::uint16_t> codes(1 << 16);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint16_t>(i);
  std::vector<float> found(codes.size());
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const int digits = dtype == DType::bf16 ? 7 : 10;
    const int bias = dtype == DType::bf16 ? 127 : 15;
    read_row({codes.data(), dtype, 0, 1}, 0, 0, 1 << 16, found.data());
    for (std::uint32_t code = 0; code < codes.size(); ++code) {
      const int exponent = static_cast<int>((code & 0x7fff) >> digits);
      const auto fraction = static_cast<double>(code & ((1U << digits) - 1));
      if (exponent == 2 * bias + 1) {
        ASSERT_FALSE(std::isfinite(found[code]));
        ASSERT_EQ(std::isnan(found[code]), fraction != 0);
        continue;
      }
      const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - bias - digits)
                                             : std::ldexp(fraction + (1 << digits), exponent - bias - digits);
      ASSERT_EQ(std::abs(static_cast<double>(found[code])), magnitude) << code;
      ASSERT_EQ(std::signbit(found[code]), code >= 0x8000) << code;
    }
  }
}

// #3227: every arithmetic agrees with the reference for batches of every small size.
TEST(SmallBatchDefects, EveryArithmeticMatchesTheReferenceForSmallBatches) {
  const LayerCase shape = kTestCases[1];
  const Weights weights(shape, Shared::gated, 27);
  std::mt19937 random(28);
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Layer layer =
        weights.layer({.topk = shape.topk}, {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
    for (std::int64_t tokens = 1; tokens <= 16; ++tokens) {
      const reference::Table values = random_table(tokens, shape.hidden, 1.0, random);
      const Rows x(DType::f32, values);
      Rows y(DType::f32, tokens, shape.hidden);
      const Workspace workspace(layer.workspace_bytes(tokens));
      const Routing routing = layer.forward(x.view(), y.view(), workspace).routing;
      const reference::Routing taken{routing.topk,
                                     {routing.expert, routing.expert + tokens * shape.topk},
                                     {routing.weight, routing.weight + tokens * shape.topk}};
      EXPECT_LE(difference(y, weights.expected(values, taken, arithmetic.activations)), arithmetic.tolerance)
          << arithmetic.name << " tokens " << tokens;
    }
  }
}

// #3661, #2821: every number of rows on an expert has its tiles, and gives the bits of one row at a time.
TEST(SmallBatchDefects, EveryRowCountGivesTheBitsOfSingleRows) {
  const LayerCase shape = kTestCases[3];
  const Weights weights(shape, Shared::none, 29);
  std::mt19937 random(30);
  const Rows x(DType::f32, random_table(160, shape.hidden, 1.0, random));
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Layer layer = weights.layer({.topk = 1}, {arithmetic.format, arithmetic.activations});
    const Workspace workspace(layer.workspace_bytes(160));
    Rows single(DType::f32, 160, shape.hidden);
    for (std::int64_t t = 0; t < 160; ++t) layer.forward(x.view(t, 1), single.view(t, 1), workspace);
    for (std::int64_t tokens = 1; tokens <= 160; ++tokens) {
      Rows y(DType::f32, tokens, shape.hidden);
      layer.forward(x.view(0, tokens), y.view(), workspace);
      ASSERT_TRUE(std::equal(y.bytes.begin(), y.bytes.end(), single.bytes.begin())) << arithmetic.name << " " << tokens;
    }
  }
}

// #4602: the table of every instruction set is whole.
TEST(SmallBatchDefects, EveryTableOfKernelsIsWhole) {
  on_every_isa([](Isa isa) {
    const Kernels& kernels = current_kernels();
    EXPECT_EQ(kernels.isa, isa);
    EXPECT_TRUE(kernels.gemm && kernels.route && kernels.route_backward && kernels.histogram && kernels.combine &&
                kernels.accumulate && kernels.read && kernels.peak_fma)
        << isa_name(isa);
  });
}

// #3499: no parameter is ignored: each changes the output.
TEST(SmallBatchDefects, EveryParameterChangesTheOutput) {
  const LayerCase shape = kTestCases[1];
  std::mt19937 random(32);
  const Rows x(DType::f32, random_table(6, shape.hidden, 1.0, random));
  const RouterOptions router{.topk = shape.topk, .score = Score::sigmoid};
  const Extras plain{.name = "plain",
                     .function = {.activation = Activation::softcapped, .limit = 1.5F, .alpha = 0.8F},
                     .shared_scale = 0.5F};
  const auto run = [&](const Extras& extras, const RouterOptions& options) {
    return forward(Weights(shape, Shared::plain, 33, extras).layer(options, {}), x).bytes;
  };
  const std::vector<std::byte> expected = run(plain, router);
  EXPECT_EQ(run(plain, router), expected);
  const auto with = [&](auto change) {
    Extras extras = plain;
    RouterOptions options = router;
    change(extras, options);
    return run(extras, options);
  };
  const std::vector<float> bias = {3, -3, 2, -2, 1, -1, 0, 4, -4, 5};
  EXPECT_NE(with([](Extras& e, RouterOptions&) { e.function.limit = 0.9F; }), expected);
  EXPECT_NE(with([](Extras& e, RouterOptions&) { e.function.alpha = 0.3F; }), expected);
  EXPECT_NE(with([](Extras& e, RouterOptions&) { e.function = {}; }), expected);
  EXPECT_NE(with([](Extras& e, RouterOptions&) { e.shared_function = kReluSquared; }), expected);
  EXPECT_NE(with([](Extras& e, RouterOptions&) { e.shared_scale = 1; }), expected);
  EXPECT_NE(with([](Extras& e, RouterOptions&) { e.output_bias = true; }), expected);
  EXPECT_NE(with([](Extras& e, RouterOptions&) { e.weight_site = WeightSite::input; }), expected);
  const std::vector<std::byte> between = with([](Extras& e, RouterOptions&) { e.weight_site = WeightSite::between; });
  EXPECT_NE(between, expected);
  EXPECT_NE(between, with([](Extras& e, RouterOptions&) { e.weight_site = WeightSite::input; }));
  EXPECT_NE(with([](Extras&, RouterOptions& r) { r.topk = 2; }), expected);
  EXPECT_NE(with([](Extras&, RouterOptions& r) { r.groups = 5, r.kept_groups = 2; }), expected);
  EXPECT_NE(with([](Extras&, RouterOptions& r) { r.scale = 2.5F; }), expected);
  EXPECT_NE(with([](Extras&, RouterOptions& r) { r.score = Score::softmax; }), expected);
  EXPECT_NE(with([](Extras&, RouterOptions& r) { r.normalize = Normalize::sum; }), expected);
  EXPECT_NE(with([](Extras&, RouterOptions& r) { r.logit_scale = 0.5F; }), expected);
  EXPECT_NE(with([](Extras&, RouterOptions& r) { r.softcap = 0.5F; }), expected);
  EXPECT_NE(with([&](Extras&, RouterOptions& r) { r.selection_bias = {bias.data(), DType::f32}; }), expected);
  EXPECT_NE(with([&](Extras&, RouterOptions& r) { r.logit_bias = bias.data(); }), expected);
  EXPECT_NE(with([&](Extras&, RouterOptions& r) { r.expert_scale = bias.data(); }), expected);
}

// #2882: what goes wrong while a layer is made reaches the caller as it was thrown.
TEST(SmallBatchDefects, ErrorsReachTheCaller) {
  LayerWeights weights;
  weights.experts = 2;
  weights.hidden = 4;
  weights.ffn = 4;
  weights.expert = [](std::int32_t) -> ExpertTensors { throw std::runtime_error("the disk is gone"); };
  try {
    const Layer layer(weights, {}, {});
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "the disk is gone");
  }
}

}  // namespace
