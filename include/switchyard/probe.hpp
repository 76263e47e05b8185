// What the machine can do: the roofline that speeds are stated against.
#pragma once

#include <cstddef>
#include <memory>

#include "switchyard/cpu.hpp"
#include "switchyard/export.hpp"
#include "switchyard/threads.hpp"

namespace switchyard {

// What the processors that this process may use have, the smallest where they differ. Hardware threads that share a core
// share its caches: sizes are a core's.
struct Caches {
  int cores = 1;
  int hardware_threads = 1;
  std::size_t l1_bytes = 0;  // data, of one core
  std::size_t l2_bytes = 0;  // of one core, or its part of one that is shared
  std::size_t l3_bytes = 0;  // of one cache
  int l3_cores = 1;          // that share it
};

// Asks hwloc, and the C library where that does not know. Found out once per process; never throws for what is unknown.
SWITCHYARD_API const Caches& processor_caches();

// Measured rates, all threads together; 0 where the processor lacks the unit.
struct Roofline {
  Isa isa = Isa::plain;
  int threads = 1;
  double fma_gflops = 0;   // fp32 multiply-adds, two operations each
  double bf16_gflops = 0;  // bf16 dot product into fp32
  double vnni_gops = 0;    // u8·s8 dot product into i32
  double dram_gbps = 0;    // reading memory far larger than the caches, GB = 1e9 bytes
  double cache_gbps = 0;   // reading 256 KiB per thread again and again
};

// All rates, for what is done with each of them.
inline constexpr double Roofline::*kRooflineRates[] = {
    &Roofline::fma_gflops, &Roofline::bf16_gflops, &Roofline::vnni_gops, &Roofline::dram_gbps, &Roofline::cache_gbps};

// Far more than caches hold.
inline constexpr std::size_t kProbeBytes = std::size_t{512} << 20;

// Measures again and again, with the instruction set and as many threads as there were when it was made: on a machine that
// is shared, a rate says something about what was measured in the same moment. Runs threads of its own; where there is one
// for every processor that the caller may use, each stays on one. Holds dram_bytes of memory and 256 KiB per thread. One
// thread at a time.
class SWITCHYARD_API RooflineProbe {
 public:
  // Throws out_of_memory.
  explicit RooflineProbe(const Threads& threads, std::size_t dram_bytes = kProbeBytes);
  ~RooflineProbe();
  RooflineProbe(RooflineProbe&&) noexcept;
  RooflineProbe& operator=(RooflineProbe&&) noexcept;

  // One short run of each, about 50 ms with kProbeBytes. Throws out_of_memory if a thread cannot start.
  Roofline sample();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The best of each rate over several samples, about 0.5 s. Throws out_of_memory.
SWITCHYARD_API Roofline probe_roofline(const Threads& threads, std::size_t dram_bytes = kProbeBytes);

}  // namespace switchyard
