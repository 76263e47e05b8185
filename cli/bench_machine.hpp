// What the benchmarks ask of the machine, and how they say it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "switchyard/probe.hpp"

namespace switchyard::cli {

using BenchClock = std::chrono::steady_clock;

inline double seconds_since(BenchClock::time_point start) {
  return std::chrono::duration<double>(BenchClock::now() - start).count();
}

// Memory that is free for the taking; without the file that says so, what is there in all.
double available_bytes();

std::string probe_text(const Roofline& probe);

// Rounds of measuring go on until `seconds` are spent, within bounds, or are `repeat` of them if that is not 0.
class Rounds {
 public:
  Rounds(double seconds, int repeat) : seconds_(seconds), repeat_(repeat) {}
  bool next();

 private:
  double seconds_;
  int repeat_;
  int done_ = 0;
  BenchClock::time_point start_ = BenchClock::now();
};

// Of at least one sample.
template <class Sample, class Value>
double median(const std::vector<Sample>& samples, const Value& value) {
  std::vector<double> values(samples.size());
  std::transform(samples.begin(), samples.end(), values.begin(), value);
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// What the machine does while something else is measured.
class MachineRates {
 public:
  explicit MachineRates(const Threads& threads) : probe_(threads) {}

  // Of the last tenth of a second: measured anew if it has passed, which lets the pool's threads fall asleep.
  const Roofline& now();
  // Each rate's own, of all that was measured; at least once.
  Roofline median() const;

 private:
  RooflineProbe probe_;
  std::vector<Roofline> samples_;
  BenchClock::time_point last_;
};

}  // namespace switchyard::cli
