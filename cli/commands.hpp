// What each subcommand is asked for, and the subcommands. Each prints to stdout; what goes wrong is thrown as Error, a
// failed expectation too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/format.hpp"
#include "switchyard/record.hpp"
#include "switchyard/route.hpp"
#include "switchyard/types.hpp"

namespace switchyard::cli {

struct InspectOptions {
  std::filesystem::path model;
  std::int64_t tokens = 0;  // 0: no workspace is asked for; this and the next ones: of the forward it is for
  DType dtype = DType::f32;
  std::optional<Format> weights;  // by default what layer_options has
  int threads = 0;
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
  std::optional<Format> weights;  // by default what layer_options has
  std::optional<DType> router;    // see LayerOptions
  int threads = 0;
  std::filesystem::path cache;  // folder of packed weights; empty: none
  bool expect = false;
  std::filesystem::path report;  // empty: none
  std::filesystem::path record;  // store that the routing is appended to; empty: none
};
void run(const RunOptions& options);

struct RouteOptions {
  std::string logits;    // this and the next ones: FILE.npy, FILE.safetensors or FILE.safetensors:TENSOR
  RouterOptions router;  // its arrays come from the files
  std::string selection_bias;
  std::string logit_bias;
  std::string expert_scale;
  std::string table;
  std::string token_ids;
  std::string valid;
  std::string forced;
  std::string replayed;
  std::string sequences;
  std::filesystem::path output;
  std::vector<std::string> outputs{"expert", "weight", "count"};  // of kRouteOutputs
  DType expert_type = DType::i32;
  DType weight_type = DType::f32;  // of probabilities too
  std::int32_t bins = 0;
  float qb_lower = 0;
  float qb_upper = 0;
  int threads = 0;
};
void route(const RouteOptions& options);

// `bench layer`, `bench route` and `bench record`; what is empty has the default of the one that runs.
struct BenchOptions {
  std::string what = "layer";
  std::vector<std::int64_t> tokens;
  std::optional<DType> dtype;
  int threads = 0;
  bool json = false;
  std::vector<std::string> configs;  // this one and the next are for layers, those after it for routes
  std::vector<Format> weights;
  std::int32_t experts = 256;
  RouterOptions router{.topk = 8};
  bool selection_bias = false;
  bool score_given = false;  // else the cases of cases.hpp
  std::vector<std::string> outputs{"expert", "weight"};
  int repeat = 0;  // 0: as often as some seconds allow
};
void bench(const BenchOptions& options);

// `record show`, `stats`, `verify`, `compact`, `export` and `import`.
struct RecordOptions {
  std::string what;
  std::filesystem::path store;
  bool json = false;
  std::filesystem::path report;  // of stats; empty: none
  std::filesystem::path output;  // of export
  std::string sequence;          // key, of export and import; empty: all, or the name of the file
  std::vector<std::int32_t> layers;
  std::vector<std::filesystem::path> files;  // this one and the next are for import
  std::int32_t experts = 0;
  std::int32_t topk = 0;  // 0: as the payloads have
  SlotOrder order = SlotOrder::kept;
  std::string model;
  std::int64_t start = 0;
  std::int64_t policy_version = 0;
};
void record(const RecordOptions& options);

struct DemoOptions {
  std::filesystem::path model;  // empty: the example that came with the program
  std::filesystem::path report = "switchyard_report.html";
  int threads = 0;
};
void demo(const DemoOptions& options);

}  // namespace switchyard::cli
