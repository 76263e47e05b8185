#include "format_text.hpp"

#include <fmt/format.h>

namespace switchyard {

std::string format_with(fmt::string_view format, fmt::format_args arguments) { return fmt::vformat(format, arguments); }

}  // namespace switchyard
