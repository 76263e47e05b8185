// fail(): the one way in which the library reports an error.
#pragma once

#include <fmt/core.h>

#include "switchyard/error.hpp"

namespace switchyard {

// Apart from the template, as format_with.
[[noreturn]] void fail_with(Code code, fmt::string_view format, fmt::format_args arguments);

// Throws Error{code, message}; the format is fmt's.
template <class... Args>
[[noreturn]] void fail(Code code, fmt::format_string<Args...> format, Args&&... args) {
  fail_with(code, format, fmt::make_format_args(args...));
}

}  // namespace switchyard
