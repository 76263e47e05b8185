#include "bench_layer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench_machine.hpp"
#include "random_layer.hpp"
#include "switchyard/error.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr double kMaxCopyBytes = 6.0 * (1 << 30);
constexpr int kMaxCopies = 1000;
// Each call begins at another row of x, so that it routes otherwise.
constexpr std::int64_t kShifts = 251;

// Packed.
double expert_bytes(const BenchConfig& config, Format format) {
  return static_cast<double>(ExpertWeights({1, config.hidden, config.ffn, {}}, format).bytes());
}

// Bytes of expert weights that a batch uses, expected for experts chosen at random.
double expected_bytes(const BenchConfig& config, double expert_bytes, std::int64_t tokens) {
  const double unused = std::pow(1 - static_cast<double>(config.topk) / config.experts, static_cast<double>(tokens));
  return expert_bytes * config.experts * (1 - unused);
}

// As many copies as calls, one after the other in any place of the cycle, use far more weights than the caches hold.
int copies_wanted(const BenchConfig& config, double expert_bytes, const std::vector<std::int64_t>& tokens) {
  const double enough = 4 * static_cast<double>(processor_caches().l3_bytes);
  int copies = 1;
  for (std::size_t first = 0; first < tokens.size(); ++first) {
    double used = 0;
    int calls = 0;
    for (; used < enough && calls < kMaxCopies; ++calls) {
      used += expected_bytes(config, expert_bytes, tokens[(first + static_cast<std::size_t>(calls)) % tokens.size()]);
    }
    copies = std::max(copies, calls);
  }
  return copies;
}

int copies_for(const BenchConfig& config, double expert_bytes, const std::vector<std::int64_t>& tokens) {
  const double layer = expert_bytes * config.experts;
  const double memory = available_bytes();
  if (layer > 0.8 * memory) {
    throw Error(Code::out_of_memory, fmt::format("bench: config {} needs {}, available are {}", config.name,
                                                 bytes_text(layer), bytes_text(memory)));
  }
  const double possible = std::floor(std::min(kMaxCopyBytes, memory / 2) / layer);
  return static_cast<int>(std::clamp<double>(copies_wanted(config, expert_bytes, tokens), 1, std::max(possible, 1.0)));
}

double distinct_experts(const Routing& routing, std::vector<char>& seen) {
  std::fill(seen.begin(), seen.end(), 0);
  double distinct = 0;
  for (std::int64_t i = 0; i < routing.tokens * routing.topk; ++i) {
    if (routing.expert[i] < 0) continue;
    char& mark = seen[static_cast<std::size_t>(routing.expert[i])];
    distinct += mark == 0 ? 1 : 0;
    mark = 1;
  }
  return distinct;
}

struct Sample {
  double seconds = 0;
  double bytes = 0;    // of the weights of the experts that were used
  double allowed = 0;  // seconds that the machine's rates of the moment allow
};

// What was measured for one config, format and number of tokens.
struct Series {
  BenchConfig config;
  Format format = Format::f32;
  DType dtype = DType::f32;
  std::int64_t tokens = 0;
  Path path = Path::grouped;
  std::vector<Sample> samples;

  double flops() const {
    const auto hidden = static_cast<double>(config.hidden);
    const double per_token = 3 * static_cast<double>(config.ffn) * config.topk + config.experts;
    return 2 * static_cast<double>(tokens) * hidden * per_token;
  }

  DType activations() const { return takes_bf16_activations(format) ? dtype : DType::f32; }

  // Of the unit that the format could use: integers without a unit for them count as f32.
  double peak(const Roofline& machine) const {
    const bool integer = format == Format::i8 || format == Format::i4;
    const double unit = integer ? machine.vnni_gops : activations() == DType::bf16 ? machine.bf16_gflops : 0;
    return (unit > 0 ? unit : machine.fma_gflops) * 1e9;
  }
};

// All copies of one layer, and what its forwards read and write.
class Bench {
 public:
  Bench(const BenchConfig& config, Format format, DType dtype, const std::vector<std::int64_t>& tokens,
        const Threads& threads)
      : config_(config),
        format_(format),
        dtype_(dtype),
        expert_bytes_(expert_bytes(config, format)),
        tokens_(tokens),
        seen_(static_cast<std::size_t>(config.experts)) {
    const std::int64_t most_tokens = *std::max_element(tokens.begin(), tokens.end());
    const RandomLayers layers({config.hidden, config.ffn, config.experts, config.topk}, format, dtype, threads);
    const int copies = copies_for(config, expert_bytes_, tokens);
    for (int i = 0; i < copies; ++i) copies_.push_back(layers.make());
    const auto x_elements = static_cast<std::size_t>((most_tokens + kShifts) * config.hidden);
    x_ = random_values(x_elements, dtype, std::sqrt(3.0), 3, threads);
    y_.resize(static_cast<std::size_t>(most_tokens * config.hidden) * dtype_bytes(dtype));
    workspace_ = Workspace(copies_.front().workspace_bytes(most_tokens));
  }

  // All numbers of tokens in turn, and the machine's rates, so that what disturbs the machine disturbs them alike. The
  // seconds are those of all of it.
  std::vector<Series> measure(double seconds, MachineRates& rates) {
    std::vector<Series> all;
    for (const std::int64_t count : tokens_) {
      all.push_back({config_, format_, dtype_, count, Path::grouped, {}});
      forward(all.back());  // the first touch of the memory
    }
    for (Rounds rounds(seconds, 0); rounds.next();) {
      const Roofline& machine = rates.now();
      forward(all.front());  // wakes the threads
      for (Series& series : all) series.samples.push_back(sample(series, machine));
    }
    return all;
  }

 private:
  Sample sample(Series& series, const Roofline& machine) {
    Sample sample = forward(series);
    sample.allowed = std::max(sample.bytes / (machine.dram_gbps * 1e9), series.flops() / series.peak(machine));
    return sample;
  }

  Sample forward(Series& series) {
    const Layer& layer = copies_[calls_ % copies_.size()];
    const auto shift = static_cast<std::int64_t>(calls_ * 37) % kShifts;
    const std::byte* x = x_.data() + static_cast<std::size_t>(shift * config_.hidden) * dtype_bytes(dtype_);
    ++calls_;
    const auto start = BenchClock::now();
    const ForwardResult result = layer.forward({x, dtype_, series.tokens, config_.hidden},
                                               {y_.data(), dtype_, series.tokens, config_.hidden}, workspace_);
    const double seconds = seconds_since(start);
    series.path = result.path;
    return {seconds, distinct_experts(result.routing, seen_) * expert_bytes_, 0};
  }

  BenchConfig config_;
  Format format_;
  DType dtype_;
  double expert_bytes_;
  std::vector<std::int64_t> tokens_;
  std::vector<char> seen_;
  std::vector<Layer> copies_;
  std::vector<std::byte> x_;
  std::vector<std::byte> y_;
  Workspace workspace_;
  std::size_t calls_ = 0;
};

BenchRow make_row(const Series& series, const Roofline& probe) {
  const double flops = series.flops();
  BenchRow row;
  row.config = series.config.name;
  row.tokens = series.tokens;
  row.weights = series.format;
  row.activations = series.activations();
  row.isa = probe.isa;
  row.threads = probe.threads;
  row.path = series.path;
  row.ms = median(series.samples, [](const Sample& s) { return s.seconds * 1e3; });
  row.gflops = median(series.samples, [&](const Sample& s) { return flops / s.seconds / 1e9; });
  row.gbps = median(series.samples, [](const Sample& s) { return s.bytes / s.seconds / 1e9; });
  row.roofline = median(series.samples, [](const Sample& s) { return s.allowed / s.seconds; });
  return row;
}

}  // namespace

BenchResult bench_layers(const BenchRequest& request) {
  const Threads threads = Threads::pool(request.threads);
  MachineRates rates(threads);
  std::vector<Series> all;
  for (const BenchConfig& config : request.configs) {
    for (const Format format : request.formats) {
      const DType dtype = request.dtype.value_or(usual_dtype(format));
      Bench bench(config, format, dtype, request.tokens, threads);
      std::vector<Series> measured = bench.measure(request.seconds, rates);
      std::move(measured.begin(), measured.end(), std::back_inserter(all));
    }
  }
  BenchResult result{rates.median(), {}};
  for (const Series& series : all) result.rows.push_back(make_row(series, result.probe));
  return result;
}

std::vector<std::string> bench_columns() {
  return {"config", "tokens", "weights", "activations", "isa",        "threads",
          "path",   "ms",     "GFLOP/s", "GB/s",        "of roofline"};
}

std::vector<std::string> bench_cells(const BenchRow& row) {
  return {row.config,
          fmt::format("{}", row.tokens),
          format_name(row.weights),
          dtype_name(row.activations),
          isa_name(row.isa),
          fmt::format("{}", row.threads),
          path_name(row.path),
          fmt::format("{:.3f}", row.ms),
          fmt::format("{:.1f}", row.gflops),
          fmt::format("{:.1f}", row.gbps),
          fmt::format("{:.0f} %", row.roofline * 100)};
}

std::string bench_text(const BenchResult& result) {
  TextTable table(bench_columns());
  for (const BenchRow& row : result.rows) table.add(bench_cells(row));
  return probe_text(result.probe) + "\n\n" + table.text();
}

}  // namespace switchyard::cli
