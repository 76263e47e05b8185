// The same bits from every instruction set that the machine has.
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>

#include "every_isa.hpp"
#include "kernel_runs.hpp"
#include "layer_variants.hpp"
#include "switchyard/probe.hpp"

namespace {

using namespace made;

TEST(Isa, ListsAreBestFirstAndPlainIsAlwaysThere) {
  const auto known = known_isas();
  EXPECT_EQ(known.front(), Isa::avx512_bf16);
  EXPECT_EQ(known.back(), Isa::plain);
  const auto available = available_isas();
  std::vector<Isa> sets(available.begin(), available.end());
  if (std::find(sets.begin(), sets.end(), Isa::avx512_bf16) != sets.end()) {
    if (__builtin_cpu_is("amdfam19h")) {  // Zen 4
      EXPECT_EQ(sets.front(), Isa::avx512_bf16_halves);
    } else if (!__builtin_cpu_is("amd")) {
      EXPECT_EQ(sets.front(), Isa::avx512_bf16);
    }
  }
  if (sets.front() == Isa::avx512_bf16_halves) {  // which of the two is best depends on the units
    ASSERT_EQ(sets.at(1), Isa::avx512_bf16);
    std::swap(sets[0], sets[1]);
  }
  std::vector<Isa> expected;
  std::copy_if(known.begin(), known.end(), std::back_inserter(expected),
               [&](Isa isa) { return std::find(sets.begin(), sets.end(), isa) != sets.end(); });
  EXPECT_EQ(sets, expected);
  EXPECT_EQ(sets.back(), Isa::plain);
  for (const Isa isa : known) {
    EXPECT_EQ(parse_isa(isa_name(isa)), isa);
  }
}

TEST(Isa, UnknownAndMissingSetsThrow) {
  try {
    parse_isa("mmx");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_argument);
    EXPECT_STREQ(error.what(),
                 "cpu: instruction set 'mmx' is unknown, expected one of avx512_bf16, avx512_bf16_halves, avx512_vnni, "
                 "avx512, avx2, plain");
  }
  const auto available = available_isas();
  for (const Isa isa : known_isas()) {
    if (std::find(available.begin(), available.end(), isa) == available.end()) {
      EXPECT_THROW(set_isa(isa), Error) << isa_name(isa);
    }
  }
}

struct Outcome {
  std::vector<std::byte> y;
  std::vector<std::int32_t> expert;
  std::vector<float> weight;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const Layer& layer, const Rows& x, DType out) {
  Rows y(out, x.rows, x.cols);
  Workspace workspace(layer.workspace_bytes(x.rows));
  const Routing routing = layer.forward(x.view(), y.view(), workspace).routing;
  const std::int64_t slots = routing.tokens * routing.topk;
  return {y.bytes, {routing.expert, routing.expert + slots}, {routing.weight, routing.weight + slots}};
}

TEST(Isa, AProbeIsOfTheSetItWasMadeWith) {
  on_every_isa([](Isa isa) {
    RooflineProbe probe(Threads::pool(2), std::size_t{16} << 20);
    RooflineProbe moved = std::move(probe);
    set_isa(Isa::plain);
    for (int i = 0; i < 2; ++i) {
      const Roofline sample = moved.sample();
      EXPECT_EQ(sample.isa, isa);
      EXPECT_EQ(sample.threads, 2);
      EXPECT_GT(sample.fma_gflops, 0);
      EXPECT_GT(sample.dram_gbps, 0);
      EXPECT_GT(sample.cache_gbps, 0);
      EXPECT_EQ(sample.bf16_gflops > 0, isa == Isa::avx512_bf16 || isa == Isa::avx512_bf16_halves);
    }
  });
}

TEST(Isa, EverySetGivesTheSameBits) {
  for (const LayerCase& shape : kTestCases) {
    const Weights weights(shape, Shared::gated, 1);
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer({.topk = shape.topk, .normalize = Normalize::sum},
                                        {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
      std::mt19937 random(2);
      const reference::Table tokens = random_table(29, shape.hidden, 1.0, random);
      for (const DType type : {DType::f32, DType::bf16}) {
        const Rows x(type, tokens);
        std::optional<Outcome> first;
        on_every_isa([&](Isa isa) {
          const Outcome outcome = run(layer, x, type);
          first = first.value_or(outcome);
          EXPECT_EQ(outcome, *first) << isa_name(isa) << " " << shape.name << " " << arithmetic.name;
        });
      }
    }
  }
}

TEST(Isa, EveryVariantGivesTheSameBits) {
  std::vector<Extras> variants(kVariants.begin(), kVariants.end());
  for (const NamedFunction& each : kFunctions) {
    variants.push_back({.name = each.name, .function = each.function, .shared_function = each.function});
  }
  for (const Extras& extras : variants) {
    const LayerCase shape = kTestCases[1];
    const Weights weights(shape, Shared::plain, 3, extras);
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer({.topk = shape.topk, .normalize = Normalize::sum},
                                        {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
      std::mt19937 random(4);
      const Rows x(DType::bf16, random_table(19, shape.hidden, 1.0, random));
      std::optional<Outcome> first;
      on_every_isa([&](Isa isa) {
        const Outcome outcome = run(layer, x, DType::f32);
        first = first.value_or(outcome);
        EXPECT_EQ(outcome, *first) << isa_name(isa) << " " << extras.name << " " << arithmetic.name;
      });
    }
  }
}

TEST(Isa, WildValuesGiveTheSameBitsInEveryArithmetic) {
  constexpr std::int64_t kDepth = 70;
  for (const bool finite : {true, false}) {
    for (const Math math : {Math::f32, Math::widened, Math::bf16}) {
      for (unsigned seed = 0; seed < 20; ++seed) {
        const std::vector<float> rows = kernel_runs::wild_values(15 * kDepth, finite, seed);
        const std::vector<float> weight = kernel_runs::wild_values(40 * kDepth, finite, seed + 1000);
        std::vector<std::uint32_t> first;
        on_every_isa([&](Isa isa) {
          const auto bits = kernel_runs::gemm(current_kernels(), math, rows, weight, kDepth);
          first = first.empty() ? bits : first;
          EXPECT_EQ(bits, first) << isa_name(isa) << " math " << static_cast<int>(math) << " seed " << seed;
        });
      }
    }
  }
}

TEST(Isa, DeepContractionsGiveTheSameBits) {
  constexpr std::int64_t kDepth = 2080;  // several blocks of every arithmetic
  const auto rows = kernel_runs::normal_values(30 * kDepth, 1);
  const auto weight = kernel_runs::normal_values(40 * kDepth, 2);
  for (const Math math : {Math::f32, Math::widened, Math::bf16}) {
    std::vector<std::uint32_t> first;
    on_every_isa([&](Isa isa) {
      const auto bits = kernel_runs::gemm(current_kernels(), math, rows, weight, kDepth);
      first = first.empty() ? bits : first;
      EXPECT_EQ(bits, first) << isa_name(isa) << " math " << static_cast<int>(math);
    });
  }
}

// Groups of int8, which are as deep as the matrix, take several blocks, which some sets decode and others do not; few rows
// take them at once. So do codes of floats with bf16 activations.
TEST(Isa, DeepContractionsOfGroupsGiveTheSameBits) {
  constexpr std::int64_t kDepth = 8256;
  constexpr std::int64_t kFew = 3;
  const auto rows = kernel_runs::normal_values(30 * kDepth, 1);
  const std::vector<float> few_rows(rows.begin(), rows.begin() + kFew * kDepth);
  const auto weight = kernel_runs::normal_values(40 * kDepth, 2);
  for (const Format format : kernel_runs::kScaledFormats) {
    const Math math = math_of(format, DType::bf16);
    std::vector<std::uint32_t> first;
    on_every_isa([&](Isa isa) {
      const auto run = [&](const std::vector<float>& some) {
        return kernel_runs::gemm(current_kernels(), math, some, weight, kDepth, nullptr, {.format = format});
      };
      const auto bits = run(rows);
      first = first.empty() ? bits : first;
      EXPECT_EQ(bits, first) << isa_name(isa) << " " << format_name(format);
      const auto few = run(few_rows);
      EXPECT_TRUE(std::equal(few.begin(), few.end(), bits.begin())) << isa_name(isa) << " " << format_name(format);
    });
  }
}

// The proof that VDPBF16PS and two FMAs, odd element first, denormals as zero, are the same, on the machines that can
// give it.
TEST(Isa, TheBf16UnitGivesTheBitsOfWidenedFmas) {
  const auto available = available_isas();
  if (std::find(available.begin(), available.end(), Isa::avx512_bf16) == available.end()) {
    GTEST_SKIP() << "this machine has no BF16 unit: the equality of VDPBF16PS with two FMAs is not proved here";
  }
  constexpr std::int64_t kDepth = 6;  // three steps: each but the first starts from a sum, tiny, huge or cancelled
  const Isa before = current_isa();
  for (unsigned seed = 0; seed < 2000; ++seed) {
    const std::vector<float> rows = kernel_runs::wild_values(13 * kDepth, true, seed);
    const std::vector<float> weight = kernel_runs::wild_values(32 * kDepth, true, seed + 100000);
    set_isa(Isa::avx512_bf16);
    const auto unit = kernel_runs::gemm(current_kernels(), Math::bf16, rows, weight, kDepth);
    set_isa(Isa::avx512);
    ASSERT_EQ(unit, kernel_runs::gemm(current_kernels(), Math::bf16, rows, weight, kDepth)) << "seed " << seed;
  }
  set_isa(before);
}

}  // namespace
