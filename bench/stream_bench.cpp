// Few rows times weights that come from memory: the kernels beside a plain read of the same bytes, in turn, a thread per core
// at once. Prints for every type and number of rows, by depth, which part of the read's rate the weights are multiplied at.
// Arguments: types; default: all.
#include <fmt/format.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../cli/random_layer.hpp"
#include "cpu/memory.hpp"
#include "cpu/processors.hpp"
#include "gemm_case.hpp"
#include "switchyard/probe.hpp"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kDepths[] = {768, 2048, 4096, 14336};
constexpr std::int64_t kRows[] = {1, 2, 4, 8, 13};
constexpr std::int64_t kBytes = std::int64_t{128} << 20;  // of a thread: far more than its part of a cache
constexpr int kRounds = 7;

// Seconds from the start of the first of the threads, each on a processor of its own, to the end of the last.
template <class Work>
double seconds(int threads, const Work& work) {
  std::barrier start(threads);
  std::vector<Clock::time_point> begin(static_cast<std::size_t>(threads));
  std::vector<Clock::time_point> end(begin.size());
  std::vector<std::thread> workers;
  for (int number = 0; number < threads; ++number) {
    workers.emplace_back([&, number, worker = static_cast<std::size_t>(number)] {
      stay_on_processor(number);
      start.arrive_and_wait();
      begin[worker] = Clock::now();
      work(worker);
      end[worker] = Clock::now();
    });
  }
  for (std::thread& worker : workers) worker.join();
  return std::chrono::duration<double>(*std::max_element(end.begin(), end.end()) -
                                       *std::min_element(begin.begin(), begin.end()))
      .count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// What a thread reads and writes.
struct Memory {
  PageBuffer weights{kBytes};
  std::vector<float> out;
  Workspace scratch{0};
  float sum = 0;
};

class Streams {
 public:
  explicit Streams(int threads) : memory_(static_cast<std::size_t>(threads)) {}

  void measure(const GemmType& type) {
    for (const std::int64_t rows : kRows) {
      std::string line;
      for (const std::int64_t depth : kDepths) {
        line += fmt::format(" {:>9.2f}", part_of_read(type, rows, depth));
      }
      fmt::print("{:<14} {:>4} {:>8.1f}{}\n", type.name, rows, median(read_gbps_), line);
      std::fflush(stdout);
    }
  }

 private:
  double part_of_read(const GemmType& type, std::int64_t rows, std::int64_t depth) {
    const std::vector<std::byte> x =
        cli::random_values(static_cast<std::size_t>(rows * depth), type.rows, 1, 2, Threads());
    const std::vector<std::byte> weight =
        cli::random_values(static_cast<std::size_t>(kPanel * depth), DType::f32, 0.02, 1, Threads());
    PackedMatrices one(1, kPanel, depth, false, type.format);
    one.pack(0, {weight.data(), DType::f32, depth, 1}, {}, Threads());
    GemmArgs args = gemm_args(type, one, x.data(), rows);
    args.panel_end = kBytes / args.panel_bytes;
    args.out_stride = args.panel_end * kPanel;
    for (Memory& memory : memory_) {
      for (std::int64_t panel = 0; panel < args.panel_end; ++panel) {
        std::memcpy(memory.weights.data() + panel * args.panel_bytes, one.matrix(0),
                    static_cast<std::size_t>(args.panel_bytes));
      }
      memory.out.resize(static_cast<std::size_t>(rows * args.out_stride));
      memory.scratch = Workspace(gemm_scratch_bytes(args.math, rows, args.padded_depth));
    }
    std::vector<double> parts;
    for (int round = 0; round < kRounds; ++round) {
      const double reading = read(args.panel_end * args.panel_bytes);
      parts.push_back(reading / multiply(args));
    }
    return median(parts);
  }

  double read(std::int64_t bytes) {
    const int threads = static_cast<int>(memory_.size());
    const double time = seconds(threads, [&](std::size_t worker) {
      Memory& memory = memory_[worker];
      memory.sum += current_kernels().read(reinterpret_cast<const float*>(memory.weights.data()), bytes / 4);
    });
    read_gbps_.push_back(threads * static_cast<double>(bytes) / time * 1e-9);
    return time;
  }

  double multiply(const GemmArgs& all) {
    return seconds(static_cast<int>(memory_.size()), [&](std::size_t worker) {
      Memory& memory = memory_[worker];
      GemmArgs args = all;
      args.panels = memory.weights.data();
      args.out = memory.out.data();
      args.scratch = static_cast<std::byte*>(memory.scratch.data());
      current_kernels().gemm(args);
    });
  }

  std::vector<Memory> memory_;
  std::vector<double> read_gbps_;
};

}  // namespace
}  // namespace switchyard

int main(int argc, char** argv) {
  using namespace switchyard;
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  Streams streams(processor_caches().cores);
  fmt::print("{:<14} {:>4} {:>8}", "type", "rows", "GB/s");
  for (const std::int64_t depth : kDepths) fmt::print(" {:>9}", depth);
  fmt::print("\n");
  for (const GemmType& type : kGemmTypes) {
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), type.name) != wanted.end()) {
      streams.measure(type);
    }
  }
  return 0;
}
