#include "fail.hpp"

#include "format_text.hpp"

namespace switchyard {

void fail_with(Code code, fmt::string_view format, fmt::format_args arguments) {
  throw Error(code, format_with(format, arguments));
}

}  // namespace switchyard
