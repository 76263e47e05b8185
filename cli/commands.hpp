// What each subcommand is asked for, and the subcommands. Each prints to stdout; what goes wrong is thrown as Error, a
// failed expectation too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/types.hpp"

namespace switchyard::cli {

struct InspectOptions {
  std::filesystem::path model;
  bool json = false;
};
void inspect(const InspectOptions& options);

struct RunOptions {
  std::filesystem::path model;
  std::filesystem::path input;
  std::filesystem::path output;      // empty: nothing is written
  std::vector<std::int32_t> layers;  // empty: every MoE layer that the input has an input for
  std::string tensor;                // empty: layer.L.input
  DType dtype = DType::f32;
  int threads = 0;
  bool expect = false;
  std::filesystem::path report;  // empty: none
};
void run(const RunOptions& options);

struct BenchOptions {
  std::string what = "layer";
  std::vector<std::string> configs{"s"};
  std::vector<std::int64_t> tokens{1, 16, 64, 256, 1024};
  DType dtype = DType::f32;
  int threads = 0;
  bool json = false;
};
void bench(const BenchOptions& options);

struct DemoOptions {
  std::filesystem::path model;  // empty: the example that came with the program
  std::filesystem::path report = "switchyard_report.html";
  int threads = 0;
};
void demo(const DemoOptions& options);

}  // namespace switchyard::cli
