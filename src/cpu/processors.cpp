#include "cpu/processors.hpp"

#include <sched.h>

#include <cerrno>
#include <cstddef>

namespace switchyard {
namespace {

// Far more than the kernel can be built for; a set of them takes 8 KiB.
constexpr int kMostProcessors = 1 << 16;

}  // namespace

int usable_processors() noexcept {
  // The system refuses a set that is smaller than its own, and does not say how large that is.
  for (int room = CPU_SETSIZE; room <= kMostProcessors; room *= 2) {
    cpu_set_t* const set = CPU_ALLOC(static_cast<std::size_t>(room));
    if (set == nullptr) {
      return 1;
    }
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(room));
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const int error = known ? 0 : errno;
    const int count = known ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) {
      return count;
    }
    if (error != EINVAL) {
      return 1;
    }
  }
  return 1;
}

}  // namespace switchyard
