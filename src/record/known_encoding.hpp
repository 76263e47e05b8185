// Which numbers name an encoding.
#pragma once

#include <cstdint>

#include "switchyard/record_encoding.hpp"

namespace switchyard {

constexpr bool is_known_encoding(std::int64_t number) noexcept {
  for (const RecordEncoding known :
       {RecordEncoding::raw, RecordEncoding::packed, RecordEncoding::elias_fano, RecordEncoding::raw_zstd,
        RecordEncoding::packed_zstd, RecordEncoding::elias_fano_zstd}) {
    if (number == static_cast<std::int64_t>(known)) return true;
  }
  return false;
}

}  // namespace switchyard
