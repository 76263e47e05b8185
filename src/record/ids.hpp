// Ids of a record as a type of the language.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "switchyard/record.hpp"

namespace switchyard {

// The largest E of a record.
inline constexpr std::int32_t kMaxRecordExperts = 65536;

// function(pointer to the ids), as std::uint8_t or std::uint16_t by their bytes, const if `ids` is.
template <class Void, class Function>
decltype(auto) with_ids(std::size_t id_bytes, Void* ids, Function&& function) {
  using U8 = std::conditional_t<std::is_const_v<Void>, const std::uint8_t, std::uint8_t>;
  using U16 = std::conditional_t<std::is_const_v<Void>, const std::uint16_t, std::uint16_t>;
  if (id_bytes == 1) {
    return function(static_cast<U8*>(ids));
  }
  return function(static_cast<U16*>(ids));
}
template <class Void, class Function>
decltype(auto) with_ids(const RecordSchema& schema, Void* ids, Function&& function) {
  return with_ids(dtype_bytes(record_id_type(schema)), ids, function);
}

template <class Id>
bool all_below(const Id* ids, std::size_t count, std::int32_t experts) noexcept {
  Id most = 0;
  for (std::size_t i = 0; i < count; ++i) most = std::max(most, ids[i]);
  return static_cast<std::int32_t>(most) < experts;
}

}  // namespace switchyard
