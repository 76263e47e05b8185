// Bugs of memory that small-batch MoE paths have had elsewhere, one test each: the comment names what must hold.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>

#include "constant_experts.hpp"
#include "experts/grouped.hpp"
#include "guarded.hpp"

namespace {

using namespace made;
using switchyard::testing::Guarded;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// #3191: every index that is written lies within its buffer, for all T, K, E, more slots than experts too.
TEST(SmallBatchMemory, EveryWriteStaysInAWorkspaceOfExactlyItsSize) {
  std::mt19937 random(1);
  for (int i = 0; i < 60; ++i) {
    const auto experts = random_of<std::int32_t>(random, 1, 20);
    const auto hidden = random_of<std::int64_t>(random, 1, 70);
    const Layer layer =
        constant_layer(experts, hidden, random_of<std::int64_t>(random, 1, 40), random_of(random, 1, 4));
    Given given =
        random_given(random_of<std::int64_t>(random, 0, 50), random_of<std::int32_t>(random, 1, 24), experts, random);
    const Rows x(DType::f32, random_table(given.tokens, hidden, 1.0, random));
    Rows y(DType::f32, given.tokens, hidden);
    const std::size_t bytes = layer.workspace_bytes(given.tokens, given.topk);
    const Guarded memory(bytes, i % 2 == 0);
    layer.forward(x.view(), given.view(), y.view(), Workspace(memory.data(), bytes));
    for (std::int64_t t = 0; t < given.tokens; ++t) {
      ASSERT_EQ(y.at(t, hidden - 1), given.sum(t)) << "run " << i << " token " << t;
    }
  }
}

// #4237: nothing is read beyond an input of exactly its size, ids and weights included.
TEST(SmallBatchMemory, NothingIsReadBeyondTheInputs) {
  std::mt19937 random(2);
  const Layer layer = constant_layer(7, 33, 9, 2);
  for (const std::int64_t tokens : {1, 2, 5, 13}) {
    for (const bool at_end : {true, false}) {
      Given given = random_given(tokens, 3, 7, random);
      const std::size_t slots = given.expert.size();
      const Guarded expert(slots * 4, at_end);
      const Guarded weight(slots * 4, at_end);
      const Guarded in(static_cast<std::size_t>(tokens) * 33 * 4, at_end);
      std::memcpy(expert.data(), given.expert.data(), slots * 4);
      std::memcpy(weight.data(), given.weight.data(), slots * 4);
      std::memset(in.data(), 0, static_cast<std::size_t>(tokens) * 33 * 4);
      Rows y(DType::f32, tokens, 33);
      const Routing routing{tokens, 3, reinterpret_cast<std::int32_t*>(expert.data()),
                            reinterpret_cast<float*>(weight.data())};
      layer.forward({in.data(), DType::f32, tokens, 33}, routing, y.view(),
                    Workspace(layer.workspace_bytes(tokens, 3)));
      EXPECT_EQ(y.at(tokens - 1, 32), given.sum(tokens - 1));
    }
  }
}

// #3025: a buffer made for fewer tokens is refused before anything is written.
TEST(SmallBatchMemory, AWorkspaceForFewerTokensIsRefusedBeforeAnyWork) {
  const Layer layer = constant_layer(4, 16, 8, 2);
  std::mt19937 random(3);
  Given given = random_given(9, 2, 4, random);
  const Rows x(DType::f32, random_table(9, 16, 1.0, random));
  Rows y(DType::f32, 9, 16);
  const std::vector<std::byte> before = y.bytes;
  EXPECT_THROW(layer.forward(x.view(), given.view(), y.view(), Workspace(layer.workspace_bytes(8, 2))), Error);
  EXPECT_EQ(y.bytes, before);
}

// A grouped GEMM of ones whose pieces and scratch have exactly the carved sizes.
void run_exact(const std::vector<std::int64_t>& rows_of, std::int64_t depth, int threads, std::int64_t features = 70) {
  const auto count = static_cast<std::int32_t>(rows_of.size());
  PackedMatrices weights(count, features, depth, false, Format::f32);
  const std::vector<float> ones(static_cast<std::size_t>(features * depth), 1.0F);
  std::vector<std::int64_t> offset{0};
  for (std::int32_t m = 0; m < count; ++m) {
    weights.pack(m, {ones.data(), DType::f32, depth, 1}, {}, Threads::pool(1));
    offset.push_back(offset.back() + rows_of[static_cast<std::size_t>(m)]);
  }
  const std::int64_t rows = offset.back();
  Carver counting;
  carve_grouped(counting, rows, count, scratch_bytes(math_of(weights.format()), weights, rows), threads);
  const Workspace workspace(counting.bytes());
  Carver carver(workspace.data());
  GroupedMemory memory =
      carve_grouped(carver, rows, count, scratch_bytes(math_of(weights.format()), weights, rows), threads);
  const std::ptrdiff_t piece_bytes = memory.scratch - reinterpret_cast<std::byte*>(memory.pieces);
  const Guarded pieces(static_cast<std::size_t>(piece_bytes), true);
  const Guarded scratch(memory.scratch_bytes * static_cast<std::size_t>(threads), true);
  memory.pieces = reinterpret_cast<Piece*>(pieces.data());
  memory.scratch = scratch.data();
  const std::vector<float> x(static_cast<std::size_t>(rows * depth), 1.0F);
  std::vector<float> out(static_cast<std::size_t>(rows * weights.out_width()), -1.0F);
  for (const std::int64_t tile_bytes : {memory.tile_bytes, std::int64_t{0}}) {
    memory.tile_bytes = tile_bytes;
    GroupedGemm gemm;
    gemm.weights = &weights;
    gemm.count = count;
    gemm.offset = offset.data();
    gemm.rows = ConstMatrix(x.data(), rows, depth);
    gemm.out = out.data();
    run_grouped(gemm, memory, current_kernels(), Threads::pool(threads));
    for (std::int64_t row = 0; row < rows; ++row) {
      ASSERT_EQ(out[static_cast<std::size_t>(row * weights.out_width() + features - 1)], static_cast<float>(depth));
    }
  }
}

// #3198: the bound of pieces holds for every spread of rows, whatever the threads and caches.
TEST(SmallBatchMemory, PiecesOfEverySpreadFitTheirBound) {
  std::mt19937 random(4);
  for (const int threads : {1, 2, 7, 64}) {
    run_exact(std::vector<std::int64_t>(100, 1), 3, threads);
    run_exact({400}, 3, threads);
    run_exact({157, 0, 1, 156, 27, 313}, 3, threads);
    run_exact({1, 0, 3, 200}, 2048, threads, 2000);  // pieces of one panel
    for (int i = 0; i < 5; ++i) {
      std::vector<std::int64_t> rows(random_of<std::size_t>(random, 1, 30));
      for (std::int64_t& each : rows)
        each = random_of<std::int64_t>(random, 0, 1) * random_of<std::int64_t>(random, 1, 90);
      run_exact(rows, random_of<std::int64_t>(random, 1, 50), threads);
    }
  }
}

// #3807: the scratch of a thread holds the tiles of every number of rows at every depth.
TEST(SmallBatchMemory, ScratchHoldsEveryRowCountAndDepth) {
  for (const std::int64_t rows : {1, 5, 6, 7, 12, 13, 14, 26, 155, 156, 157}) {
    for (const std::int64_t depth : {1, 31, 32, 33, 100, 1025}) {
      run_exact({rows}, depth, 1);
    }
  }
}

// #2853: tokens · hidden and what follows from it are computed in 64 bits.
TEST(SmallBatchMemory, RowsBeyondTwoToTheThirtyOneElementsAreReadAndWritten) {
  constexpr std::int64_t kWide = 4096;
  constexpr std::int64_t kPeriod = 1024;  // tokens that share memory in y, so that it takes 8 MiB
  constexpr std::int64_t kMany = (std::int64_t{1} << 31) / kWide + 2 * kPeriod;
  constexpr auto kBytes = static_cast<std::size_t>(kMany * kWide * 2);
  constexpr auto kPart = static_cast<std::size_t>(kPeriod * kWide * 2);
  void* x = mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  void* y = mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (x == MAP_FAILED || y == MAP_FAILED) GTEST_SKIP() << "not enough address space";
  const int file = memfd_create("y", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(file, static_cast<off_t>(kPart)), 0);
  for (std::size_t at = 0; at < kBytes; at += kPart) {
    ASSERT_NE(mmap(static_cast<std::byte*>(y) + at, kPart, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0),
              MAP_FAILED);
  }
  // All but the last tokens are off and their x is 0: only the last read x, and one thread writes them last to what the
  // tokens share.
  ASSERT_EQ(mprotect(static_cast<std::byte*>(x) + kBytes - kPart, kPart, PROT_READ | PROT_WRITE), 0);
  auto* last = static_cast<std::uint16_t*>(x) + (kMany - kPeriod) * kWide;
  for (std::int64_t i = 0; i < kPeriod * kWide; ++i) last[i] = static_cast<std::uint16_t>(0x3f80 + i % 97);
  const Layer layer = constant_layer(2, kWide, 1, 1, Format::f32, DType::f32, 1);
  Given given{kMany, 1, std::vector<std::int32_t>(kMany, -1), std::vector<float>(kMany, 0.5F)};
  for (std::int64_t t = kMany - kPeriod; t < kMany; ++t) {
    given.expert[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(t % 3);
  }
  std::memset(y, 0xff, kPart);
  layer.forward({x, DType::bf16, kMany, kWide}, given.view(), {y, DType::bf16, kMany, kWide},
                Workspace(layer.workspace_bytes(kMany, 1)));
  const auto* written = static_cast<const std::uint16_t*>(y);
  std::int64_t wrong = 0;
  for (std::int64_t i = 0; i < kPeriod * kWide; ++i) {
    const std::int32_t expert = given.expert[static_cast<std::size_t>(kMany - kPeriod + i / kWide)];
    const int half_of_x = last[i] - 0x80;
    wrong += written[i] != (expert == 0 ? 0x3f00 : expert == 1 ? 0x3f80 : half_of_x) ? 1 : 0;  // 0.5, 1 and x / 2
  }
  EXPECT_EQ(wrong, 0);
  close(file);
  munmap(x, kBytes);
  munmap(y, kBytes);
}

// #2853, the router's rows, too.
TEST(SmallBatchMemory, RowsFarApartAreThoseSideBySide) {
  constexpr std::int64_t kApart = std::int64_t{1} << 30;  // elements
  const LayerCase shape = kTestCases[0];
  constexpr std::int64_t kTokens = 5;
  constexpr auto kBytes = static_cast<std::size_t>(kTokens * kApart * 2);
  std::byte* part[2];
  for (std::byte*& each : part) {
    void* at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) GTEST_SKIP() << "not enough address space";
    each = static_cast<std::byte*>(at);
  }
  std::mt19937 random(8);
  const Rows x(DType::bf16, random_table(kTokens, shape.hidden, 1.0, random));
  const auto row_bytes = static_cast<std::size_t>(shape.hidden * 2);
  const auto from = [=](std::byte* rows, std::int64_t t) { return rows + t * kApart * 2; };
  for (std::int64_t t = 0; t < kTokens; ++t) std::memcpy(from(part[0], t), x.view(t, 1).data, row_bytes);
  const Layer layer = Weights(shape, Shared::plain, 34).layer({.topk = shape.topk}, {});
  const Rows expected = forward(layer, x, DType::bf16);
  ConstMatrix in(part[0], DType::bf16, kTokens, shape.hidden);
  Matrix out(part[1], DType::bf16, kTokens, shape.hidden);
  in.stride = out.stride = kApart;
  layer.forward(in, out, Workspace(layer.workspace_bytes(kTokens)));
  for (std::int64_t t = 0; t < kTokens; ++t) {
    EXPECT_EQ(std::memcmp(from(part[1], t), expected.view(t, 1).data, row_bytes), 0) << "token " << t;
  }
  for (std::byte* each : part) munmap(each, kBytes);
}

// #2564, #4080, #3614: one function sizes and carves, for every function and type.
TEST(SmallBatchMemory, EveryFunctionAndTypeFitsItsSize) {
  const LayerCase shape = kTestCases[1];
  std::mt19937 random(5);
  for (const NamedFunction& function : kFunctions) {
    const Weights weights(shape, Shared::none, 6, {.name = function.name, .function = function.function});
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer({.topk = shape.topk},
                                        {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
      const Rows x(DType::f32, random_table(3, shape.hidden, 1.0, random));
      Rows y(DType::f32, 3, shape.hidden);
      const std::size_t bytes = layer.workspace_bytes(3);
      ASSERT_GT(bytes, 0U);
      const Guarded memory(bytes, true);
      layer.forward(x.view(), y.view(), Workspace(memory.data(), bytes));
      EXPECT_EQ(y.bytes, forward(layer, x).bytes) << function.name << " " << arithmetic.name;
    }
  }
}

std::size_t mappings() {
  std::ifstream file("/proc/self/maps");
  std::size_t lines = 0;
  for (std::string line; std::getline(file, line);) ++lines;
  return lines;
}

// #3709, #4558: nothing is kept for layers that are gone.
TEST(SmallBatchMemory, MemoryReturnsToWhereItWas) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer keeps what is freed";
  const auto use = [] {
    const Layer layer = constant_layer(8, 64, 32, 2);
    std::mt19937 random(26);
    Given given = random_given(5, 2, 8, random);
    forward(layer, Rows(DType::f32, random_table(5, 64, 1.0, random)), given.view());
  };
  for (int i = 0; i < 3; ++i) use();
  const std::size_t maps = mappings();
  const std::size_t heap = mallinfo2().uordblks;
  for (int i = 0; i < 50; ++i) use();
  EXPECT_LE(mallinfo2().uordblks, heap + 4096);
  EXPECT_LE(mappings(), maps + 2);
}

// #4186: nothing is written behind a row of the output or behind all of it.
TEST(SmallBatchMemory, NothingIsWrittenBehindARowOrTheOutput) {
  std::mt19937 random(31);
  for (const std::int64_t hidden : {1, 15, 17, 33}) {
    const Layer layer = constant_layer(3, hidden, 8, 2);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const std::int64_t stride = hidden + 3;
      const std::size_t bytes = static_cast<std::size_t>(4 * stride + hidden) * dtype_bytes(dtype);
      const Guarded out(bytes, true);
      const Rows x(DType::f32, random_table(5, hidden, 1.0, random));
      Given given = random_given(5, 2, 3, random);
      Matrix y(out.data(), dtype, 5, hidden);
      y.stride = stride;
      layer.forward(x.view(), given.view(), y, Workspace(layer.workspace_bytes(5, 2)));
      const std::size_t size = dtype_bytes(dtype);
      for (std::size_t row = 0; row < 4; ++row) {
        const std::byte* gap =
            out.data() + (row * static_cast<std::size_t>(stride) + static_cast<std::size_t>(hidden)) * size;
        EXPECT_TRUE(std::all_of(gap, gap + 3 * size, [](std::byte b) { return b == std::byte{0xff}; }));
      }
    }
  }
}

}  // namespace
