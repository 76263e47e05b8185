// The processors that work may run on.
#pragma once

namespace switchyard {

// Those that the calling thread may use, as the system says; at least 1. Throws nothing.
int usable_processors() noexcept;

}  // namespace switchyard
