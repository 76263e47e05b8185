#include <hwloc.h>
#include <unistd.h>

#include <algorithm>

#include "cpu/processors.hpp"
#include "switchyard/probe.hpp"

namespace switchyard {
namespace {

// Where nobody says: what the smallest processors with AVX2 have.
constexpr std::size_t kL1Bytes = std::size_t{32} << 10;
constexpr std::size_t kL2Bytes = std::size_t{256} << 10;
constexpr std::size_t kL3BytesPerCore = std::size_t{2} << 20;

std::size_t ask_system(int name, std::size_t otherwise) {
  const long bytes = ::sysconf(name);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : otherwise;
}

Caches caches_without_hwloc() {
  Caches caches;
  caches.cores = usable_processors();
  caches.hardware_threads = caches.cores;
  caches.l1_bytes = ask_system(_SC_LEVEL1_DCACHE_SIZE, kL1Bytes);
  caches.l2_bytes = ask_system(_SC_LEVEL2_CACHE_SIZE, kL2Bytes);
  caches.l3_cores = caches.cores;
  caches.l3_bytes = ask_system(_SC_LEVEL3_CACHE_SIZE, kL3BytesPerCore * static_cast<std::size_t>(caches.cores));
  return caches;
}

class Topology {
 public:
  Topology() {
    if (hwloc_topology_init(&topology_) != 0) {
      return;
    }
    made_ = true;
    // Processors and their caches, no devices.
    (void)hwloc_topology_set_all_types_filter(topology_, HWLOC_TYPE_FILTER_KEEP_NONE);
    for (const hwloc_obj_type_t type :
         {HWLOC_OBJ_CORE, HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE, HWLOC_OBJ_L3CACHE, HWLOC_OBJ_L4CACHE}) {
      (void)hwloc_topology_set_type_filter(topology_, type, HWLOC_TYPE_FILTER_KEEP_ALL);
    }
    loaded_ = hwloc_topology_load(topology_) == 0;
  }
  ~Topology() {
    if (made_) {
      hwloc_topology_destroy(topology_);
    }
  }
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;

  bool loaded() const { return loaded_; }

  int count(hwloc_obj_type_t type) const { return hwloc_get_nbobjs_by_type(topology_, type); }

  // The smallest cache of that level, of those that a process on any of its cores may meet; null: there is none.
  hwloc_obj_t smallest(hwloc_obj_type_t type) const {
    hwloc_obj_t found = nullptr;
    for (hwloc_obj_t at = nullptr; (at = hwloc_get_next_obj_by_type(topology_, type, at)) != nullptr;) {
      if (at->attr->cache.size > 0 && (found == nullptr || at->attr->cache.size < found->attr->cache.size)) {
        found = at;
      }
    }
    return found;
  }

  int cores_below(hwloc_obj_t cache) const {
    return hwloc_get_nbobjs_inside_cpuset_by_type(topology_, cache->cpuset, HWLOC_OBJ_CORE);
  }

 private:
  hwloc_topology_t topology_{};
  bool made_ = false;
  bool loaded_ = false;
};

std::size_t share_of_core(const Topology& topology, hwloc_obj_t cache) {
  return cache->attr->cache.size / static_cast<std::size_t>(std::max(topology.cores_below(cache), 1));
}

Caches find_caches() {
  Caches caches = caches_without_hwloc();
  const Topology topology;
  if (!topology.loaded() || topology.count(HWLOC_OBJ_CORE) < 1) {
    return caches;
  }
  caches.cores = topology.count(HWLOC_OBJ_CORE);
  caches.hardware_threads = std::max(topology.count(HWLOC_OBJ_PU), caches.cores);
  if (const hwloc_obj_t l1 = topology.smallest(HWLOC_OBJ_L1CACHE)) {
    caches.l1_bytes = share_of_core(topology, l1);
  }
  if (const hwloc_obj_t l2 = topology.smallest(HWLOC_OBJ_L2CACHE)) {
    caches.l2_bytes = share_of_core(topology, l2);
  }
  if (const hwloc_obj_t l3 = topology.smallest(HWLOC_OBJ_L3CACHE)) {
    caches.l3_bytes = l3->attr->cache.size;
    caches.l3_cores = std::max(topology.cores_below(l3), 1);
  }
  return caches;
}

}  // namespace

const Caches& processor_caches() {
  static const Caches caches = find_caches();
  return caches;
}

}  // namespace switchyard
