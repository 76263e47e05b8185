// Times forwards of MoE layers with cold weights, as fractions of what the machine can do in the same minute.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "switchyard/layer.hpp"
#include "switchyard/probe.hpp"

namespace switchyard::cli {

struct BenchConfig {
  std::string name;
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  std::int32_t experts = 0;
  std::int32_t topk = 0;
};

// Each a name of the table in cases.hpp, "H,F,E,K", or "all". Throws invalid_argument.
std::vector<BenchConfig> parse_configs(const std::vector<std::string>& names);

struct BenchRequest {
  std::vector<BenchConfig> configs;
  std::vector<std::int64_t> tokens;
  // Of x, y and the router's weight, and of what the experts multiply where the format has it; none: usual_dtype.
  std::optional<DType> dtype;
  std::vector<Format> formats;
  int threads = 0;
  double seconds = 4;  // of measuring, per config and format
};

// Medians of the repetitions.
struct BenchRow {
  std::string config;
  std::int64_t tokens = 0;
  Format weights = Format::f32;
  DType activations = DType::f32;
  Isa isa = Isa::plain;
  int threads = 1;
  Path path = Path::grouped;
  double ms = 0;
  double gflops = 0;
  double gbps = 0;      // of the weights of the experts that were used
  double roofline = 0;  // time that the rates of the same round allow, divided by the time it took
};

struct BenchResult {
  Roofline probe;  // each rate's median over all rounds
  std::vector<BenchRow> rows;
};

BenchResult bench_layers(const BenchRequest& request);

std::vector<std::string> bench_columns();
std::vector<std::string> bench_cells(const BenchRow& row);
std::string bench_text(const BenchResult& result);

}  // namespace switchyard::cli
