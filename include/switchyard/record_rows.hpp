// RecordRows: rows of a routing record of which some may be missing.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/record.hpp"

namespace switchyard {

// Rows begin..end − 1.
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  friend bool operator==(const RowRange&, const RowRange&) = default;
};

// A row that is missing is never read: its ids are nowhere. What the source reads from stays with whoever made it.
struct RecordRows {
  RowSource source;
  std::vector<std::uint8_t> observed;  // [source.rows], 0: missing. Empty: all are there.

  RecordRows() = default;
  RecordRows(RowSource source_) : source(std::move(source_)) {}
  RecordRows(RowSource source_, std::vector<std::uint8_t> observed_)
      : source(std::move(source_)), observed(std::move(observed_)) {}

  bool is_observed(std::int64_t row) const { return observed.empty() || observed[static_cast<std::size_t>(row)] != 0; }
};

// Rows that have to be replayed and are missing. `loss_mask` [rows], not 0 where the token counts in the loss: row r acts
// on the logits of every later token, so it is required if one of them counts, and only then (SkyRL's rule). Throws
// invalid_argument for sizes that differ.
SWITCHYARD_API std::vector<RowRange> missing_required_rows(const RecordRows& rows,
                                                           std::span<const std::uint8_t> loss_mask);

// Throws bad_data that lists them, the first 8 ranges, if there are any. `sequence` is what the rows are called in it.
SWITCHYARD_API void check_required_rows(const RecordRows& rows, std::span<const std::uint8_t> loss_mask,
                                        std::int64_t sequence = 0);

}  // namespace switchyard
