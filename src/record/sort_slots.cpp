// Sorting of many small sets at once: a network of comparisons, the same for every set, with sets in the lanes.
// K. E. Batcher, "Sorting Networks and Their Applications", AFIPS 1968: merging of odd and even.
#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "record/ids.hpp"
#include "switchyard/record.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kSets = 64;
constexpr std::size_t kMaxTopk = 64;

using Network = std::vector<std::pair<std::size_t, std::size_t>>;

Network make_network(std::size_t n) {
  Network network;
  for (std::size_t p = 1; p < n; p *= 2) {
    for (std::size_t k = p; k >= 1; k /= 2) {
      for (std::size_t j = k % p; j + k < n; j += 2 * k) {
        for (std::size_t i = j; i < std::min(j + k, n - k); ++i) {
          if (i / (2 * p) == (i + k) / (2 * p)) network.emplace_back(i, i + k);
        }
      }
    }
  }
  return network;
}

template <class Id>
void sort_sets(const Network& network, Id* ids, std::size_t sets, std::size_t topk) {
  alignas(64) std::array<std::array<Id, kSets>, kMaxTopk> slot;
  for (std::size_t k = 0; k < topk; ++k) {
    for (std::size_t set = 0; set < sets; ++set) slot[k][set] = ids[set * topk + k];
  }
  for (const auto& [a, b] : network) {
    Id* __restrict low = slot[a].data();  // a and b differ
    Id* __restrict high = slot[b].data();
    for (std::size_t set = 0; set < kSets; ++set) {
      const Id x = low[set];
      const Id y = high[set];
      low[set] = x < y ? x : y;
      high[set] = x < y ? y : x;
    }
  }
  for (std::size_t k = 0; k < topk; ++k) {
    for (std::size_t set = 0; set < sets; ++set) ids[set * topk + k] = slot[k][set];
  }
}

}  // namespace

void sort_slots(const RecordSchema& schema, void* rows, std::int64_t count) {
  const auto topk = static_cast<std::size_t>(schema.topk);
  const Network network = make_network(topk);
  with_ids(schema, rows, [&](auto* ids) {
    const std::size_t sets = static_cast<std::size_t>(count) * schema.layers.size();
    for (std::size_t done = 0; done < sets; done += kSets) {
      sort_sets(network, ids + done * topk, std::min(kSets, sets - done), topk);
    }
  });
}

}  // namespace switchyard
