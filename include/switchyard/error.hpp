// Errors of the library: one table of codes, shared with C (switchyard.h) and the command line's exit status.
#pragma once

#include <stdexcept>
#include <string>

#include "switchyard/export.hpp"

namespace switchyard {

// Pinned numbers: a code never changes its meaning.
enum class Code : int {
  ok = 0,
  internal = 1,          // a defect of the library
  invalid_argument = 2,  // the caller's fault: sizes, ids, options, command line
  not_supported = 3,     // understood, but not in this build, on this machine or in this version
  io = 4,                // the operating system refused: missing file, no space, no permission
  bad_data = 5,          // a file or payload is damaged or does not fit what it says of itself
  mismatch = 6,          // results differ from what was expected (command line)
  out_of_memory = 7,
};

SWITCHYARD_API const char* code_name(Code code) noexcept;

// Every failure of the library. The message reads `step: what was found where, what was expected`.
class SWITCHYARD_API Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const noexcept { return code_; }

 private:
  Code code_;
};

}  // namespace switchyard
