#include "bench_layer.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "random_layer.hpp"
#include "switchyard/error.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kMaxCopyBytes = 6.0 * (1 << 30);
constexpr double kDefaultCacheBytes = 32.0 * (1 << 20);  // where the system does not say
constexpr int kMaxCopies = 1000;
constexpr int kMinRounds = 7;
constexpr int kMaxRounds = 301;
// Each call begins at another row of x, so that it routes otherwise.
constexpr std::int64_t kShifts = 251;

double last_level_cache_bytes() {
  for (const int name : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE}) {
    const long bytes = ::sysconf(name);
    if (bytes > 0) return static_cast<double>(bytes);
  }
  return kDefaultCacheBytes;
}

// Memory that is free for the taking; without the file that says so, what is there in all.
double available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    double kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lf", &kib) == 1) return kib * 1024;
  }
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

double expert_bytes(const BenchConfig& config, DType dtype) {
  return 3 * static_cast<double>(config.hidden) * static_cast<double>(config.ffn) *
         static_cast<double>(dtype_bytes(dtype));
}

// Bytes of expert weights that a batch uses, expected for experts chosen at random.
double expected_bytes(const BenchConfig& config, DType dtype, std::int64_t tokens) {
  const double unused = std::pow(1 - static_cast<double>(config.topk) / config.experts, static_cast<double>(tokens));
  return expert_bytes(config, dtype) * config.experts * (1 - unused);
}

// As many copies as calls, one after the other in any place of the cycle, use far more weights than the caches hold.
int copies_wanted(const BenchConfig& config, DType dtype, const std::vector<std::int64_t>& tokens) {
  const double enough = 4 * last_level_cache_bytes();
  int copies = 1;
  for (std::size_t first = 0; first < tokens.size(); ++first) {
    double used = 0;
    int calls = 0;
    for (; used < enough && calls < kMaxCopies; ++calls) {
      used += expected_bytes(config, dtype, tokens[(first + static_cast<std::size_t>(calls)) % tokens.size()]);
    }
    copies = std::max(copies, calls);
  }
  return copies;
}

int copies_for(const BenchConfig& config, DType dtype, const std::vector<std::int64_t>& tokens) {
  const double layer = expert_bytes(config, dtype) * config.experts;
  const double memory = available_bytes();
  if (layer > 0.8 * memory) {
    throw Error(Code::out_of_memory, fmt::format("bench: config {} needs {}, available are {}", config.name,
                                                 bytes_text(layer), bytes_text(memory)));
  }
  const double possible = std::floor(std::min(kMaxCopyBytes, memory / 2) / layer);
  return static_cast<int>(std::clamp<double>(copies_wanted(config, dtype, tokens), 1, std::max(possible, 1.0)));
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
  double bytes = 0;  // of the weights of the experts that were used
};

// What was measured for one config, type and number of tokens.
struct Series {
  BenchConfig config;
  DType dtype = DType::f32;
  std::int64_t tokens = 0;
  Path path = Path::grouped;
  std::vector<Sample> samples;

  double flops() const {
    const auto hidden = static_cast<double>(config.hidden);
    const double per_token = 3 * static_cast<double>(config.ffn) * config.topk + config.experts;
    return 2 * static_cast<double>(tokens) * hidden * per_token;
  }

  template <class Value>
  double median(const Value& value) const {
    std::vector<double> values;
    for (const Sample& sample : samples) values.push_back(value(sample));
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
  }
};

// All copies of one layer, and what its forwards read and write.
class Bench {
 public:
  Bench(const BenchConfig& config, DType dtype, const std::vector<std::int64_t>& tokens, const Threads& threads)
      : config_(config), dtype_(dtype), tokens_(tokens), seen_(static_cast<std::size_t>(config.experts)) {
    const std::int64_t most_tokens = *std::max_element(tokens.begin(), tokens.end());
    const RandomLayers layers({config.hidden, config.ffn, config.experts, config.topk}, dtype, threads);
    const int copies = copies_for(config, dtype, tokens);
    for (int i = 0; i < copies; ++i) copies_.push_back(layers.make());
    const auto x_elements = static_cast<std::size_t>((most_tokens + kShifts) * config.hidden);
    x_ = random_values(x_elements, dtype, std::sqrt(3.0), 3, threads);
    y_.resize(static_cast<std::size_t>(most_tokens * config.hidden) * dtype_bytes(dtype));
    workspace_ = Workspace(copies_.front().workspace_bytes(most_tokens));
  }

  // All numbers of tokens in turn, so that what disturbs the machine disturbs them alike.
  std::vector<Series> measure(double seconds) {
    std::vector<Series> all;
    for (const std::int64_t count : tokens_) {
      all.push_back({config_, dtype_, count, Path::grouped, {}});
      forward(all.back());
      all.back().samples.clear();  // the first touch of the memory
    }
    const auto start = Clock::now();
    for (int round = 0; round < kMaxRounds; ++round) {
      const double spent = std::chrono::duration<double>(Clock::now() - start).count();
      if (round >= kMinRounds && spent > seconds) break;
      for (Series& series : all) forward(series);
    }
    return all;
  }

 private:
  void forward(Series& series) {
    const Layer& layer = copies_[calls_ % copies_.size()];
    const auto shift = static_cast<std::int64_t>(calls_ * 37) % kShifts;
    const std::byte* x = x_.data() + static_cast<std::size_t>(shift * config_.hidden) * dtype_bytes(dtype_);
    ++calls_;
    const auto start = Clock::now();
    const ForwardResult result = layer.forward({x, dtype_, series.tokens, config_.hidden},
                                               {y_.data(), dtype_, series.tokens, config_.hidden}, workspace_);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    series.path = result.path;
    series.samples.push_back({seconds, distinct_experts(result.routing, seen_) * expert_bytes(config_, dtype_)});
  }

  BenchConfig config_;
  DType dtype_;
  std::vector<std::int64_t> tokens_;
  std::vector<char> seen_;
  std::vector<Layer> copies_;
  std::vector<std::byte> x_;
  std::vector<std::byte> y_;
  Workspace workspace_;
  std::size_t calls_ = 0;
};

BenchRow make_row(const Series& series, const Roofline& probe) {
  const bool bf16_unit = series.dtype == DType::bf16 && probe.bf16_gflops > 0;
  const double peak = (bf16_unit ? probe.bf16_gflops : probe.fma_gflops) * 1e9;
  const double flops = series.flops();
  BenchRow row;
  row.config = series.config.name;
  row.tokens = series.tokens;
  row.weights = series.dtype == DType::bf16 ? Format::bf16 : Format::f32;
  row.isa = probe.isa;
  row.threads = probe.threads;
  row.path = series.path;
  row.ms = series.median([](const Sample& s) { return s.seconds * 1e3; });
  row.gflops = series.median([&](const Sample& s) { return flops / s.seconds / 1e9; });
  row.gbps = series.median([](const Sample& s) { return s.bytes / s.seconds / 1e9; });
  row.roofline = series.median(
      [&](const Sample& s) { return std::max(s.bytes / (probe.dram_gbps * 1e9), flops / peak) / s.seconds; });
  return row;
}

Roofline better(Roofline one, const Roofline& other) {
  one.fma_gflops = std::max(one.fma_gflops, other.fma_gflops);
  one.bf16_gflops = std::max(one.bf16_gflops, other.bf16_gflops);
  one.vnni_gops = std::max(one.vnni_gops, other.vnni_gops);
  one.dram_gbps = std::max(one.dram_gbps, other.dram_gbps);
  one.cache_gbps = std::max(one.cache_gbps, other.cache_gbps);
  return one;
}

}  // namespace

BenchResult bench_layers(const BenchRequest& request) {
  const Threads threads = Threads::pool(request.threads);
  const Roofline before = probe_roofline(threads);
  std::vector<Series> all;
  for (const BenchConfig& config : request.configs) {
    for (const DType dtype : request.dtypes) {
      Bench bench(config, dtype, request.tokens, threads);
      std::vector<Series> measured = bench.measure(request.seconds);
      std::move(measured.begin(), measured.end(), std::back_inserter(all));
    }
  }
  BenchResult result{better(before, probe_roofline(threads)), {}};
  for (const Series& series : all) result.rows.push_back(make_row(series, result.probe));
  return result;
}

std::string probe_text(const Roofline& probe) {
  std::string text = fmt::format("probe  {}, {} thread{}: {:.1f} GB/s memory, {:.0f} GFLOP/s f32", isa_name(probe.isa),
                                 probe.threads, probe.threads == 1 ? "" : "s", probe.dram_gbps, probe.fma_gflops);
  if (probe.bf16_gflops > 0) text += fmt::format(", {:.0f} bf16", probe.bf16_gflops);
  return text;
}

std::vector<std::string> bench_columns() {
  return {"config", "tokens", "weights", "isa", "threads", "path", "ms", "GFLOP/s", "GB/s", "of roofline"};
}

std::vector<std::string> bench_cells(const BenchRow& row) {
  return {row.config,
          fmt::format("{}", row.tokens),
          format_name(row.weights),
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
