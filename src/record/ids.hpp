// The id type of a schema as a type of the language.
#pragma once

#include <cstdint>
#include <type_traits>

#include "switchyard/record.hpp"

namespace switchyard {

// function(pointer to the ids), as std::uint8_t or std::uint16_t, const if `ids` is.
template <class Void, class Function>
decltype(auto) with_ids(const RecordSchema& schema, Void* ids, Function&& function) {
  using U8 = std::conditional_t<std::is_const_v<Void>, const std::uint8_t, std::uint8_t>;
  using U16 = std::conditional_t<std::is_const_v<Void>, const std::uint16_t, std::uint16_t>;
  if (record_id_type(schema) == DType::u8) {
    return function(static_cast<U8*>(ids));
  }
  return function(static_cast<U16*>(ids));
}

}  // namespace switchyard
