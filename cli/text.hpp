// Numbers and tables as text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/model.hpp"

namespace switchyard::cli {

// 1572864 → "1.57 MB"; decimal units, as GB/s are.
std::string bytes_text(double bytes);
// 0.042 → "42.0 us", 12.3 → "12.3 ms"; the argument is in milliseconds.
std::string time_text(double ms);
// {0, 1, 2, 3, 7} → "0-3, 7".
std::string ranges_text(std::span<const std::int32_t> ascending);

// "bf16", or "f4_e2m1 in i8, f8_e8m0 scales for 1 x 32 weights".
std::string weights_text(const ModelInfo& info);

// A table with aligned columns; the first column to the left, all others to the right.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// One character per value, its height the value's share of the largest.
std::string bars_text(std::span<const std::int64_t> values);

}  // namespace switchyard::cli
