// Routing the same logits over and over: they stand in the caches if they fit. `switchyard bench route` has them cold,
// beside reading them once and beside plain code.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "../cli/random_layer.hpp"
#include "../tests/cases.hpp"
#include "bench_main.hpp"

namespace switchyard {
namespace {

constexpr std::int32_t kExperts = 256;
constexpr std::int32_t kTopk = 8;

void route_case(benchmark::State& state, const RouteCase& from, DType dtype, std::int64_t tokens) {
  const auto logits = cli::random_values(static_cast<std::size_t>(tokens * kExperts), dtype, 4, 5, Threads());
  const auto bias = cli::random_values(kExperts, DType::f32, 0.1, 6, Threads());
  std::vector<std::int32_t> expert(static_cast<std::size_t>(tokens * kTopk));
  std::vector<float> weight(expert.size());
  RouterOptions options;
  options.topk = kTopk;
  options.score = from.score;
  options.normalize = from.normalize;
  options.groups = from.groups;
  options.kept_groups = from.kept_groups;
  options.group_best = from.group_best;
  if (from.selection_bias) options.selection_bias = {bias.data(), DType::f32};
  RouteOutputs outputs;
  outputs.expert = {expert.data(), DType::i32};
  outputs.weight = {weight.data(), DType::f32};
  const Workspace workspace(route_workspace_bytes(tokens, kExperts));
  for (auto _ : state) {
    route({logits.data(), dtype, tokens, kExperts}, options, {}, outputs, workspace);
    benchmark::DoNotOptimize(expert.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * tokens);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(logits.size()));
}

void register_all() {
  for (const RouteCase& from : kRouteBenchCases) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const std::int64_t tokens : kRouteBenchTokens) {
        const std::string name =
            "route/" + std::string(from.name) + "/" + dtype_name(dtype) + "/" + std::to_string(tokens);
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
          route_case(state, from, dtype, tokens);
        })->UseRealTime();
      }
    }
  }
}

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) { return switchyard::run_benchmarks(argc, argv, switchyard::register_all); }
