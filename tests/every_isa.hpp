// One piece of work on every instruction set that the machine has.
#pragma once

#include <gtest/gtest.h>

#include "switchyard/cpu.hpp"

// Runs `work` on every available set, the best first and plain last, and puts the chosen one back.
template <class Work>
void on_every_isa(const Work& work) {
  const switchyard::Isa before = switchyard::current_isa();
  for (const switchyard::Isa isa : switchyard::available_isas()) {
    switchyard::set_isa(isa);
    ASSERT_EQ(switchyard::current_isa(), isa);
    work(isa);
  }
  switchyard::set_isa(before);
}
