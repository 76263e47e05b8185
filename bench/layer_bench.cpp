// Forwards of one layer over and over: weights stand in the caches if they fit. `switchyard bench` has them cold, and
// says what share of the machine's speed it is.
#include <benchmark/benchmark.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../cli/random_layer.hpp"
#include "../tests/cases.hpp"
#include "bench_main.hpp"

namespace switchyard {
namespace {

// Benchmarks of one shape and type follow each other: only the last layer is kept.
const Layer& layer_of(const LayerCase& shape, Format format, DType dtype) {
  static std::map<std::pair<std::string_view, Format>, Layer> layers;
  const auto key = std::pair(shape.name, format);
  if (!layers.contains(key)) {
    layers.clear();
    const cli::RandomLayers random({shape.hidden, shape.ffn, shape.experts, shape.topk}, format, dtype, Threads());
    layers.emplace(key, random.make());
  }
  return layers.at(key);
}

void forward(benchmark::State& state, const LayerCase& shape, Format format, DType dtype, std::int64_t tokens) {
  const Layer& layer = layer_of(shape, format, dtype);
  const auto elements = static_cast<std::size_t>(tokens * shape.hidden);
  const std::vector<std::byte> x = cli::random_values(elements, dtype, 1, 3, Threads());
  std::vector<std::byte> y(x.size());
  const Workspace workspace(layer.workspace_bytes(tokens));
  for (auto _ : state) {
    const auto result =
        layer.forward({x.data(), dtype, tokens, shape.hidden}, {y.data(), dtype, tokens, shape.hidden}, workspace);
    benchmark::DoNotOptimize(result.routing.expert);
  }
  const auto hidden = static_cast<double>(shape.hidden);
  const double per_token = 2 * hidden * (3 * static_cast<double>(shape.ffn) * shape.topk + shape.experts);
  state.counters["FLOP/s"] =
      benchmark::Counter(per_token * static_cast<double>(tokens), benchmark::Counter::kIsIterationInvariantRate);
  state.SetItemsProcessed(state.iterations() * tokens);
}

void register_all() {
  for (const LayerCase& shape : kBenchCases) {
    for (std::int32_t i = 0; i < kFormats; ++i) {
      const auto format = static_cast<Format>(i);
      const DType dtype = cli::usual_dtype(format);
      for (const std::int64_t tokens : kBenchTokens) {
        const std::string name =
            "layer/" + std::string(shape.name) + "/" + format_name(format) + "/" + std::to_string(tokens);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
          forward(state, shape, format, dtype, tokens);
        })->UseRealTime();
      }
    }
  }
}

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) { return switchyard::run_benchmarks(argc, argv, switchyard::register_all); }
