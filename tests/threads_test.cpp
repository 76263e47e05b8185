// The pool and the queue above it.
#include "switchyard/threads.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cpu/parallel_for.hpp"
#include "cpu/processors.hpp"
#include "switchyard/error.hpp"

namespace {

using namespace switchyard;

TEST(Threads, EveryItemRunsOnceWhateverTheCount) {
  for (const int threads : {1, 2, 3, 16}) {
    for (const std::int64_t items : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(items));
      std::atomic<bool> worker_in_range{true};
      parallel_for(Threads::pool(threads), items, [&](std::int64_t item, int worker) {
        ++runs[static_cast<std::size_t>(item)];
        if (worker < 0 || worker >= threads) {
          worker_in_range = false;
        }
      });
      EXPECT_TRUE(std::all_of(runs.begin(), runs.end(), [](const auto& count) { return count == 1; }));
      EXPECT_TRUE(worker_in_range);
    }
  }
}

TEST(Threads, AWorkerNumberIsNeverUsedTwiceAtOnce) {
  std::vector<std::atomic<int>> busy(4);
  std::atomic<bool> clash{false};
  for (int round = 0; round < 200; ++round) {
    parallel_for(Threads::pool(4), 64, [&](std::int64_t, int worker) {
      if (busy[static_cast<std::size_t>(worker)].fetch_add(1) != 0) {
        clash = true;
      }
      busy[static_cast<std::size_t>(worker)].fetch_sub(1);
    });
  }
  EXPECT_FALSE(clash);
}

TEST(Threads, SeveralCallersAtOnceAllFinish) {
  std::vector<std::thread> callers;
  std::atomic<std::int64_t> sum{0};
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        parallel_for(Threads::pool(3), 20, [&](std::int64_t item, int) { sum += item; });
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  EXPECT_EQ(sum, 6 * 100 * 190);
}

TEST(Threads, ACallInsideOfACallFinishes) {
  std::atomic<int> runs{0};
  parallel_for(Threads::pool(2), 4,
               [&](std::int64_t, int) { parallel_for(Threads::pool(2), 4, [&](std::int64_t, int) { ++runs; }); });
  EXPECT_EQ(runs, 16);
}

// All threads but the caller's own sleep: state S of proc(5).
bool others_sleep() {
  const std::string own = std::to_string(gettid());
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == own) {
      continue;
    }
    std::ifstream file(task.path() / "stat");
    const std::string stat(std::istreambuf_iterator<char>(file), {});
    if (const std::size_t name_end = stat.rfind(") "); name_end == std::string::npos || stat[name_end + 2] != 'S') {
      return false;
    }
  }
  return true;
}

TEST(Threads, IdleWorkersParkAndWakeUp) {
  parallel_for(Threads::pool(4), 64, [](std::int64_t, int) {});
  const auto parked_until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  bool parked = others_sleep();
  while (!parked && std::chrono::steady_clock::now() < parked_until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    parked = others_sleep();
  }
  EXPECT_TRUE(parked) << "a worker without work runs";
  std::atomic<int> workers_seen{0};
  // The first items wait for a second worker: only a woken one ends this before the deadline.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  parallel_for(Threads::pool(2), 2, [&](std::int64_t, int) {
    ++workers_seen;
    while (workers_seen < 2 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(workers_seen, 2);
  EXPECT_LT(std::chrono::steady_clock::now(), deadline) << "no second worker came";
}

TEST(Threads, TheDefaultIsWhatTheCallerMayUse) {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0 || CPU_COUNT(&all) < 2) {
    GTEST_SKIP() << "this needs 2 processors or more, and to know them";
  }
  int processor = 0;
  while (CPU_ISSET(processor, &all) == 0) {
    ++processor;
  }
  EXPECT_EQ(Threads().count(), std::min(CPU_COUNT(&all), 1024));
  bool pinned = false;
  int count = 0;
  std::thread([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    pinned = sched_setaffinity(0, sizeof one, &one) == 0;
    count = Threads().count();
  }).join();
  if (!pinned) {
    GTEST_SKIP() << "threads cannot be pinned here";
  }
  EXPECT_EQ(count, 1);
}

TEST(Threads, OneStaysOnTheProcessorThatItIsGiven) {
  const int count = usable_processors();
  std::set<int> found;
  for (int index = 0; index < count; ++index) {
    bool stays = false;
    int left = 0;
    std::thread([&] {
      stays = stay_on_processor(index);
      left = usable_processors();
      found.insert(sched_getcpu());
    }).join();
    if (!stays) {
      GTEST_SKIP() << "threads cannot be pinned here";
    }
    EXPECT_EQ(left, 1);
  }
  EXPECT_EQ(found.size(), static_cast<std::size_t>(count));
  std::thread([&] {
    EXPECT_FALSE(stay_on_processor(count));
    EXPECT_FALSE(stay_on_processor(-1));
    EXPECT_EQ(usable_processors(), count);
  }).join();
}

TEST(Threads, CountsAndHostsAreChecked) {
  EXPECT_GE(Threads().count(), 1);
  EXPECT_EQ(Threads::pool(3).count(), 3);
  EXPECT_THROW(Threads::pool(1025), Error);
  EXPECT_THROW(Threads::host(2, nullptr, nullptr), Error);
  const Threads::Run run = [](void*, int, Threads::Body, void*) {};
  EXPECT_THROW(Threads::host(0, run, nullptr), Error);
  EXPECT_EQ(Threads::host(5, run, nullptr).count(), 5);
}

}  // namespace
