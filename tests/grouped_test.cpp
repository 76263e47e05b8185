// The grouped GEMM: the same bits however it is cut.
#include "experts/grouped.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "switchyard/probe.hpp"

namespace {

using namespace switchyard;

struct Problem {
  std::int64_t features;
  std::int64_t depth;
  Format format;
  Math math;
  std::vector<std::int64_t> rows;  // per matrix
};

std::vector<float> random_floats(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// past_caches: whether output that is larger than a core's L2 may go there.
std::vector<float> run(const Problem& problem, std::int64_t tile_bytes, int threads, bool past_caches = true) {
  const auto count = static_cast<std::int32_t>(problem.rows.size());
  PackedMatrices weights(count, problem.features, problem.depth, false, problem.format);
  std::vector<std::int64_t> offset{0};
  for (std::int32_t m = 0; m < count; ++m) {
    const std::vector<float> values = random_floats(problem.features * problem.depth, static_cast<unsigned>(m));
    weights.pack(m, {values.data(), DType::f32, problem.depth, 1}, {}, Threads::pool(2));
    offset.push_back(offset.back() + problem.rows[static_cast<std::size_t>(m)]);
  }
  const std::int64_t rows = offset.back();
  const std::vector<float> x = random_floats(rows * problem.depth, 99);
  std::vector<float> out(static_cast<std::size_t>(rows * weights.out_width()), -1);
  const Workspace memory_of_out(out.size() * sizeof(float) + 64);
  std::byte* const to = static_cast<std::byte*>(memory_of_out.data()) + (past_caches ? 0 : 4);
  std::memcpy(to, out.data(), out.size() * sizeof(float));
  Carver counting;
  carve_grouped(counting, rows, count, scratch_bytes(math_of(weights.format()), weights, rows), threads);
  const Workspace workspace(counting.bytes());
  Carver carver(workspace.data());
  GroupedMemory memory =
      carve_grouped(carver, rows, count, scratch_bytes(math_of(weights.format()), weights, rows), threads);
  if (tile_bytes >= 0) memory.tile_bytes = tile_bytes;
  GroupedGemm gemm;
  gemm.weights = &weights;
  gemm.count = count;
  gemm.offset = offset.data();
  gemm.math = problem.math;
  gemm.rows = ConstMatrix(x.data(), rows, problem.depth);
  gemm.out = to;
  run_grouped(gemm, memory, current_kernels(), Threads::pool(threads));
  std::memcpy(out.data(), to, out.size() * sizeof(float));
  return out;
}

TEST(Grouped, BitsDoNotDependOnCachesOrThreads) {
  for (const Problem& problem : {Problem{70, 1100, Format::f32, Math::f32, {0, 1, 200, 27, 26, 0, 157}},
                                 Problem{70, 1100, Format::bf16, Math::bf16, {3, 200, 1, 52}},
                                 Problem{33, 40, Format::bf16, Math::widened, {400}}}) {
    const std::vector<float> expected = run(problem, -1, 1);
    for (const std::int64_t tile_bytes : {0, 200'000, 1 << 30}) {
      for (const int threads : {2, 5}) {
        EXPECT_EQ(run(problem, tile_bytes, threads), expected) << tile_bytes << " bytes, " << threads << " threads";
      }
    }
  }
}

TEST(Grouped, BitsDoNotDependOnWhereTheOutputGoes) {
  constexpr std::int64_t kFeatures = 2000;
  const auto l2_rows = static_cast<std::int64_t>(processor_caches().l2_bytes) / (kFeatures * 4);
  for (const auto& [format, math] :
       {std::pair(Format::f32, Math::f32), std::pair(Format::bf16, Math::bf16), std::pair(Format::i8, Math::integer)}) {
    const Problem problem{kFeatures, 130, format, math, {1, l2_rows, 0, 30, 2}};
    const std::vector<float> expected = run(problem, -1, 1, false);
    for (const int threads : {1, 2, 5}) {
      EXPECT_EQ(run(problem, -1, threads), expected) << format_name(format) << ", " << threads << " threads";
    }
  }
}

// Panels of 128 KiB, so that few of them may be a piece of their own.
TEST(Grouped, ManyPiecesOfFewRowsHaveTheSameBits) {
  const Problem problem{1000, 1024, Format::f32, Math::f32, {1, 0, 40, 2, 170}};
  const std::vector<float> expected = run(problem, -1, 1);
  for (const int threads : {2, 3, 16}) {
    EXPECT_EQ(run(problem, -1, threads), expected) << threads << " threads";
  }
}

TEST(Grouped, ThreadsOfACoreShareItsCaches) {
  Caches caches;
  caches.cores = 4;
  caches.hardware_threads = 8;
  caches.l2_bytes = std::size_t{1} << 20;
  caches.l3_bytes = std::size_t{16} << 20;
  caches.l3_cores = 4;
  EXPECT_EQ(tile_bytes(caches, 1), 2 << 20);
  EXPECT_EQ(tile_bytes(caches, 4), 2 << 20);
  EXPECT_EQ(tile_bytes(caches, 5), 1 << 20);
  EXPECT_EQ(tile_bytes(caches, 8), 1 << 20);
  caches.l3_bytes = 0;  // none
  EXPECT_EQ(tile_bytes(caches, 4), 512 << 10);
  EXPECT_EQ(tile_bytes(caches, 8), 256 << 10);
  caches.hardware_threads = 4;  // more threads than processors: they take turns
  EXPECT_EQ(tile_bytes(caches, 8), 512 << 10);
}

TEST(Caches, AreThoseOfAProcessor) {
  const Caches& caches = processor_caches();
  EXPECT_GE(caches.cores, 1);
  EXPECT_GE(caches.hardware_threads, caches.cores);
  EXPECT_GE(caches.l1_bytes, std::size_t{4} << 10);
  EXPECT_GE(caches.l2_bytes, std::size_t{64} << 10);
  EXPECT_GE(caches.l3_bytes, std::size_t{256} << 10);
  EXPECT_GE(caches.l3_cores, 1);
  EXPECT_EQ(&caches, &processor_caches());
}

}  // namespace
