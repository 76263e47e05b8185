#include "cpu/processors.hpp"

#include <sched.h>

#include <cerrno>
#include <cstddef>

namespace switchyard {
namespace {

// Far more than the kernel can be built for; a set of them takes 8 KiB.
constexpr int kMostProcessors = 1 << 16;

// use(set, bytes, room) of what the calling thread may use; false if the system does not say.
template <class Use>
bool with_usable(const Use& use) noexcept {
  // The system refuses a set that is smaller than its own, and does not say how large that is.
  for (int room = CPU_SETSIZE; room <= kMostProcessors; room *= 2) {
    cpu_set_t* const set = CPU_ALLOC(static_cast<std::size_t>(room));
    if (set == nullptr) {
      return false;
    }
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(room));
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const int error = known ? 0 : errno;
    if (known) {
      use(set, bytes, room);
    }
    CPU_FREE(set);
    if (known || error != EINVAL) {
      return known;
    }
  }
  return false;
}

}  // namespace

int usable_processors() noexcept {
  int count = 0;
  with_usable([&](const cpu_set_t* set, std::size_t bytes, int) { count = CPU_COUNT_S(bytes, set); });
  return count > 0 ? count : 1;
}

bool stay_on_processor(int index) noexcept {
  bool stays = false;
  with_usable([&](cpu_set_t* set, std::size_t bytes, int room) {
    int left = index;
    for (int processor = 0; processor < room; ++processor) {
      if (CPU_ISSET_S(static_cast<std::size_t>(processor), bytes, set) && left-- != 0) {
        CPU_CLR_S(static_cast<std::size_t>(processor), bytes, set);
      }
    }
    stays = CPU_COUNT_S(bytes, set) == 1 && sched_setaffinity(0, bytes, set) == 0;
  });
  return stays;
}

}  // namespace switchyard
