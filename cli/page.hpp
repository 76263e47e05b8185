// A page of HTML that needs nothing but itself, and what the reports show in the same way.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace switchyard::cli {

// Text with what has a meaning in HTML escaped.
std::string escape(std::string_view text);

class Page {
 public:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }
  // Head, style and the heading "Switchyard: name"; the header stays open for a line about the whole.
  void begin(std::string_view name);
  void fact(std::string_view name, std::string_view value);
  void table(const std::vector<std::string>& columns, const std::vector<std::vector<std::string>>& rows);
  void end();
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

// Rows that went to each expert of a layer.
struct LayerLoad {
  std::int32_t layer = 0;
  std::span<const std::int64_t> load;

  std::int64_t most() const;
  double mean() const;
  double over_mean(std::int64_t rows) const;
};

// "layer 3, expert 7: 12 rows, 1.50 × mean"
std::string load_title(const LayerLoad& layer, std::size_t expert);

// Rows are layers, columns experts; one scale for all, so that layers compare.
void add_heat_map(Page& page, std::span<const LayerLoad> layers);

}  // namespace switchyard::cli
