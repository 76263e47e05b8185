#include "engine.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>

#include "input.hpp"
#include "progress.hpp"
#include "switchyard/cpu.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kToleranceF32 = 1e-4;
constexpr double kToleranceBf16 = 2e-2;

// A short forward is repeated, so that its time is not that of the first touch of the memory.
constexpr int kMaxForwards = 5;
constexpr double kEnoughMs = 50;

std::string input_name(const RunOptions& options, std::int32_t layer) {
  return options.tensor.empty() ? fmt::format("layer.{}.input", layer) : options.tensor;
}

// The layers to run, refusing those that the model or the input does not have.
std::vector<std::int32_t> choose_layers(const RunOptions& options, const ModelInfo& model, const InputFile& input) {
  std::vector<std::int32_t> layers = options.layers;
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  for (const std::int32_t layer : layers) {
    if (!std::binary_search(model.moe_layers.begin(), model.moe_layers.end(), layer)) {
      throw Error(Code::invalid_argument, fmt::format("run: layer {} has no experts, expected one of {}", layer,
                                                      ranges_text(model.moe_layers)));
    }
  }
  if (input.is_npy() && layers.size() != 1) {
    throw Error(Code::invalid_argument, "run: an .npy input needs one --layer");
  }
  if (input.is_npy() && (options.expect || !options.tensor.empty())) {
    throw Error(Code::invalid_argument,
                fmt::format("run: {} needs a .safetensors input", options.expect ? "--expect" : "--tensor"));
  }
  if (!options.tensor.empty() && layers.size() != 1) {
    throw Error(Code::invalid_argument, "run: --tensor needs one --layer");
  }
  if (layers.empty()) {
    std::copy_if(model.moe_layers.begin(), model.moe_layers.end(), std::back_inserter(layers),
                 [&](std::int32_t layer) { return input.has(input_name(options, layer)); });
  }
  if (layers.empty()) {
    throw Error(Code::bad_data, fmt::format("run: {}: no tensor layer.L.input, expected one for L among {}",
                                            options.input.string(), ranges_text(model.moe_layers)));
  }
  return layers;
}

Layer load_layer(const Model& model, std::int32_t layer, const LayerOptions& options,
                 const std::filesystem::path& cache) {
  Progress progress(fmt::format("loading layer {}: expert", layer));
  return model.layer(
      layer, options, [&](std::int32_t done, std::int32_t of) { progress.show(done, of); }, cache);
}

// Runs `forward` a few times and returns the time of the fastest in ms.
template <class Forward>
double fastest_ms(const Forward& forward) {
  double fastest = std::numeric_limits<double>::infinity();
  double sum = 0;
  for (int i = 0; i < kMaxForwards && sum < kEnoughMs; ++i) {
    const auto start = Clock::now();
    forward();
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    fastest = std::min(fastest, ms);
    sum += ms;
  }
  return fastest;
}

void count_work(const ModelInfo& model, Format format, LayerRun& run) {
  run.load.assign(static_cast<std::size_t>(model.experts), 0);
  for (const std::int32_t expert : run.expert) {
    if (expert >= 0 && expert < model.experts) ++run.load[static_cast<std::size_t>(expert)];  // others cost nothing
  }
  const auto rows = static_cast<double>(std::accumulate(run.load.begin(), run.load.end(), std::int64_t{0}));
  const auto tokens = static_cast<double>(run.tokens);
  const double of_expert = expert_elements(model);
  const double of_all = tokens > 0 ? common_elements(model) : 0;
  const double router = static_cast<double>(model.hidden) * (model.experts + model.identity_experts);
  run.weight_bytes = (static_cast<double>(run.experts_used()) * of_expert + of_all) * format_bytes(format);
  run.flops = 2 * (rows * of_expert + tokens * (of_all + router));
}

struct Expected {
  Activations output;
  std::vector<std::int64_t> expert;
};

struct LayerTask {
  std::int32_t layer = 0;
  Activations x;
  std::vector<std::int64_t> token_ids;  // empty: the layer does not ask for them
  std::optional<Expected> expected;
};

LayerRun forward_layer(const Layer& layer, const LayerTask& task) {
  const Activations& x = task.x;
  LayerRun run;
  run.layer = task.layer;
  run.tokens = x.tokens;
  run.dtype = x.dtype;
  run.output.resize(static_cast<std::size_t>(x.tokens * x.hidden) * dtype_bytes(x.dtype));
  const Workspace workspace(layer.workspace_bytes(x.tokens));
  const Matrix y(run.output.data(), x.dtype, x.tokens, x.hidden);
  RouteInputs inputs;
  if (!task.token_ids.empty()) inputs.token_id = {task.token_ids.data(), DType::i64};
  ForwardResult result;
  run.ms = fastest_ms([&] { result = layer.forward(x.matrix(), y, workspace, inputs); });
  run.path = result.path;
  run.topk = result.routing.topk;
  const auto slots = static_cast<std::size_t>(x.tokens * run.topk);
  run.expert.assign(result.routing.expert, result.routing.expert + slots);
  run.weight.assign(result.routing.weight, result.routing.weight + slots);
  return run;
}

float element(const void* data, DType dtype, std::int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(data)[i]) << 16);
}

void compare_outputs(const LayerRun& run, const Activations& expected, Comparison& comparison) {
  double largest = 0;
  double difference = 0;
  for (std::int64_t i = 0; i < expected.tokens * expected.hidden; ++i) {
    const double have = element(run.output.data(), run.dtype, i);
    const double want = element(expected.data, expected.dtype, i);
    if (!std::isfinite(have) || !std::isfinite(want)) {
      ++comparison.not_finite;
      continue;
    }
    largest = std::max(largest, std::abs(want));
    difference = std::max(difference, std::abs(have - want));
  }
  comparison.difference = difference == 0 ? 0 : difference / largest;
}

std::int64_t count_same_sets(const LayerRun& run, std::vector<std::int64_t> expected) {
  std::vector<std::int64_t> have(run.expert.begin(), run.expert.end());
  std::int64_t same = 0;
  for (std::int64_t token = 0; token < run.tokens; ++token) {
    const auto h = have.begin() + token * run.topk;
    const auto e = expected.begin() + token * run.topk;
    std::sort(h, h + run.topk);
    std::sort(e, e + run.topk);
    same += std::equal(h, h + run.topk, e) ? 1 : 0;
  }
  return same;
}

// Of a layer that takes its experts from a table.
std::vector<std::int64_t> read_token_ids(const RunOptions& options, const InputFile& input, std::int32_t layer,
                                         std::int64_t tokens) {
  const std::string name = fmt::format("layer.{}.token_ids", layer);
  if (input.is_npy() || !input.has(name)) {
    throw Error(Code::bad_data, fmt::format("run: {}: layer {} looks its experts up by token id, expected a tensor {}",
                                            options.input.string(), layer, name));
  }
  return input.token_ids(name, tokens);
}

std::vector<LayerTask> plan_tasks(const RunOptions& options, const ModelInfo& model, const InputFile& input) {
  if (!model.unsupported.empty()) {
    throw Error(Code::not_supported,
                fmt::format("run: {}: {}", options.model.string(), fmt::join(model.unsupported, "; ")));
  }
  if (options.expect && !model.outside.empty()) {
    throw Error(Code::not_supported,
                fmt::format("run: {}: its blocks end with {}, which is left to the caller, expected no --expect",
                            options.model.string(), model.outside));
  }
  std::vector<LayerTask> tasks;
  for (const std::int32_t layer : choose_layers(options, model, input)) {
    LayerTask task{layer, input.activations(input_name(options, layer), model.hidden), {}, {}};
    if (std::binary_search(model.table_layers.begin(), model.table_layers.end(), layer)) {
      task.token_ids = read_token_ids(options, input, layer, task.x.tokens);
    }
    if (options.expect) {
      const std::string output = fmt::format("layer.{}.output", layer);
      task.expected = Expected{input.activations(output, model.hidden),
                               input.experts(fmt::format("layer.{}.expert", layer), task.x.tokens, model.router.topk)};
      if (task.expected->output.tokens != task.x.tokens) {
        throw Error(Code::bad_data, fmt::format("run: {}: {} has {} tokens, expected {}", options.input.string(),
                                                output, task.expected->output.tokens, task.x.tokens));
      }
    }
    tasks.push_back(std::move(task));
  }
  return tasks;
}

// An .npy file has room for one array of f32.
void check_output(const std::filesystem::path& path, const std::vector<LayerTask>& tasks) {
  if (path.extension() != ".npy") return;
  if (tasks.size() != 1) {
    throw Error(Code::invalid_argument,
                fmt::format("run: {}: {} layers for an .npy output, expected one, named with --layer", path.string(),
                            tasks.size()));
  }
  if (tasks.front().x.dtype != DType::f32) {
    throw Error(Code::not_supported,
                fmt::format("run: {}: npy has no {}, the type of the input, expected a .safetensors output",
                            path.string(), dtype_name(tasks.front().x.dtype)));
  }
}

Comparison compare(const LayerRun& run, const Expected& expected, DType activations) {
  Comparison comparison;
  // An output that was rounded to bf16 cannot be closer than that.
  const bool exact = activations == DType::f32 && run.dtype == DType::f32;
  comparison.tolerance = exact ? kToleranceF32 : kToleranceBf16;
  compare_outputs(run, expected.output, comparison);
  comparison.same_sets = count_same_sets(run, expected.expert);
  return comparison;
}

}  // namespace

double expert_elements(const ModelInfo& model) {
  const double matrices = model.function.gated ? 3 : 2;
  return matrices * static_cast<double>(model.latent > 0 ? model.latent : model.hidden) *
         static_cast<double>(model.ffn);
}

double common_elements(const ModelInfo& model) {
  const double matrices = model.shared_function.gated ? 3 : 2;
  const double columns = matrices * static_cast<double>(model.shared_ffn) + 2 * static_cast<double>(model.latent);
  return columns * static_cast<double>(model.hidden);
}

std::int64_t LayerRun::experts_used() const {
  return std::count_if(load.begin(), load.end(), [](std::int64_t rows) { return rows > 0; });
}

std::int64_t LayerRun::max_load() const { return load.empty() ? 0 : *std::max_element(load.begin(), load.end()); }

double LayerRun::mean_load() const {
  const std::int64_t rows = std::accumulate(load.begin(), load.end(), std::int64_t{0});
  return load.empty() ? 0 : static_cast<double>(rows) / static_cast<double>(load.size());
}

bool ModelRun::holds() const {
  return std::all_of(layers.begin(), layers.end(),
                     [](const LayerRun& layer) { return !layer.comparison || layer.comparison->holds(); });
}

LayerOptions layer_options(const ModelInfo& model, DType dtype, std::optional<Format> weights, int threads) {
  LayerOptions options;
  const bool bf16 = model.weights == DType::bf16 && (model.shared_ffn == 0 || model.shared_weights == DType::bf16);
  const bool narrow = dtype == DType::bf16 || bf16;
  options.format = weights.value_or(narrow ? Format::bf16 : Format::f32);
  options.activations = dtype;
  options.threads = Threads::pool(threads);
  return options;
}

ModelRun run_layers(const RunOptions& options) {
  const InputFile input(options.input);
  const Model model = Model::open(options.model);
  ModelRun run;
  run.model = model.info();
  run.activations = options.dtype;
  LayerOptions made = layer_options(run.model, options.dtype, options.weights, options.threads);
  made.router = options.router;
  run.format = made.format;
  run.threads = made.threads.count();
  const std::vector<LayerTask> tasks = plan_tasks(options, run.model, input);
  check_output(options.output, tasks);

  for (const LayerTask& task : tasks) {
    const Layer layer = load_layer(model, task.layer, made, options.cache);
    run.router = *layer.options().router;
    LayerRun result = forward_layer(layer, task);
    count_work(run.model, run.format, result);
    if (task.expected) result.comparison = compare(result, *task.expected, options.dtype);
    if (options.output.empty()) std::vector<std::byte>().swap(result.output);
    run.layers.push_back(std::move(result));
  }
  return run;
}

void check_expectation(const ModelRun& run) {
  for (const LayerRun& layer : run.layers) {
    if (!layer.comparison || layer.comparison->holds()) continue;
    const Comparison& comparison = *layer.comparison;
    if (comparison.not_finite > 0) {
      throw Error(Code::mismatch, fmt::format("run: layer {}: {} elements of the output or what was expected of it are "
                                              "not finite, expected none",
                                              layer.layer, comparison.not_finite));
    }
    throw Error(Code::mismatch,
                fmt::format("run: layer {}: largest difference {:.1e} of the largest value, expected at most {:.0e}",
                            layer.layer, comparison.difference, comparison.tolerance));
  }
}

std::string agreement_text(const ModelRun& run) {
  double difference = 0;
  std::int64_t same = 0;
  std::int64_t tokens = 0;
  for (const LayerRun& layer : run.layers) {
    if (!layer.comparison) return "";
    difference = std::max(difference, layer.comparison->difference);
    same += layer.comparison->same_sets;
    tokens += layer.tokens;
  }
  return fmt::format("as expected: outputs within {:.1e} of the largest value, the same experts for {} of {} tokens\n",
                     difference, same, tokens);
}

std::string facts_text(const ModelRun& run) {
  const ModelInfo& model = run.model;
  std::string text =
      fmt::format("model  {}, {} of {} layers with experts: E {}, K {}, H {}, F {}", model.model_type,
                  model.moe_layers.size(), model.layers, model.experts, model.router.topk, model.hidden, model.ffn);
  if (model.shared_ffn > 0) text += fmt::format(", shared expert F {}", model.shared_ffn);
  text += fmt::format("\nrun    {} weights, {} activations, {} router, {}, {} thread{}\n", format_name(run.format),
                      dtype_name(run.activations), dtype_name(run.router), isa_name(current_isa()), run.threads,
                      run.threads == 1 ? "" : "s");
  return text;
}

std::vector<std::string> layer_columns(const ModelRun& run) {
  std::vector<std::string> columns{"layer",        "tokens", "experts used", "max/mean load",
                                   "weights read", "time",   "GB/s",         "GFLOP/s"};
  if (!run.layers.empty() && run.layers.front().comparison) {
    columns.insert(columns.end(), {"difference", "same experts"});
  }
  return columns;
}

std::vector<std::string> layer_cells(const LayerRun& layer) {
  const double mean = layer.mean_load();
  std::vector<std::string> cells{fmt::format("{}", layer.layer),
                                 fmt::format("{}", layer.tokens),
                                 fmt::format("{} of {}", layer.experts_used(), layer.load.size()),
                                 mean > 0 ? fmt::format("{:.2f}", static_cast<double>(layer.max_load()) / mean) : "-",
                                 bytes_text(layer.weight_bytes),
                                 time_text(layer.ms),
                                 fmt::format("{:.2f}", layer.gbps()),
                                 fmt::format("{:.2f}", layer.gflops())};
  if (const auto& comparison = layer.comparison) {
    cells.push_back(comparison->not_finite > 0 ? fmt::format("{} not finite", comparison->not_finite)
                                               : fmt::format("{:.1e}", comparison->difference));
    cells.push_back(fmt::format("{} of {}", comparison->same_sets, layer.tokens));
  }
  return cells;
}

std::string layers_text(const ModelRun& run) {
  TextTable table(layer_columns(run));
  for (const LayerRun& layer : run.layers) table.add(layer_cells(layer));
  return table.text();
}

}  // namespace switchyard::cli
