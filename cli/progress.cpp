#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace switchyard::cli {
namespace {

constexpr std::chrono::milliseconds kInterval{100};

}  // namespace

Progress::~Progress() {
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

void Progress::show(std::int64_t done, std::int64_t of) {
  const auto now = std::chrono::steady_clock::now();
  if (::isatty(STDERR_FILENO) == 0 || now < next_) return;
  next_ = now + kInterval;
  shown_ = true;
  const auto text = fmt::format("\r{} {} of {}\x1b[K", what_, done, of);
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace switchyard::cli
