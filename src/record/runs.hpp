// Runs of rows in one state.
#pragma once

#include <algorithm>
#include <cstdint>

#include "switchyard/record_rows.hpp"

namespace switchyard {

// function(begin, end, observed) for the runs of rows begin..end − 1, in order.
template <class Function>
void for_each_run(const RecordRows& rows, std::int64_t begin, std::int64_t end, Function&& function) {
  while (begin < end) {
    const bool observed = rows.is_observed(begin);
    std::int64_t run_end = rows.observed.empty() ? end : begin + 1;
    while (run_end < end && rows.is_observed(run_end) == observed) ++run_end;
    function(begin, run_end, observed);
    begin = run_end;
  }
}

// Rows that 64 KiB hold, but one at least: what passes through memory beside the rows that are kept.
inline std::int64_t rows_per_chunk(std::size_t row_bytes) {
  constexpr std::size_t kChunkBytes = (std::size_t{1} << 16) - 64;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(kChunkBytes / row_bytes));
}

}  // namespace switchyard
