#include "fail.hpp"

#include <fmt/format.h>

namespace switchyard {

void fail_with(Code code, fmt::string_view format, fmt::format_args arguments) {
  throw Error(code, fmt::vformat(format, arguments));
}

}  // namespace switchyard
