// `switchyard run`: layers of a model on activations from a file.
#include <fmt/format.h>

#include <cstdio>
#include <span>

#include "commands.hpp"
#include "engine.hpp"
#include "files.hpp"
#include "npy.hpp"
#include "record.hpp"
#include "report.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard::cli {
namespace {

void check(const RunOptions& options) {
  if (options.output.empty() && options.record.empty() && !options.expect) {
    throw Error(Code::invalid_argument, "run: neither --output nor --record nor --expect, expected one of them");
  }
  if (!options.output.empty()) check_writable(options.output, "run");
  if (!options.report.empty()) check_writable(options.report, "run");
  if (!options.record.empty()) check_record_run(options);
  if (!options.output.empty() && !options.report.empty() && same_file(options.output, options.report)) {
    throw Error(Code::invalid_argument,
                fmt::format("run: {} is both --output and --report, expected two files", options.output.string()));
  }
}

template <class Element>
Tensor tensor_of(std::string name, DType dtype, const LayerRun& layer, std::int64_t columns,
                 const std::vector<Element>& elements) {
  const auto bytes = std::as_bytes(std::span(elements));
  return {std::move(name), dtype, {layer.tokens, columns}, bytes.data(), bytes.size()};
}

void write_output_npy(const ModelRun& run, const std::filesystem::path& path) {
  const LayerRun& layer = run.layers.front();
  const auto* values = reinterpret_cast<const float*>(layer.output.data());
  const std::int64_t shape[] = {layer.tokens, run.model.hidden};
  write_npy(path, shape, std::span(values, layer.output.size() / sizeof(float)));
}

void write_output(const ModelRun& run, const std::filesystem::path& path) {
  if (path.extension() == ".npy") return write_output_npy(run, path);
  std::vector<Tensor> tensors;
  for (const LayerRun& layer : run.layers) {
    const std::string prefix = fmt::format("layer.{}.", layer.layer);
    tensors.push_back(tensor_of(prefix + "output", layer.dtype, layer, run.model.hidden, layer.output));
    tensors.push_back(tensor_of(prefix + "expert", DType::i32, layer, layer.topk, layer.expert));
    tensors.push_back(tensor_of(prefix + "weight", DType::f32, layer, layer.topk, layer.weight));
  }
  write_safetensors(path, tensors);
}

}  // namespace

void run(const RunOptions& options) {
  check(options);
  const ModelRun result = run_layers(options);
  fmt::print("{}\n{}", facts_text(result), layers_text(result));
  if (!options.output.empty()) {
    write_output(result, options.output);
    fmt::print("\nwritten: {}\n", options.output.string());
  }
  if (!options.record.empty()) {
    const std::string key = record_run(options, result);
    fmt::print("recorded: {}, sequence '{}'\n", options.record.string(), key);
  }
  if (!options.report.empty()) {
    write_report(options.report, result, {});
    fmt::print("report: {}\n", options.report.string());
  }
  check_expectation(result);
  fmt::print("{}", agreement_text(result));
}

}  // namespace switchyard::cli
