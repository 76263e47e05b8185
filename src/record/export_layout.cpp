#include "record/export_layout.hpp"

#include <algorithm>
#include <numeric>

#include "fail.hpp"
#include "switchyard/route.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kMaxRanks = 1 << 20;
constexpr std::int64_t kMaxMultiple = 1 << 20;
constexpr std::int64_t kMaxPacked = std::int64_t{1} << 56;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::int64_t parts_of(const ExportOptions& options) {
  return options.context_split == ContextSplit::zigzag ? 2 * std::int64_t{options.context_ranks}
                                                       : options.context_ranks;
}

// Rows `begin`..`end` − 1 of the batch, all ranks' padding behind its sequences included.
struct Chunk {
  std::int64_t begin;
  std::int64_t end;
};

class Chunks {
 public:
  Chunks(const ExportOptions& options, std::vector<Chunk>& chunks) : options_(options), chunks_(chunks) {}

  // What of a unit the context rank gets.
  void add_unit(std::int64_t begin, std::int64_t end) {
    const std::int64_t parts = parts_of(options_);
    const std::int64_t rows = (end - begin) / parts;
    add_part(begin, rows, options_.context_rank);
    if (options_.context_split == ContextSplit::zigzag) add_part(begin, rows, parts - 1 - options_.context_rank);
  }

  void add(std::int64_t begin, std::int64_t end) { chunks_.push_back({begin, end}); }

 private:
  void add_part(std::int64_t begin, std::int64_t rows, std::int64_t part) {
    add(begin + part * rows, begin + (part + 1) * rows);
  }

  const ExportOptions& options_;
  std::vector<Chunk>& chunks_;
};

// The rows of one context rank in chunks; their padding is behind the last sequence.
std::vector<Chunk> context_chunks(const std::vector<std::int64_t>& cu_seqlens, const ExportOptions& options) {
  std::vector<Chunk> all;
  Chunks chunks(options, all);
  const std::int64_t ranks = options.context_ranks;
  const std::int64_t end = cu_seqlens.back();
  const std::int64_t multiple = std::lcm(options.batch_multiple, std::int64_t{options.tensor_ranks});
  if (options.context_unit == SplitUnit::batch) {
    const std::int64_t rank_multiple = std::lcm(multiple, parts_of(options) / ranks);
    chunks.add_unit(0, round_up(end, ranks * rank_multiple));
    return all;
  }
  for (std::size_t s = 0; s + 1 < cu_seqlens.size(); ++s) chunks.add_unit(cu_seqlens[s], cu_seqlens[s + 1]);
  const std::int64_t padding = round_up(end / ranks, multiple) - end / ranks;
  chunks.add(end + options.context_rank * padding, end + (options.context_rank + 1) * padding);
  return all;
}

// Cuts chunks into segments and keeps those of the tensor rank.
class Segments {
 public:
  Segments(const std::vector<std::int64_t>& cu_seqlens, std::int64_t begin, std::int64_t end)
      : cu_seqlens_(cu_seqlens), begin_(begin), end_(end) {}

  void add(Chunk chunk) {
    while (chunk.begin < chunk.end) {
      const auto next = std::upper_bound(cu_seqlens_.begin(), cu_seqlens_.end(), chunk.begin);
      const bool padding = next == cu_seqlens_.end();
      const std::int64_t count = (padding ? chunk.end : std::min(*next, chunk.end)) - chunk.begin;
      add(padding ? -1 : next - cu_seqlens_.begin() - 1, chunk.begin - *(next - 1), count);
      chunk.begin += count;
    }
  }

  std::vector<Segment> take() { return std::move(segments_); }

 private:
  void add(std::int64_t sequence, std::int64_t position, std::int64_t count) {
    const std::int64_t first = std::max(row_, begin_);
    const std::int64_t last = std::min(row_ + count, end_);
    if (first < last) segments_.push_back({first - begin_, sequence, position + first - row_, last - first});
    row_ += count;
  }

  const std::vector<std::int64_t>& cu_seqlens_;
  std::int64_t begin_;
  std::int64_t end_;
  std::int64_t row_ = 0;  // of the context rank
  std::vector<Segment> segments_;
};

void check_rank(const char* name, std::int32_t rank, std::int32_t ranks) {
  if (ranks < 1 || ranks > kMaxRanks || rank < 0 || rank >= ranks) {
    fail(Code::invalid_argument, "export: found {} rank {} of {}, expected 0..ranks-1 of 1..{}", name, rank, ranks,
         kMaxRanks);
  }
}

void check_multiple(const char* name, std::int64_t multiple) {
  if (multiple < 1 || multiple > kMaxMultiple) {
    fail(Code::invalid_argument, "export: found {} {}, expected 1..{}", name, multiple, kMaxMultiple);
  }
}

void check_filler(const char* name, Filler filler, const RecordSchema& schema, const ExportOptions& options) {
  if (filler < Filler::native || filler > Filler::zero) {
    fail(Code::invalid_argument, "export: found filler {} for {}, expected 0..4", static_cast<int>(filler), name);
  }
  if (filler == Filler::minus_one && options.dtype == DType::u8) {
    fail(Code::invalid_argument, "export: {} is filled with -1 in u8, expected i16, i32 or i64", name);
  }
  if (filler == Filler::balanced && (options.expert_ranks < 1 || schema.experts % options.expert_ranks != 0)) {
    fail(Code::invalid_argument, "export: found {} expert ranks for {} experts, expected a divisor",
         options.expert_ranks, schema.experts);
  }
}

void check_dtype(const RecordSchema& schema, DType dtype) {
  if (dtype != DType::u8 && dtype != DType::i16 && dtype != DType::i32 && dtype != DType::i64) {
    fail(Code::invalid_argument, "export: found {} ids, expected u8, i16, i32 or i64", dtype_name(dtype));
  }
  const std::int32_t most = dtype == DType::u8 ? 256 : dtype == DType::i16 ? 32768 : kMaxExperts;
  if (schema.experts > most) {
    fail(Code::invalid_argument, "export: found {} experts for ids of {}, expected at most {}", schema.experts,
         dtype_name(dtype), most);
  }
}

}  // namespace

std::vector<std::int64_t> layer_indices(const RecordSchema& schema, const ExportOptions& options) {
  std::vector<std::int64_t> indices;
  for (const std::int32_t layer : options.layers.empty() ? schema.layers : options.layers) {
    const auto found = std::lower_bound(schema.layers.begin(), schema.layers.end(), layer);
    if (found == schema.layers.end() || *found != layer) {
      fail(Code::invalid_argument,
           "export: found layer {}, which the record does not have: expected some of {} from {} to {}", layer,
           schema.layers.size(), schema.layers.front(), schema.layers.back());
    }
    indices.push_back(found - schema.layers.begin());
  }
  return indices;
}

void check_export(const RecordSchema& schema, std::span<const std::int64_t> lengths, const ExportOptions& options) {
  check_schema(schema);
  check_dtype(schema, options.dtype);
  check_rank("context", options.context_rank, options.context_ranks);
  check_rank("tensor", options.tensor_rank, options.tensor_ranks);
  check_multiple("sequence_multiple", options.sequence_multiple);
  check_multiple("batch_multiple", options.batch_multiple);
  check_filler("the tail", options.tail, schema, options);
  check_filler("missing rows", options.missing, schema, options);
  check_filler("padding", options.padding, schema, options);
  std::int64_t total = 0;
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    if (lengths[s] < 0 || lengths[s] > kMaxTokens) {
      fail(Code::invalid_argument, "export: sequence {} has {} rows, expected 0..{}", s, lengths[s], kMaxTokens);
    }
    total += lengths[s];
    if (total > kMaxTokens) {
      fail(Code::invalid_argument, "export: found {} rows or more, expected at most {}", total, kMaxTokens);
    }
  }
}

RankRows rows_of_rank(std::span<const std::int64_t> lengths, const ExportOptions& options) {
  RankRows rank;
  const bool by_sequence = options.context_unit == SplitUnit::sequence;
  const std::int64_t multiple = std::lcm(options.sequence_multiple, by_sequence ? parts_of(options) : 1);
  rank.cu_seqlens.push_back(0);
  for (const std::int64_t length : lengths) {
    rank.cu_seqlens.push_back(rank.cu_seqlens.back() + round_up(length, multiple));
    if (rank.cu_seqlens.back() > kMaxPacked) {
      fail(Code::invalid_argument, "export: sequences padded to {} have {} rows or more, expected at most {}", multiple,
           rank.cu_seqlens.back(), kMaxPacked);
    }
  }
  const std::vector<Chunk> chunks = context_chunks(rank.cu_seqlens, options);
  std::int64_t rows = 0;
  for (const Chunk& chunk : chunks) rows += chunk.end - chunk.begin;
  rank.rows = rows / options.tensor_ranks;
  Segments segments(rank.cu_seqlens, options.tensor_rank * rank.rows, (options.tensor_rank + 1) * rank.rows);
  for (const Chunk& chunk : chunks) segments.add(chunk);
  rank.segments = segments.take();
  return rank;
}

}  // namespace switchyard
