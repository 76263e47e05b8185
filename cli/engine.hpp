// Runs MoE layers of a model on activations from a file: what `run` and `demo` do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "commands.hpp"
#include "switchyard/layer.hpp"
#include "switchyard/model.hpp"

namespace switchyard::cli {

struct Comparison {
  double difference = 0;        // largest |output - expected|, relative to the largest |expected|
  double tolerance = 0;         // what the difference may be
  std::int64_t not_finite = 0;  // elements of output or expected that are NaN or infinite
  std::int64_t same_sets = 0;   // tokens with the expected set of experts

  bool holds() const noexcept { return not_finite == 0 && difference <= tolerance; }
};

// One layer's results and what they cost.
struct LayerRun {
  std::int32_t layer = 0;
  std::int64_t tokens = 0;
  std::int32_t topk = 0;
  DType dtype = DType::f32;          // of the output, which is that of the input
  std::vector<std::byte> output;     // [T,H]
  std::vector<std::int32_t> expert;  // [T,K]
  std::vector<float> weight;         // [T,K]
  std::vector<std::int64_t> load;    // [E]: rows per expert
  Path path = Path::grouped;
  double ms = 0;            // of the fastest forward
  double weight_bytes = 0;  // of the experts that were used
  double flops = 0;
  std::optional<Comparison> comparison;

  std::int64_t experts_used() const;
  std::int64_t max_load() const;
  double mean_load() const;
  double gbps() const { return ms > 0 ? weight_bytes / (ms * 1e6) : 0; }
  double gflops() const { return ms > 0 ? flops / (ms * 1e6) : 0; }
};

struct ModelRun {
  ModelInfo model;
  Format format = Format::f32;
  DType activations = DType::f32;
  DType router = DType::f32;
  int threads = 1;
  std::vector<LayerRun> layers;

  bool holds() const;  // all comparisons that were made
};

// Weights of one routed expert, and of all that every token passes: the shared expert and the maps of a latent space.
double expert_elements(const ModelInfo& model);
double common_elements(const ModelInfo& model);

// How a model's layers are made for `dtype`: without `weights` they are bf16 if what multiplies them or the checkpoint is,
// and else f32.
LayerOptions layer_options(const ModelInfo& model, DType dtype, std::optional<Format> weights, int threads);

// Everything that can be refused is, before the first layer is packed. Progress goes to stderr if that is a terminal.
ModelRun run_layers(const RunOptions& options);

// Throws mismatch naming the first layer whose comparison does not hold.
void check_expectation(const ModelRun& run);

// What check_expectation found good: how close, how many tokens with the expected experts. Empty without comparisons.
std::string agreement_text(const ModelRun& run);

// The facts and the table of layers, as `run` prints them.
std::string facts_text(const ModelRun& run);
std::string layers_text(const ModelRun& run);
// One row per layer of what layers_text prints, and its header; for the report too.
std::vector<std::string> layer_columns(const ModelRun& run);
std::vector<std::string> layer_cells(const LayerRun& layer);

}  // namespace switchyard::cli
