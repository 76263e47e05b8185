// Runs all tests of a binary, on the instruction set that SWITCHYARD_ISA names: first asserts that this set is the one
// running.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "switchyard/cpu.hpp"

namespace {

constexpr int kSkipped = 77;  // SKIP_RETURN_CODE of CTest

bool available(switchyard::Isa isa) {
  const auto sets = switchyard::available_isas();
  return std::find(sets.begin(), sets.end(), isa) != sets.end();
}

TEST(InstructionSet, ForcedSetIsTheOneRunning) {
  if (const char* name = std::getenv("SWITCHYARD_ISA")) {
    EXPECT_STREQ(name, switchyard::isa_name(switchyard::current_isa()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const char* name = std::getenv("SWITCHYARD_ISA");
  if (name != nullptr && !available(switchyard::parse_isa(name))) {
    std::printf("skipped: this machine has no %s\n", name);
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
