// The network of comparisons that sorts sets of K.
// K. E. Batcher, "Sorting Networks and Their Applications", AFIPS 1968: merging of odd and even.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "record/record_kernels.hpp"
#include "switchyard/record.hpp"

namespace switchyard {
namespace {

std::vector<SortStep> make_network(std::size_t n) {
  std::vector<SortStep> network;
  for (std::size_t p = 1; p < n; p *= 2) {
    for (std::size_t k = p; k >= 1; k /= 2) {
      for (std::size_t j = k % p; j + k < n; j += 2 * k) {
        for (std::size_t i = j; i < std::min(j + k, n - k); ++i) {
          if (i / (2 * p) == (i + k) / (2 * p)) {
            network.push_back({static_cast<std::uint8_t>(i), static_cast<std::uint8_t>(i + k)});
          }
        }
      }
    }
  }
  return network;
}

}  // namespace

void sort_slots(const RecordSchema& schema, void* rows, std::int64_t count) {
  if (schema.topk < 2 || count < 1) return;
  const std::vector<SortStep> network = make_network(static_cast<std::size_t>(schema.topk));
  const std::size_t id_bytes = record_id_type(schema) == DType::u8 ? 1 : 2;
  const std::int64_t sets = count * static_cast<std::int64_t>(schema.layers.size());
  record_kernels().sort_sets(rows, id_bytes, sets, schema.topk, network.data(), network.size());
}

}  // namespace switchyard
