#include "bench_machine.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr int kMinRounds = 7;
constexpr int kMaxRounds = 301;
constexpr double kRatesSeconds = 0.1;

}  // namespace

double available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    double kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lf", &kib) == 1) return kib * 1024;
  }
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

const Roofline& MachineRates::now() {
  if (samples_.empty() || seconds_since(last_) > kRatesSeconds) {
    samples_.push_back(probe_.sample());
    last_ = BenchClock::now();
  }
  return samples_.back();
}

Roofline MachineRates::median() const {
  Roofline found = samples_.front();
  for (double Roofline::*rate : kRooflineRates) {
    found.*rate = cli::median(samples_, [rate](const Roofline& sample) { return sample.*rate; });
  }
  return found;
}

std::string probe_text(const Roofline& probe) {
  std::string text = fmt::format("probe  {}, {} thread{}: {:.1f} GB/s memory, {:.0f} GFLOP/s f32", isa_name(probe.isa),
                                 probe.threads, probe.threads == 1 ? "" : "s", probe.dram_gbps, probe.fma_gflops);
  if (probe.bf16_gflops > 0) text += fmt::format(", {:.0f} bf16", probe.bf16_gflops);
  const Caches& caches = processor_caches();
  return text + fmt::format("\ncaches {} of data and {} for each of {} core{}, {} for {}",
                            bytes_text(static_cast<double>(caches.l1_bytes)),
                            bytes_text(static_cast<double>(caches.l2_bytes)), caches.cores,
                            caches.cores == 1 ? "" : "s", bytes_text(static_cast<double>(caches.l3_bytes)),
                            caches.l3_cores);
}

bool Rounds::next() {
  const bool more =
      repeat_ > 0 ? done_ < repeat_ : done_ < kMinRounds || (done_ < kMaxRounds && seconds_since(start_) <= seconds_);
  ++done_;
  return more;
}

}  // namespace switchyard::cli
