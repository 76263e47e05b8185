#include "switchyard/probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <latch>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/memory.hpp"
#include "cpu/processors.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int kRuns = 5;
constexpr double kPeakSeconds = 0.01;
constexpr std::size_t kCacheBytes = std::size_t{256} << 10;
constexpr int kCacheReads = 400;

enum class Go { wait, run, leave };

// Runs work(worker) on `count` threads that start together; from the first start to the last end, by the workers' own
// clocks: the caller may be kept waiting by the very threads that it has started. Not on the pool, whose workers come
// when they are free. Where there is a thread for every processor, each stays on one: the system may take longer to part
// threads that it woke on the same one than they run. Throws out_of_memory if a thread cannot start.
template <class Work>
double time_on_all(int count, const Work& work) {
  std::latch ready(count);
  std::atomic<Go> go{Go::wait};
  std::vector<Clock::time_point> begins(static_cast<std::size_t>(count));
  std::vector<Clock::time_point> ends(begins.size());
  std::vector<std::thread> threads;
  threads.reserve(begins.size());
  const bool apart = count == usable_processors();
  const auto body = [&](int worker) {
    if (apart) {
      (void)stay_on_processor(worker);
    }
    ready.count_down();
    go.wait(Go::wait);
    if (go.load() == Go::run) {
      const auto at = static_cast<std::size_t>(worker);
      begins[at] = Clock::now();
      work(worker);
      ends[at] = Clock::now();
    }
  };
  try {
    for (int worker = 0; worker < count; ++worker) {
      threads.emplace_back(body, worker);
    }
  } catch (const std::system_error&) {
  }
  const bool all = threads.size() == begins.size();
  if (all) {
    ready.wait();
  }
  go.store(all ? Go::run : Go::leave);
  go.notify_all();
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (!all) {
    fail(Code::out_of_memory, "probe: could start {} threads, expected {}", threads.size(), count);
  }
  const auto begin = *std::min_element(begins.begin(), begins.end());
  const auto end = *std::max_element(ends.begin(), ends.end());
  return std::chrono::duration<double>(end - begin).count();
}

// A loop that says how fast a unit is, or none.
class Peak {
 public:
  explicit Peak(PeakLoop loop) : loop_(loop) {
    if (loop == nullptr) {
      return;
    }
    float warm[2] = {0, 0};
    constexpr std::int64_t kTrial = 100000;
    double seconds = kPeakSeconds;
    for (int trial = 0; trial < 3; ++trial) {  // one may be interrupted
      const auto begin = Clock::now();
      loop(kTrial, warm);
      seconds = std::min(seconds, seconds_since(begin));
    }
    iterations_ = static_cast<std::int64_t>(kTrial * kPeakSeconds / seconds) + 1;
  }

  // 1e9 operations per second; 0 without a loop.
  double sample(int threads) const {
    if (loop_ == nullptr) {
      return 0;
    }
    std::vector<double> operations(static_cast<std::size_t>(threads));
    const double seconds = time_on_all(threads, [&](int worker) {
      float sink[2] = {0, 0};
      operations[static_cast<std::size_t>(worker)] = loop_(iterations_, sink);
    });
    return std::accumulate(operations.begin(), operations.end(), 0.0) / seconds * 1e-9;
  }

 private:
  PeakLoop loop_;
  std::int64_t iterations_ = 0;
};

// 1e9 bytes per second of reading each thread's part of `buffer` `times` times.
double bandwidth(int threads, const Kernels& kernels, const PageBuffer& buffer, int times) {
  const std::size_t part = buffer.bytes() / static_cast<std::size_t>(threads) / 4096 * 4096;
  std::vector<float> sums(static_cast<std::size_t>(threads));
  const double seconds = time_on_all(threads, [&](int worker) {
    const auto* data = reinterpret_cast<const float*>(buffer.data() + part * static_cast<std::size_t>(worker));
    for (int time = 0; time < times; ++time) {
      sums[static_cast<std::size_t>(worker)] += kernels.read(data, static_cast<std::int64_t>(part / sizeof(float)));
    }
  });
  return static_cast<double>(part) * threads * times / seconds * 1e-9;
}

// Pages that were never written are all one page of zeros and would be read from the cache.
PageBuffer touched(std::size_t bytes) {
  PageBuffer buffer(bytes);
  std::memset(buffer.data(), 1, bytes);
  return buffer;
}

}  // namespace

struct RooflineProbe::Impl {
  Impl(const Threads& on, std::size_t dram_bytes)
      : threads(on.count()),
        kernels(current_kernels()),
        fma(kernels.peak_fma),
        bf16(kernels.peak_bf16),
        vnni(kernels.peak_vnni),
        dram(touched(dram_bytes)),
        cache(touched(kCacheBytes * static_cast<std::size_t>(threads))) {}

  int threads;
  const Kernels& kernels;
  Peak fma;
  Peak bf16;
  Peak vnni;
  PageBuffer dram;
  PageBuffer cache;
};

RooflineProbe::RooflineProbe(const Threads& threads, std::size_t dram_bytes)
    : impl_(std::make_unique<Impl>(threads, dram_bytes)) {}
RooflineProbe::~RooflineProbe() = default;
RooflineProbe::RooflineProbe(RooflineProbe&&) noexcept = default;
RooflineProbe& RooflineProbe::operator=(RooflineProbe&&) noexcept = default;

Roofline RooflineProbe::sample() {
  const Impl& probe = *impl_;
  Roofline found;
  found.isa = probe.kernels.isa;
  found.threads = probe.threads;
  found.fma_gflops = probe.fma.sample(probe.threads);
  found.bf16_gflops = probe.bf16.sample(probe.threads);
  found.vnni_gops = probe.vnni.sample(probe.threads);
  found.dram_gbps = bandwidth(probe.threads, probe.kernels, probe.dram, 1);
  found.cache_gbps = bandwidth(probe.threads, probe.kernels, probe.cache, kCacheReads);
  return found;
}

Roofline probe_roofline(const Threads& threads, std::size_t dram_bytes) {
  RooflineProbe probe(threads, dram_bytes);
  Roofline best = probe.sample();
  for (int run = 1; run < kRuns; ++run) {
    const Roofline other = probe.sample();
    for (double Roofline::*rate : kRooflineRates) {
      best.*rate = std::max(best.*rate, other.*rate);
    }
  }
  return best;
}

}  // namespace switchyard
