// One page about a run: facts, load per expert, costs per layer. Needs nothing but itself.
#pragma once

#include <filesystem>
#include <optional>

#include "bench_layer.hpp"
#include "engine.hpp"

namespace switchyard::cli {

// Throws io.
void write_report(const std::filesystem::path& path, const ModelRun& run, const std::optional<BenchResult>& bench);

}  // namespace switchyard::cli
