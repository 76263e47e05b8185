// Rows of random experts for the tests of the record.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "switchyard/record.hpp"

namespace switchyard::testing {

// Rows [count,L,K] in record_id_type: distinct experts, ascending if the schema is canonical.
inline std::vector<std::byte> random_rows(const RecordSchema& schema, std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::uint16_t> all(static_cast<std::size_t>(schema.experts));
  for (std::size_t e = 0; e < all.size(); ++e) all[e] = static_cast<std::uint16_t>(e);
  const std::size_t sets = static_cast<std::size_t>(count) * schema.layers.size();
  const auto topk = static_cast<std::size_t>(schema.topk);
  std::vector<std::byte> rows(static_cast<std::size_t>(count) * record_row_bytes(schema));
  std::byte* to = rows.data();
  for (std::size_t set = 0; set < sets; ++set) {
    for (std::size_t k = 0; k < topk; ++k) std::swap(all[k], all[k + random() % (all.size() - k)]);
    std::vector<std::uint16_t> chosen(all.begin(), all.begin() + schema.topk);
    if (schema.order == SlotOrder::canonical) std::sort(chosen.begin(), chosen.end());
    for (const std::uint16_t id : chosen) {
      std::memcpy(to, &id, dtype_bytes(record_id_type(schema)));  // little-endian
      to += dtype_bytes(record_id_type(schema));
    }
  }
  return rows;
}

template <class Function>
void for_each_id(std::int32_t experts, const std::vector<std::byte>& ids, const Function& function) {
  const std::size_t bytes = experts <= 256 ? 1 : 2;
  for (std::size_t at = 0; at < ids.size(); at += bytes) {
    std::uint16_t id = 0;
    std::memcpy(&id, ids.data() + at, bytes);
    function(id);
  }
}

}  // namespace switchyard::testing
