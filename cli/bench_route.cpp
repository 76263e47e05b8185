#include "bench_route.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "bench_machine.hpp"
#include "plain_route.hpp"
#include "random_layer.hpp"
#include "route_outputs.hpp"
#include "switchyard/error.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr double kMaxPoolBytes = 1.0 * (1 << 30);
// Few logits have just left the router's GEMM and stand in a cache; many come from memory.
constexpr double kWarmBytes = 64.0 * (1 << 10);
constexpr std::int64_t kWarmCalls = 4;
constexpr double kLogitScale = 4;  // uniform in -4..4
constexpr double kBiasScale = 0.1;
constexpr double kEnoughSeconds = 20e-6;  // for one reading of the clock not to matter
constexpr int kMaxCalls = 1000;
constexpr double kEnoughAgreement = 0.99;  // the last bit of a score may decide otherwise
constexpr std::int32_t kBins = 64;

struct Sample {
  double seconds = 0;
  double plain_seconds = 0;
  double read_seconds = 0;  // reading the logits at the bandwidth of the moment
};

struct Series {
  RouteBenchCase config;
  std::int64_t tokens = 0;
  std::int64_t rows = 0;  // of logits that its calls walk through
  int calls = 1;          // per sample
  std::vector<Sample> samples;
};

double row_bytes(const RouteBenchCase& config) {
  return static_cast<double>(config.experts) * static_cast<double>(dtype_bytes(config.dtype));
}

// Rows of logits that calls with so many tokens walk through: those of a few calls, or far more than the caches hold.
std::int64_t pool_rows(const RouteBenchCase& config, std::int64_t tokens) {
  if (static_cast<double>(tokens) * row_bytes(config) <= kWarmBytes) return tokens * kWarmCalls;
  const double wanted =
      std::min({4 * static_cast<double>(processor_caches().l3_bytes), kMaxPoolBytes, available_bytes() / 4});
  return std::max(static_cast<std::int64_t>(wanted / row_bytes(config)), tokens);
}

// One case: its logits, and what routing them writes.
class RouteBench {
 public:
  RouteBench(const RouteBenchCase& config, const RouteBenchRequest& request, const Threads& threads)
      : config_(config), router_(config.router), threads_(threads) {
    const std::int64_t most = *std::max_element(request.tokens.begin(), request.tokens.end());
    std::int64_t rows = 0;
    for (const std::int64_t tokens : request.tokens) {
      series_.push_back({config, tokens, pool_rows(config, tokens), 1, {}});
      rows = std::max(rows, series_.back().rows);
    }
    logits_ = random_values(static_cast<std::size_t>(rows * config.experts), config.dtype, kLogitScale, 5, threads);
    if (config.selection_bias) {
      bias_ = random_values(static_cast<std::size_t>(config.experts), DType::f32, kBiasScale, 6, threads);
      router_.selection_bias = {bias_.data(), DType::f32};
    }
    workspace_ = Workspace(route_workspace_bytes(most, config.experts, 1, threads));
    memory_.emplace(request.outputs, RouteSizes{most, config.experts, config.router.topk, 1, kBins}, DType::i32,
                    DType::f32);
    memory_->outputs.qb_lower = -1;
    memory_->outputs.qb_upper = 1;
    plain_expert_.resize(static_cast<std::size_t>(most * config.router.topk));
    plain_weight_.resize(plain_expert_.size());
    check_agreement(most);
    for (Series& series : series_) prepare(series);
  }

  // All numbers of tokens and both codes in turn, so that what disturbs the machine disturbs them alike.
  std::vector<Series> measure(const RouteBenchRequest& request, MachineRates& rates) {
    for (Rounds rounds(request.seconds, request.repeat); rounds.next();) {
      const double rate = rates.now().dram_gbps * 1e9;
      for (Series& series : series_) {
        Sample sample;
        sample.read_seconds = static_cast<double>(series.tokens) * row_bytes(config_) / rate;
        time(series, [&](ConstMatrix logits) { run(logits); });  // wakes the threads
        sample.seconds = time(series, [&](ConstMatrix logits) { run(logits); });
        sample.plain_seconds = time(series, [&](ConstMatrix logits) { run_plain(logits); });
        series.samples.push_back(sample);
      }
    }
    return std::move(series_);
  }

 private:
  void run(ConstMatrix logits) { switchyard::route(logits, router_, {}, memory_->outputs, workspace_, threads_); }

  void run_plain(ConstMatrix logits) {
    plain_route(logits, router_, plain_expert_.data(), plain_weight_.data(), threads_);
  }

  ConstMatrix logits_at(std::int64_t row, std::int64_t tokens) const {
    const auto bytes = static_cast<std::size_t>(row * config_.experts) * dtype_bytes(config_.dtype);
    return {logits_.data() + bytes, config_.dtype, tokens, config_.experts};
  }

  ConstMatrix next_logits(const Series& series) {
    if (at_ + series.tokens > series.rows) at_ = 0;
    const ConstMatrix logits = logits_at(at_, series.tokens);
    at_ += series.tokens;
    return logits;
  }

  // Seconds of one call, over as many calls as the series says.
  template <class Call>
  double time(const Series& series, const Call& call) {
    const auto start = BenchClock::now();
    for (int i = 0; i < series.calls; ++i) call(next_logits(series));
    return seconds_since(start) / series.calls;
  }

  void prepare(Series& series) {
    time(series, [&](ConstMatrix logits) { run(logits); });  // the first touch of the memory
    const double seconds = time(series, [&](ConstMatrix logits) { run(logits); });
    series.calls = static_cast<int>(std::clamp(kEnoughSeconds / seconds, 1.0, static_cast<double>(kMaxCalls)));
  }

  // What is wrong has no speed.
  void check_agreement(std::int64_t tokens) {
    const auto topk = static_cast<std::size_t>(config_.router.topk);
    std::vector<std::int32_t> expert(plain_expert_.size());
    RouteOutputs outputs;
    outputs.expert = {expert.data(), DType::i32};
    const ConstMatrix logits = logits_at(0, tokens);
    switchyard::route(logits, router_, {}, outputs, workspace_, threads_);
    run_plain(logits);
    std::int64_t same = 0;
    for (std::size_t first = 0; first < expert.size(); first += topk) {
      const auto mine = expert.begin() + static_cast<std::ptrdiff_t>(first);
      const auto theirs = plain_expert_.begin() + static_cast<std::ptrdiff_t>(first);
      const auto count = static_cast<std::ptrdiff_t>(topk);
      std::sort(mine, mine + count);
      std::sort(theirs, theirs + count);
      same += std::equal(mine, mine + count, theirs) ? 1 : 0;
    }
    if (static_cast<double>(same) < kEnoughAgreement * static_cast<double>(tokens)) {
      throw Error(Code::mismatch, fmt::format("bench: {}: plain code chooses the same experts for {} of {} tokens, "
                                              "expected at least {:.0f} %",
                                              config_.name, same, tokens, 100 * kEnoughAgreement));
    }
  }

  RouteBenchCase config_;
  RouterOptions router_;
  Threads threads_;
  std::int64_t at_ = 0;
  std::vector<std::byte> logits_;
  std::vector<std::byte> bias_;
  Workspace workspace_;
  std::optional<RouteMemory> memory_;
  std::vector<std::int32_t> plain_expert_;
  std::vector<float> plain_weight_;
  std::vector<Series> series_;
};

RouteBenchRow make_row(const Series& series, const Roofline& probe) {
  RouteBenchRow row;
  row.config = series.config;
  row.tokens = series.tokens;
  row.isa = probe.isa;
  row.threads = probe.threads;
  row.ms = 1e3 * median(series.samples, [](const Sample& s) { return s.seconds; });
  row.plain_ms = 1e3 * median(series.samples, [](const Sample& s) { return s.plain_seconds; });
  row.read_ms = 1e3 * median(series.samples, [](const Sample& s) { return s.read_seconds; });
  return row;
}

}  // namespace

RouteBenchResult bench_routes(const RouteBenchRequest& request) {
  const Threads threads = Threads::pool(request.threads);
  MachineRates rates(threads);
  std::vector<Series> all;
  for (const RouteBenchCase& config : request.cases) {
    RouteBench bench(config, request, threads);
    std::vector<Series> measured = bench.measure(request, rates);
    std::move(measured.begin(), measured.end(), std::back_inserter(all));
  }
  RouteBenchResult result{rates.median(), {}};
  for (const Series& series : all) result.rows.push_back(make_row(series, result.probe));
  return result;
}

std::string bench_text(const RouteBenchResult& result) {
  TextTable table({"router", "logits", "E", "K", "tokens", "time", "ns/token", "x reading", "plain", "x plain"});
  for (const RouteBenchRow& row : result.rows) {
    table.add({row.config.name, dtype_name(row.config.dtype), fmt::format("{}", row.config.experts),
               fmt::format("{}", row.config.router.topk), fmt::format("{}", row.tokens), time_text(row.ms),
               fmt::format("{:.1f}", row.ns_per_token()), fmt::format("{:.2f}", row.of_reading()),
               time_text(row.plain_ms), fmt::format("{:.3f}", row.of_plain())});
  }
  return probe_text(result.probe) + "\n\n" + table.text();
}

}  // namespace switchyard::cli
