// The kernel alone: one thread, one expert's up projection of the table's shapes, by rows. Weights and rows stand in
// the caches if they fit.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "../cli/random_layer.hpp"
#include "../tests/cases.hpp"
#include "bench_main.hpp"
#include "experts/grouped.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kRows[] = {1, 2, 3, 4, 6, 8, 13, 16, 26, 39, 52, 78, 104, 130, 156};

struct Type {
  const char* name;
  Format format;
  DType rows;
  Math math;
};
constexpr Type kTypes[] = {
    {"f32", Format::f32, DType::f32, Math::f32},         {"bf16_weights", Format::bf16, DType::f32, Math::widened},
    {"bf16", Format::bf16, DType::bf16, Math::bf16},     {"int8", Format::i8, DType::f32, Math::integer},
    {"int4", Format::i4, DType::f32, Math::integer},     {"fp8", Format::f8_e4m3, DType::f32, Math::decoded},
    {"mxfp8", Format::mxfp8, DType::f32, Math::decoded}, {"mxfp4", Format::mxfp4, DType::f32, Math::decoded},
    {"nvfp4", Format::nvfp4, DType::f32, Math::decoded}};

void gemm(benchmark::State& state, const LayerCase& shape, const Type& type, std::int64_t rows) {
  const Threads one = Threads::pool(1);
  const auto elements = static_cast<std::size_t>(shape.hidden * shape.ffn);
  const std::vector<std::byte> weight = cli::random_values(elements, DType::f32, 0.02, 1, Threads());
  const std::vector<std::byte> x =
      cli::random_values(static_cast<std::size_t>(rows * shape.hidden), type.rows, 1, 2, Threads());
  PackedMatrices packed(1, shape.ffn, shape.hidden, false, type.format);
  packed.pack(0, {weight.data(), DType::f32, shape.hidden, 1}, {}, Threads());
  Carver counting;
  carve_grouped(counting, rows, 1, scratch_bytes(packed, rows), 1);
  const Workspace workspace(counting.bytes());
  Carver carver(workspace.data());
  const GroupedMemory memory = carve_grouped(carver, rows, 1, scratch_bytes(packed, rows), 1);
  std::vector<float> out(static_cast<std::size_t>(rows * packed.out_width()));
  const std::int64_t offset[] = {0, rows};
  GroupedGemm grouped;
  grouped.weights = &packed;
  grouped.count = 1;
  grouped.offset = offset;
  grouped.math = type.math;
  grouped.rows = ConstMatrix(x.data(), type.rows, rows, shape.hidden);
  grouped.out = out.data();
  for (auto _ : state) {
    run_grouped(grouped, memory, current_kernels(), one);
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] = benchmark::Counter(2.0 * static_cast<double>(rows) * static_cast<double>(elements),
                                                benchmark::Counter::kIsIterationInvariantRate);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(packed.bytes()));
}

void register_all() {
  for (const LayerCase& shape : kBenchCases) {
    for (const Type& type : kTypes) {
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
