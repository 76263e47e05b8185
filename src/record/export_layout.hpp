// Which rows of a batch a rank gets.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "switchyard/record_export.hpp"

namespace switchyard {

// Rows of the rank, from `row` on, that are positions begin..begin + count − 1 of a sequence, or padding behind it.
// Sequence −1: padding of the batch, counted from 0 over all ranks.
struct Segment {
  std::int64_t row = 0;
  std::int64_t sequence = 0;
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

struct RankRows {
  std::vector<std::int64_t> cu_seqlens;
  std::int64_t rows = 0;
  std::vector<Segment> segments;  // they tile 0..rows − 1, in order
};

RankRows rows_of_rank(std::span<const std::int64_t> lengths, const ExportOptions& options);

void check_export(const RecordSchema& schema, std::span<const std::int64_t> lengths, const ExportOptions& options);

// Indices in the schema of the rank's layers.
std::vector<std::int64_t> layer_indices(const RecordSchema& schema, const ExportOptions& options);

}  // namespace switchyard
