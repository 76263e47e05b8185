// parallel_for: items from one queue, for whoever is free.
#pragma once

#include <atomic>
#include <cstdint>

#include "switchyard/threads.hpp"

namespace switchyard {

// Calls work(item, worker) once for every item in [0, items); worker < threads.count(). Items start in ascending order.
// Allocates nothing; work must not throw.
template <class Work>
void parallel_for(const Threads& threads, std::int64_t items, const Work& work) {
  if (items <= 1 || threads.count() == 1) {
    for (std::int64_t item = 0; item < items; ++item) {
      work(item, 0);
    }
    return;
  }
  struct Queue {
    const Work& work;
    std::int64_t items;
    std::atomic<std::int64_t> next{0};
  } queue{work, items};
  threads.run(
      [](void* data, int worker) {
        Queue& shared = *static_cast<Queue*>(data);
        for (;;) {
          const std::int64_t item = shared.next.fetch_add(1, std::memory_order_relaxed);
          if (item >= shared.items) {
            return;
          }
          shared.work(item, worker);
        }
      },
      &queue);
}

}  // namespace switchyard
