#include "switchyard/probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/memory.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int kRuns = 5;

enum class Go { wait, run, leave };

// Runs work(worker) on `count` threads that start together; from the first start to the last end, by the workers' own
// clocks: the caller may be kept waiting by the very threads that it has started. Not on the pool, whose workers come
// when they are free. Throws out_of_memory if a thread cannot start.
template <class Work>
double time_on_all(int count, const Work& work) {
  std::atomic<Go> go{Go::wait};
  std::vector<Clock::time_point> begins(static_cast<std::size_t>(count));
  std::vector<Clock::time_point> ends(begins.size());
  std::vector<std::thread> threads;
  threads.reserve(begins.size());
  const auto body = [&](int worker) {
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

// 1e9 operations per second of a loop that runs about 10 ms; 0 without a loop.
double peak(int threads, PeakLoop loop) {
  if (loop == nullptr) {
    return 0;
  }
  float warm[2] = {0, 0};
  constexpr std::int64_t kTrial = 100000;
  const auto begin = Clock::now();
  loop(kTrial, warm);
  const auto iterations = static_cast<std::int64_t>(kTrial * 0.01 / seconds_since(begin)) + 1;
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::vector<double> operations(static_cast<std::size_t>(threads));
    const double seconds = time_on_all(threads, [&](int worker) {
      float sink[2] = {0, 0};
      operations[static_cast<std::size_t>(worker)] = loop(iterations, sink);
    });
    best = std::max(best, std::accumulate(operations.begin(), operations.end(), 0.0) / seconds * 1e-9);
  }
  return best;
}

// 1e9 bytes per second of reading each thread's part of `buffer` `times` times.
double bandwidth(int threads, const Kernels& kernels, const PageBuffer& buffer, int times) {
  const std::size_t part = buffer.bytes() / static_cast<std::size_t>(threads) / 4096 * 4096;
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::vector<float> sums(static_cast<std::size_t>(threads));
    const double seconds = time_on_all(threads, [&](int worker) {
      const auto* data = reinterpret_cast<const float*>(buffer.data() + part * static_cast<std::size_t>(worker));
      for (int time = 0; time < times; ++time) {
        sums[static_cast<std::size_t>(worker)] += kernels.read(data, static_cast<std::int64_t>(part / sizeof(float)));
      }
    });
    const double bytes = static_cast<double>(part) * threads * times;
    best = std::max(best, bytes / seconds * 1e-9);
  }
  return best;
}

// Pages that were never written are all one page of zeros and would be read from the cache.
PageBuffer touched(std::size_t bytes) {
  PageBuffer buffer(bytes);
  std::memset(buffer.data(), 1, bytes);
  return buffer;
}

}  // namespace

Roofline probe_roofline(const Threads& threads, std::size_t dram_bytes) {
  constexpr std::size_t kCacheBytes = std::size_t{256} << 10;
  const Kernels& kernels = current_kernels();
  const int count = threads.count();
  Roofline found;
  found.isa = kernels.isa;
  found.threads = count;
  found.fma_gflops = peak(count, kernels.peak_fma);
  found.bf16_gflops = peak(count, kernels.peak_bf16);
  found.vnni_gops = peak(count, kernels.peak_vnni);
  found.dram_gbps = bandwidth(count, kernels, touched(dram_bytes), 1);
  found.cache_gbps = bandwidth(count, kernels, touched(kCacheBytes * static_cast<std::size_t>(count)), 400);
  return found;
}

}  // namespace switchyard
