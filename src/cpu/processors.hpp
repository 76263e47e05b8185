// The processors that work may run on.
#pragma once

namespace switchyard {

// Those that the calling thread may use, as the system says; at least 1. Throws nothing.
int usable_processors() noexcept;

// Keeps the calling thread on the one of these with that index, from 0, ascending. False, and nothing changed, if there is
// none or the system refuses. Throws nothing.
bool stay_on_processor(int index) noexcept;

}  // namespace switchyard
