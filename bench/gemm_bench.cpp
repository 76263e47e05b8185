// The kernel alone: one thread, one expert's up projection of the table's shapes as one piece, by rows. Weights and rows
// stand in the caches if they fit.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "../cli/random_layer.hpp"
#include "../tests/cases.hpp"
#include "bench_main.hpp"
#include "experts/grouped.hpp"
#include "gemm_case.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kRows[] = {1, 2, 3, 4, 6, 8, 10, 12, 13, 16, 26, 39, 52, 78, 104, 130, 156};

void gemm(benchmark::State& state, const LayerCase& shape, const GemmType& type, std::int64_t rows) {
  const auto elements = static_cast<std::size_t>(shape.hidden * shape.ffn);
  const std::vector<std::byte> weight = cli::random_values(elements, DType::f32, 0.02, 1, Threads());
  const std::vector<std::byte> x =
      cli::random_values(static_cast<std::size_t>(rows * shape.hidden), type.rows, 1, 2, Threads());
  PackedMatrices packed(1, shape.ffn, shape.hidden, false, type.format);
  packed.pack(0, {weight.data(), DType::f32, shape.hidden, 1}, {}, Threads());
  GemmArgs args = gemm_args(type, packed, x.data(), rows);
  const Workspace scratch(scratch_bytes(args.math, packed, rows));
  std::vector<float> out(static_cast<std::size_t>(rows * packed.out_width()));
  args.out = out.data();
  args.scratch = static_cast<std::byte*>(scratch.data());
  for (auto _ : state) {
    current_kernels().gemm(args);
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * static_cast<double>(rows) * static_cast<double>(elements),
                                                benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(packed.bytes()));
}

void register_all() {
  for (const LayerCase& shape : kBenchCases) {
    for (const GemmType& type : kGemmTypes) {
      for (const std::int64_t rows : kRows) {
        const std::string name = "gemm/" + std::string(shape.name) + "/" + type.name + "/" + std::to_string(rows);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { gemm(state, shape, type, rows); });
      }
    }
  }
}

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) { return switchyard::run_benchmarks(argc, argv, switchyard::register_all); }
