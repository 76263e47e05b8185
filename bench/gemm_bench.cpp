// The kernel alone: one thread, one expert's up projection of the table's shapes as one piece, by rows. Weights and rows
// stand in the caches if they fit.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "../cli/random_layer.hpp"
#include "../tests/cases.hpp"
#include "bench_main.hpp"
#include "experts/grouped.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kRows[] = {1, 2, 3, 4, 6, 8, 10, 12, 13, 16, 26, 39, 52, 78, 104, 130, 156};

struct Type {
  const char* name;
  Format format;
  DType rows;
};
constexpr Type kTypes[] = {{"f32", Format::f32, DType::f32},           {"bf16_weights", Format::bf16, DType::f32},
                           {"bf16", Format::bf16, DType::bf16},        {"int8", Format::i8, DType::f32},
                           {"int4", Format::i4, DType::f32},           {"fp8", Format::f8_e4m3, DType::f32},
                           {"mxfp8", Format::mxfp8, DType::f32},       {"mxfp4", Format::mxfp4, DType::f32},
                           {"nvfp4", Format::nvfp4, DType::f32},       {"fp8_bf16", Format::f8_e4m3, DType::bf16},
                           {"mxfp8_bf16", Format::mxfp8, DType::bf16}, {"mxfp4_bf16", Format::mxfp4, DType::bf16},
                           {"nvfp4_bf16", Format::nvfp4, DType::bf16}};

void gemm(benchmark::State& state, const LayerCase& shape, const Type& type, std::int64_t rows) {
  const auto elements = static_cast<std::size_t>(shape.hidden * shape.ffn);
  const std::vector<std::byte> weight = cli::random_values(elements, DType::f32, 0.02, 1, Threads());
  const std::vector<std::byte> x =
      cli::random_values(static_cast<std::size_t>(rows * shape.hidden), type.rows, 1, 2, Threads());
  PackedMatrices packed(1, shape.ffn, shape.hidden, false, type.format);
  packed.pack(0, {weight.data(), DType::f32, shape.hidden, 1}, {}, Threads());
  const Math math = math_of(type.format, type.rows);
  const Workspace scratch(scratch_bytes(math, packed, rows));
  std::vector<float> out(static_cast<std::size_t>(rows * packed.out_width()));
  GemmArgs args{};
  args.math = math;
  args.format = type.format;
  args.scales = packed.scales();
  args.rows = x.data();
  args.rows_type = type.rows;
  args.rows_stride = shape.hidden;
  args.row_count = rows;
  args.depth = shape.hidden;
  args.panels = packed.matrix(0);
  args.panel_bytes = packed.panel_bytes();
  args.panel_end = packed.panels();
  args.padded_depth = packed.padded_depth();
  args.out = out.data();
  args.out_type = DType::f32;
  args.out_stride = packed.out_width();
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
