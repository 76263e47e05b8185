// How far long work is: one line on stderr, if that is a terminal, which goes away.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace switchyard::cli {

class Progress {
 public:
  // The line reads `what` done of of.
  explicit Progress(std::string what) : what_(std::move(what)) {}
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(std::int64_t done, std::int64_t of);

 private:
  std::string what_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace switchyard::cli
