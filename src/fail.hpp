// fail(): the one way in which the library reports an error.
#pragma once

#include <fmt/format.h>

#include <utility>

#include "switchyard/error.hpp"

namespace switchyard {

// Throws Error{code, message}; the format is fmt's.
template <class... Args>
[[noreturn]] void fail(Code code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace switchyard
