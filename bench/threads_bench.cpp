// How long single calls take when they are not alone on the machine: two layers at once, and beside threads that never
// yield. What matters is the slowest call, as a multiple of the median of the same run.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "../cli/random_layer.hpp"
#include "../tests/cases.hpp"

namespace switchyard {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kSeconds = 2;
constexpr std::size_t kFewestCalls = 30;

// A layer and what its forwards read and write.
class Caller {
 public:
  Caller(const LayerCase& shape, DType dtype, std::int64_t tokens)
      : hidden_(shape.hidden),
        tokens_(tokens),
        dtype_(dtype),
        layer_(cli::RandomLayers({shape.hidden, shape.ffn, shape.experts, shape.topk},
                                 dtype == DType::bf16 ? Format::bf16 : Format::f32, dtype, Threads())
                   .make()),
        x_(cli::random_values(static_cast<std::size_t>(tokens * hidden_), dtype, 1, 3, Threads())),
        y_(x_.size()),
        workspace_(layer_.workspace_bytes(tokens)) {}

  // Times of calls in µs, for so many seconds.
  std::vector<double> run(double seconds) {
    std::vector<double> times;
    const auto begin = Clock::now();
    while (times.size() < kFewestCalls || std::chrono::duration<double>(Clock::now() - begin).count() < seconds) {
      const auto start = Clock::now();
      layer_.forward({x_.data(), dtype_, tokens_, hidden_}, {y_.data(), dtype_, tokens_, hidden_}, workspace_);
      times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    return times;
  }

 private:
  std::int64_t hidden_;
  std::int64_t tokens_;
  DType dtype_;
  Layer layer_;
  std::vector<std::byte> x_;
  std::vector<std::byte> y_;
  Workspace workspace_;
};

void print(const std::string& what, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const auto at = [&](double part) {
    return times[static_cast<std::size_t>(part * static_cast<double>(times.size() - 1))];
  };
  fmt::print("{:<34} {:>10.1f} {:>10.1f} {:>10.1f} {:>9.2f} {:>9.2f}\n", what, at(0.5), at(0.99), times.back(),
             at(0.99) / at(0.5), times.back() / at(0.5));
  std::fflush(stdout);
}

// Threads that never yield, while the object lives.
class Hogs {
 public:
  explicit Hogs(int count) {
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([this] {
        while (!stop_.load(std::memory_order_relaxed)) {
        }
      });
    }
  }
  ~Hogs() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  Hogs(const Hogs&) = delete;
  Hogs& operator=(const Hogs&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

void measure(const LayerCase& shape, DType dtype, std::int64_t tokens) {
  const std::string name = fmt::format("{} {} T={}", shape.name, dtype_name(dtype), tokens);
  Caller one(shape, dtype, tokens);
  Caller two(shape, dtype, tokens);
  one.run(0);
  two.run(0);
  print(name + ", alone", one.run(kSeconds));
  {
    std::vector<double> times;
    std::thread other([&] { times = two.run(kSeconds); });
    print(name + ", two layers: one", one.run(kSeconds));
    other.join();
    print(name + ", two layers: other", times);
  }
  const Hogs hogs(1);
  print(name + ", beside a hog", one.run(kSeconds));
}

}  // namespace
}  // namespace switchyard

int main() {
  using namespace switchyard;
  fmt::print("{:<34} {:>10} {:>10} {:>10} {:>9} {:>9}\n", "µs per call", "median", "99 %", "slowest", "99 % / m",
             "slow / m");
  const LayerCase& small = kBenchCases.back();
  for (const std::int64_t tokens : {1, 16, 256}) measure(small, DType::f32, tokens);
  return 0;
}
