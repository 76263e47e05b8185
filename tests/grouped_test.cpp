// The grouped GEMM: the same bits however it is cut.
#include "experts/grouped.hpp"

#include <gtest/gtest.h>

#include <random>
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

std::vector<float> run(const Problem& problem, std::int64_t tile_bytes, int threads) {
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
  gemm.out = out.data();
  run_grouped(gemm, memory, current_kernels(), Threads::pool(threads));
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
