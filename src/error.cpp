#include "switchyard/error.hpp"

namespace switchyard {

const char* code_name(Code code) noexcept {
  switch (code) {
    case Code::ok:
      return "ok";
    case Code::internal:
      return "internal error";
    case Code::invalid_argument:
      return "invalid argument";
    case Code::not_supported:
      return "not supported";
    case Code::io:
      return "input/output error";
    case Code::bad_data:
      return "bad data";
    case Code::mismatch:
      return "mismatch";
    case Code::out_of_memory:
      return "out of memory";
  }
  return "unknown code";
}

}  // namespace switchyard
