#include "text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace switchyard::cli {

std::string bytes_text(double bytes) {
  constexpr std::array<const char*, 5> kUnits{"B", "kB", "MB", "GB", "TB"};
  std::size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, kUnits[unit]);
}

std::string time_text(double ms) {
  if (ms >= 1000) return fmt::format("{:.2f} s", ms / 1000);
  if (ms >= 1) return fmt::format("{:.2f} ms", ms);
  return fmt::format("{:.1f} us", ms * 1000);
}

std::string ranges_text(std::span<const std::int32_t> ascending) {
  std::string text;
  for (std::size_t first = 0; first < ascending.size();) {
    std::size_t last = first;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += last == first ? fmt::format("{}", ascending[first])
                          : fmt::format("{}{}{}", ascending[first], last == first + 1 ? ", " : "-", ascending[last]);
    first = last + 1;
  }
  return text;
}

std::string weights_text(const ModelInfo& info) {
  if (info.codes == Codes::plain) return dtype_name(info.weights);
  const auto size = [](std::int64_t block) { return block == 0 ? std::string("all") : std::to_string(block); };
  std::string text = codes_name(info.codes);
  if (text != dtype_name(info.weights)) text += fmt::format(" in {}", dtype_name(info.weights));
  return text + fmt::format(", {} scales for {} x {} weights", dtype_name(info.scales), size(info.out_block),
                            size(info.in_block));
}

std::string TextTable::text() const {
  std::vector<std::size_t> width(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  }
  std::string text;
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      text += c == 0 ? fmt::format("{:<{}}", row[c], width[c]) : fmt::format("  {:>{}}", row[c], width[c]);
    }
    text += '\n';
  }
  return text;
}

std::string bars_text(std::span<const std::int64_t> values) {
  constexpr std::array<const char*, 9> kBars{"·", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::int64_t largest = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  std::string text;
  for (const std::int64_t value : values) {
    // Only what is zero has no bar.
    const double share = largest > 0 ? static_cast<double>(value) / static_cast<double>(largest) : 0;
    text += kBars[value == 0 ? 0 : std::clamp<std::size_t>(static_cast<std::size_t>(std::lround(share * 8)), 1, 8)];
  }
  return text;
}

}  // namespace switchyard::cli
