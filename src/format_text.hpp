// format_text(): text that is made from values.
#pragma once

#include <fmt/core.h>

#include <string>

namespace switchyard {

// Apart from the template so that only one file compiles the formatting itself.
std::string format_with(fmt::string_view format, fmt::format_args arguments);

// The format is fmt's.
template <class... Args>
std::string format_text(fmt::format_string<Args...> format, Args&&... args) {
  return format_with(format, fmt::make_format_args(args...));
}

}  // namespace switchyard
