// Who runs the work: the library's own pool, or the host's.
#pragma once

#include "switchyard/export.hpp"

namespace switchyard {

// A way to run work on up to `count` workers. A value: copy it freely.
//
// The work is a body that takes items from a queue of its own until none is left: body(data, 0) must be called,
// body(data, w) for other w in [1, count) may be called, each at most once, at the same time or one after the other.
// Whoever comes late finds nothing to do, so nobody waits for a thread that has not started, and the result is the
// same.
//
// pool(n): the caller's thread and up to n - 1 workers of one process-wide pool, parked when idle. Two callers at once
// share the workers. A worker is started by the first work that wants it and inherits the processors that this work's
// caller may use: pinning is the caller's choice, and who pins single threads starts the workers before, or brings
// threads by host. Where the system has no thread to give, the others do the work.
//
// host(n, run, host): run(host, n, body, data) makes these calls on the host's threads and returns when all have
// returned. body does not throw.
class SWITCHYARD_API Threads {
 public:
  using Body = void (*)(void* data, int worker);
  using Run = void (*)(void* host, int workers, Body body, void* data);

  // All processors the calling thread may use, at most 1024.
  Threads() : Threads(pool(0)) {}

  // count <= 0: all processors the calling thread may use, at most 1024. Throws invalid_argument above 1024.
  static Threads pool(int count);
  // Throws invalid_argument if count is not in 1..1024 or run is null.
  static Threads host(int count, Run run, void* host);

  int count() const noexcept { return count_; }

  // Makes the calls described above; returns when all have returned. Allocates nothing but the pool and the workers that
  // nobody has started before.
  void run(Body body, void* data) const;

 private:
  Threads(int count, Run runner, void* host) : count_(count), run_(runner), host_(host) {}
  int count_;
  Run run_;
  void* host_;
};

}  // namespace switchyard
