// Times routing, beside reading the logits once and beside plain code, all in one run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "switchyard/probe.hpp"
#include "switchyard/route.hpp"

namespace switchyard::cli {

struct RouteBenchCase {
  std::string name;
  RouterOptions router;  // without arrays
  bool selection_bias = false;
  std::int32_t experts = 0;
  DType dtype = DType::f32;  // of the logits
};

struct RouteBenchRequest {
  std::vector<RouteBenchCase> cases;
  std::vector<std::int64_t> tokens;
  std::vector<std::string> outputs;  // of kRouteOutputs
  int threads = 0;
  double seconds = 2;  // of measuring, per case
  int repeat = 0;      // rounds; 0: as the seconds allow
};

// Medians of the rounds.
struct RouteBenchRow {
  RouteBenchCase config;
  std::int64_t tokens = 0;
  Isa isa = Isa::plain;
  int threads = 1;
  double ms = 0;
  double read_ms = 0;   // for the bytes of the logits at the rate of memory in the same round
  double plain_ms = 0;  // of plain_route

  double ns_per_token() const { return ms * 1e6 / static_cast<double>(tokens); }
  double of_reading() const { return ms / read_ms; }
  double of_plain() const { return ms / plain_ms; }
};

struct RouteBenchResult {
  Roofline probe;  // each rate's median over all rounds
  std::vector<RouteBenchRow> rows;
};

// Throws invalid_argument; mismatch if the plain code does not choose the same experts.
RouteBenchResult bench_routes(const RouteBenchRequest& request);

std::string bench_text(const RouteBenchResult& result);

}  // namespace switchyard::cli
