// The AVX-512 kernels, compiled with emulated intrinsics, against the plain ones: their text is tested on every
// machine. What only the hardware can show is in isa_test.
#include <gtest/gtest.h>

#include <tuple>

#include "emulated_kernels.hpp"
#include "kernel_runs.hpp"
#include "layer_variants.hpp"

namespace {

using namespace switchyard;

class Emulated : public testing::TestWithParam<const Kernels*> {
 protected:
  void SetUp() override {
    if (available_isas().size() < 2) {
      GTEST_SKIP() << "this machine has no AVX2, which the emulation is compiled for";
    }
  }
};

TEST_P(Emulated, GemmGivesTheBitsOfPlain) {
  constexpr std::int64_t kDepth = 70;
  for (const Math math : {Math::f32, Math::widened, Math::bf16}) {
    const ExpertFunction silu;
    for (const ExpertFunction* function : {static_cast<const ExpertFunction*>(nullptr), &silu}) {
      for (const std::int64_t rows : {1, 2, 3, 5, 7, 9, 12, 13, 14, 27, 40}) {
        const auto x = kernel_runs::normal_values(static_cast<std::size_t>(rows * kDepth), 1);
        const auto weight = kernel_runs::normal_values(37 * kDepth, 2);
        EXPECT_EQ(kernel_runs::gemm(*GetParam(), math, x, weight, kDepth, function),
                  kernel_runs::gemm(kKernelsPlain, math, x, weight, kDepth, function))
            << "math " << static_cast<int>(math) << " rows " << rows << " function " << (function != nullptr);
      }
    }
    constexpr std::int64_t kDeep = 2080;  // several blocks of every arithmetic
    const auto deep_weight = kernel_runs::normal_values(70 * kDeep, 6);
    for (const std::int64_t rows : {1, 2, 3, 30}) {
      const auto deep_x = kernel_runs::normal_values(static_cast<std::size_t>(rows * kDeep), 5);
      EXPECT_EQ(kernel_runs::gemm(*GetParam(), math, deep_x, deep_weight, kDeep),
                kernel_runs::gemm(kKernelsPlain, math, deep_x, deep_weight, kDeep))
          << "math " << static_cast<int>(math) << " rows " << rows;
    }
    for (const bool finite : {true, false}) {
      const auto x = kernel_runs::wild_values(15 * kDepth, finite, 3);
      const auto weight = kernel_runs::wild_values(40 * kDepth, finite, 4);
      EXPECT_EQ(kernel_runs::gemm(*GetParam(), math, x, weight, kDepth),
                kernel_runs::gemm(kKernelsPlain, math, x, weight, kDepth));
    }
  }
}

TEST_P(Emulated, EveryFormatGivesTheBitsOfPlain) {
  const auto same = [&](const kernel_runs::GemmExtras& extras, const std::vector<float>& x,
                        const std::vector<float>& weight, std::int64_t depth, const ExpertFunction* function) {
    for (const DType activations : {DType::f32, DType::bf16}) {
      const Math math = math_of(extras.format, activations);
      EXPECT_EQ(kernel_runs::gemm(*GetParam(), math, x, weight, depth, function, extras),
                kernel_runs::gemm(kKernelsPlain, math, x, weight, depth, function, extras))
          << format_name(extras.format) << " activations " << dtype_name(activations) << " depth " << depth << " rows "
          << x.size() / static_cast<std::size_t>(depth);
      if (is_integer(extras.format)) break;
    }
  };
  const ExpertFunction silu;
  for (const Format format : kernel_runs::kScaledFormats) {
    const kernel_runs::GemmExtras plain{.format = format};
    const kernel_runs::GemmExtras all{kernel_runs::normal_values(40, 8), kernel_runs::normal_values(15, 9),
                                      kernel_runs::normal_values(15, 10), format};
    for (const std::int64_t depth : {1, 33, 300}) {
      const auto weight = kernel_runs::normal_values(static_cast<std::size_t>(40 * depth), 2);
      for (const std::int64_t rows : {1, 2, 5, 6, 13, 14}) {
        const auto x = kernel_runs::normal_values(static_cast<std::size_t>(rows * depth), 1);
        same(plain, x, weight, depth, nullptr);
        same(plain, x, weight, depth, &silu);
      }
      same(all, kernel_runs::normal_values(static_cast<std::size_t>(15 * depth), 3), weight, depth, &silu);
      for (const bool finite : {true, false}) {
        same(plain, kernel_runs::wild_values(static_cast<std::size_t>(15 * depth), finite, 3),
             kernel_runs::wild_values(static_cast<std::size_t>(40 * depth), finite, 4), depth, nullptr);
      }
    }
    constexpr std::int64_t kDeep = 8256;  // several blocks of every format
    same(plain, kernel_runs::normal_values(15 * kDeep, 5), kernel_runs::normal_values(40 * kDeep, 6), kDeep, nullptr);
  }
}

TEST_P(Emulated, FunctionsBiasesAndScalesGiveTheBitsOfPlain) {
  constexpr std::int64_t kDepth = 37;
  const kernel_runs::GemmExtras extras{kernel_runs::normal_values(40, 8), kernel_runs::normal_values(15, 9),
                                       kernel_runs::normal_values(15, 10)};
  for (const made::NamedFunction& each : made::kFunctions) {
    for (const Math math : {Math::f32, Math::widened, Math::bf16}) {
      const auto x = kernel_runs::normal_values(15 * kDepth, 1);
      const auto weight = kernel_runs::normal_values(40 * kDepth, 2);
      const auto wild_x = kernel_runs::wild_values(15 * kDepth, false, 3);
      const auto wild_weight = kernel_runs::wild_values(40 * kDepth, false, 4);
      EXPECT_EQ(kernel_runs::gemm(*GetParam(), math, x, weight, kDepth, &each.function, extras),
                kernel_runs::gemm(kKernelsPlain, math, x, weight, kDepth, &each.function, extras))
          << each.name << " math " << static_cast<int>(math);
      EXPECT_EQ(kernel_runs::gemm(*GetParam(), math, wild_x, wild_weight, kDepth, &each.function, extras),
                kernel_runs::gemm(kKernelsPlain, math, wild_x, wild_weight, kDepth, &each.function, extras))
          << each.name << " math " << static_cast<int>(math);
    }
    const auto edges = kernel_runs::wild_values(4000, false, 10);  // each as it is
    const std::vector<float> one(16, 1.0F);
    EXPECT_EQ(kernel_runs::gemm(*GetParam(), Math::f32, edges, one, 1, &each.function),
              kernel_runs::gemm(kKernelsPlain, Math::f32, edges, one, 1, &each.function))
        << each.name;
  }
}

TEST_P(Emulated, OutPastTheCachesHasTheBitsOfPlain) {
  constexpr std::int64_t kDepth = 37;
  const auto weight = kernel_runs::normal_values(70 * kDepth, 2);
  const ExpertFunction gated;
  const ExpertFunction ungated{.activation = Activation::relu, .gated = false};
  for (const ExpertFunction* function : {static_cast<const ExpertFunction*>(nullptr), &gated, &ungated}) {
    for (const Math math : {Math::f32, Math::bf16, Math::integer}) {
      for (const std::int64_t rows : {1, 15, 40}) {
        const auto x = kernel_runs::normal_values(static_cast<std::size_t>(rows * kDepth), 1);
        EXPECT_EQ(kernel_runs::gemm(*GetParam(), math, x, weight, kDepth, function,
                                    {.format = Format::i8, .streams_out = true}),
                  kernel_runs::gemm(kKernelsPlain, math, x, weight, kDepth, function, {.format = Format::i8}))
            << "math " << static_cast<int>(math) << " rows " << rows << " function " << (function != nullptr);
      }
    }
  }
}

TEST_P(Emulated, RouteGivesTheBitsOfPlain) {
  const auto bias = kernel_runs::normal_values(100, 7);
  for (const std::int32_t experts : {1, 16, 37, 100}) {
    for (const std::int32_t topk : {1, 17, 64}) {
      for (const Score score : {Score::softmax, Score::sigmoid}) {
        RouterOptions options{.topk = std::min(topk, experts), .score = score, .normalize = Normalize::sum};
        RouterOptions biased = options;
        biased.selection_bias = {bias.data(), DType::f32};
        for (const auto& logits : {kernel_runs::normal_values(static_cast<std::size_t>(9 * experts), 5),
                                   kernel_runs::wild_values(static_cast<std::size_t>(9 * experts), false, 6)}) {
          EXPECT_EQ(kernel_runs::route(*GetParam(), logits, experts, options),
                    kernel_runs::route(kKernelsPlain, logits, experts, options));
          EXPECT_EQ(kernel_runs::route(*GetParam(), logits, experts, biased),
                    kernel_runs::route(kKernelsPlain, logits, experts, biased));
        }
      }
    }
  }
}

TEST_P(Emulated, CombineGivesTheBitsOfPlain) {
  for (const std::int64_t hidden : {1, 8, 17, 33, 64, 72}) {
    for (const DType type : {DType::f32, DType::bf16}) {
      for (const bool all : {false, true}) {
        EXPECT_EQ(kernel_runs::combine(*GetParam(), hidden, type, all),
                  kernel_runs::combine(kKernelsPlain, hidden, type, all));
      }
    }
  }
}

TEST_P(Emulated, AccumulateGivesTheBitsOfPlain) {
  for (const std::int64_t rows : {1, 5, 13, 27, 48}) {
    for (const std::int64_t cols : {1, 16, 33, 128}) {
      for (const std::int64_t depth : {0, 1, 17, 64, 150}) {
        for (const bool transposed : {false, true}) {
          for (const auto& [a_type, b_type, out_type] :
               {std::tuple{DType::f32, DType::f32, DType::bf16}, std::tuple{DType::bf16, DType::bf16, DType::f32},
                std::tuple{DType::f16, DType::f16, DType::f32}, std::tuple{DType::bf16, DType::f32, DType::f16}}) {
            EXPECT_EQ(kernel_runs::accumulate(*GetParam(), rows, cols, depth, transposed, a_type, b_type, out_type),
                      kernel_runs::accumulate(kKernelsPlain, rows, cols, depth, transposed, a_type, b_type, out_type))
                << rows << " " << cols << " " << depth << " " << transposed << " " << dtype_name(a_type);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Avx512, Emulated,
                         testing::Values(&kEmulatedAvx512, &kEmulatedAvx512Vnni, &kEmulatedAvx512Bf16,
                                         &kEmulatedAvx512Bf16Halves),
                         [](const auto& kernels) { return std::string(isa_name(kernels.param->isa)); });

}  // namespace
