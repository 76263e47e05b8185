#include <algorithm>
#include <limits>

#include "fail.hpp"
#include "record/export_layout.hpp"
#include "record/ids.hpp"
#include "record/runs.hpp"

namespace switchyard {
namespace {

// Everything that is the same for all rows of a rank.
struct Target {
  const RecordSchema& schema;
  const ExportOptions& options;
  std::vector<std::int64_t> layers;  // indices in the schema
  std::int64_t rows;
  void* ids;
  std::uint8_t* states;
};

// function(pointer to the first id of the target, as its type).
template <class Function>
void with_target(const Target& target, Function&& function) {
  switch (target.options.dtype) {
    case DType::u8:
      return function(static_cast<std::uint8_t*>(target.ids));
    case DType::i16:
      return function(static_cast<std::int16_t*>(target.ids));
    case DType::i32:
      return function(static_cast<std::int32_t*>(target.ids));
    default:
      return function(static_cast<std::int64_t*>(target.ids));
  }
}

// Calls function(ids, l, row) for every layer of the rank, l its index in the schema, and row first..first + count − 1,
// where ids is where the K ids stand.
template <class Function>
void for_each_set(const Target& target, std::int64_t first, std::int64_t count, Function&& function) {
  with_target(target, [&](auto* to) {
    for (const std::int64_t layer : target.layers) {
      for (std::int64_t row = first; row < first + count; ++row) function(to + row * target.schema.topk, layer, row);
      to += target.rows * target.schema.topk;
    }
  });
}

// `rows` [count,L,K], or one row for all of them, to rows first..first + count − 1.
void write_rows(const Target& target, const std::byte* rows, bool repeated, std::int64_t first, std::int64_t count) {
  const std::int32_t topk = target.schema.topk;
  const auto row_ids = static_cast<std::int64_t>(target.schema.layers.size()) * topk;
  with_ids(target.schema, static_cast<const void*>(rows), [&](const auto* from) {
    for_each_set(target, first, count, [&](auto* to, std::int64_t layer, std::int64_t row) {
      using Id = std::remove_pointer_t<decltype(to)>;
      const auto* ids = from + (repeated ? 0 : row - first) * row_ids + layer * topk;
      for (std::int32_t s = 0; s < topk; ++s) to[s] = static_cast<Id>(ids[s]);
    });
  });
}

void set_states(const Target& target, std::int64_t first, std::int64_t count, ReplayState state) {
  std::fill_n(target.states + first, count, static_cast<std::uint8_t>(state));
}

// Fills rows first..first + count − 1 with what function(layer, row − first, slot) says.
template <class Function>
void write_made(const Target& target, std::int64_t first, std::int64_t count, ReplayState state, Function&& function) {
  const std::int32_t topk = target.schema.topk;
  for_each_set(target, first, count, [&](auto* to, std::int64_t layer, std::int64_t row) {
    using Id = std::remove_pointer_t<decltype(to)>;
    for (std::int32_t s = 0; s < topk; ++s) to[s] = static_cast<Id>(function(layer, row - first, s));
  });
  set_states(target, first, count, state);
}

class Writer {
 public:
  Writer(Target target, std::span<const RecordRows> sequences, const std::vector<std::int64_t>& cu_seqlens)
      : target_(std::move(target)),
        sequences_(sequences),
        row_bytes_(record_row_bytes(target_.schema)),
        chunk_rows_(rows_per_chunk(row_bytes_)),
        missing_before_(sequences.size() + 1) {
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      missing_before_[s + 1] = missing_before_[s] + count_missing(sequences[s], 0, cu_seqlens[s + 1] - cu_seqlens[s]);
    }
  }

  void write(const Segment& segment) {
    if (segment.sequence < 0) {
      fill(target_.options.padding, segment.row, segment.count, missing_before_.back() + segment.begin,
           sequences_.empty() ? nullptr : &sequences_.back());
      return;
    }
    const RecordRows& rows = sequences_[static_cast<std::size_t>(segment.sequence)];
    const std::int64_t end = segment.begin + segment.count;
    const std::int64_t rows_end = std::clamp(rows.source.rows, segment.begin, end);
    const std::int64_t to_row = segment.row - segment.begin;
    std::int64_t ordinal =
        missing_before_[static_cast<std::size_t>(segment.sequence)] + count_missing(rows, 0, segment.begin);
    for_each_run(rows, segment.begin, rows_end, [&](std::int64_t first, std::int64_t last, bool observed) {
      if (observed) {
        copy(rows, first, last, to_row);
        return;
      }
      const bool tail = last_observed(rows, rows.source.rows) < first;
      fill(tail ? target_.options.tail : target_.options.missing, to_row + first, last - first, ordinal, &rows, first);
      ordinal += last - first;
    });
    if (rows_end < end) fill(target_.options.padding, to_row + rows_end, end - rows_end, ordinal, &rows);
  }

 private:
  // Rows begin..end − 1 that are not observed; those behind the sequence are its padding.
  static std::int64_t count_missing(const RecordRows& rows, std::int64_t begin, std::int64_t end) {
    std::int64_t missing = end - begin;
    for_each_run(rows, begin, std::min(end, rows.source.rows),
                 [&](std::int64_t first, std::int64_t last, bool observed) { missing -= observed ? last - first : 0; });
    return missing;
  }

  // The last observed row before `end`, or −1.
  static std::int64_t last_observed(const RecordRows& rows, std::int64_t end) {
    std::int64_t row = end - 1;
    while (row >= 0 && !rows.is_observed(row)) --row;
    return row;
  }

  std::byte* chunk() {
    if (!chunk_) {
      chunk_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(chunk_rows_) * row_bytes_);
    }
    return chunk_.get();
  }

  void copy(const RecordRows& rows, std::int64_t begin, std::int64_t end, std::int64_t to_row) {
    for (std::int64_t row = begin; row < end; row += chunk_rows_) {
      const std::int64_t count = std::min(chunk_rows_, end - row);
      rows.source.read(row, row + count, chunk());
      write_rows(target_, chunk(), false, to_row + row, count);
    }
    set_states(target_, to_row + begin, end - begin, ReplayState::observed);
  }

  // `before`: where to look for the row to repeat, −1 for the end of the sequence.
  void fill(Filler filler, std::int64_t row, std::int64_t count, std::int64_t ordinal, const RecordRows* rows,
            std::int64_t before = -1) {
    switch (filler) {
      case Filler::minus_one:
        return write_made(target_, row, count, ReplayState::live, [](auto, auto, auto) { return -1; });
      case Filler::zero:
        return write_made(target_, row, count, ReplayState::filled, [](auto, auto, auto) { return 0; });
      case Filler::balanced:
        return fill_balanced(row, count, ordinal);
      case Filler::repeat_last:
        if (rows != nullptr && repeat(*rows, before < 0 ? rows->source.rows : before, row, count)) return;
        [[fallthrough]];
      case Filler::native:
        return write_made(target_, row, count, ReplayState::live, [](auto, auto, std::int32_t slot) { return slot; });
    }
  }

  bool repeat(const RecordRows& rows, std::int64_t before, std::int64_t row, std::int64_t count) {
    const std::int64_t last = last_observed(rows, before);
    if (last < 0) return false;
    rows.source.read(last, last + 1, chunk());
    write_rows(target_, chunk(), true, row, count);
    set_states(target_, row, count, ReplayState::filled);
    return true;
  }

  void fill_balanced(std::int64_t row, std::int64_t count, std::int64_t ordinal) {
    const std::int64_t ranks = target_.options.expert_ranks;
    const std::int64_t per_rank = target_.schema.experts / ranks;
    const std::int64_t topk = target_.schema.topk;
    write_made(target_, row, count, ReplayState::filled, [&](std::int64_t layer, std::int64_t at, std::int32_t slot) {
      const std::int64_t a = (ordinal + at) * topk + slot + layer * ranks * topk;
      return a % ranks * per_rank + a / ranks % per_rank;
    });
  }

  Target target_;
  std::span<const RecordRows> sequences_;
  std::size_t row_bytes_;
  std::int64_t chunk_rows_;
  std::vector<std::int64_t> missing_before_;  // of each sequence, padding included
  std::unique_ptr<std::byte[]> chunk_;
};

ExportLayout layout_of(const RecordSchema& schema, const ExportOptions& options, const RankRows& rank) {
  ExportLayout layout;
  layout.layers = static_cast<std::int64_t>(layer_indices(schema, options).size());
  layout.rows = rank.rows;
  layout.topk = schema.topk;
  const auto row_bytes = static_cast<std::size_t>(layout.layers * schema.topk) * dtype_bytes(options.dtype);
  if (static_cast<std::size_t>(rank.rows) > std::numeric_limits<std::size_t>::max() / 2 / row_bytes) {
    fail(Code::invalid_argument, "export: found {} rows of {} bytes, expected fewer than there are addresses",
         rank.rows, row_bytes);
  }
  layout.bytes = row_bytes * static_cast<std::size_t>(rank.rows);
  layout.cu_seqlens = rank.cu_seqlens;
  return layout;
}

}  // namespace

ExportLayout export_layout(const RecordSchema& schema, std::span<const std::int64_t> lengths,
                           const ExportOptions& options) {
  check_export(schema, lengths, options);
  return layout_of(schema, options, rows_of_rank(lengths, options));
}

ExportLayout export_rows(const RecordSchema& schema, std::span<const RecordRows> sequences,
                         const ExportOptions& options, void* ids, std::size_t ids_bytes,
                         std::span<std::uint8_t> states) {
  std::vector<std::int64_t> lengths;
  for (const RecordRows& rows : sequences) {
    if (!rows.observed.empty() && rows.observed.size() != static_cast<std::size_t>(rows.source.rows)) {
      fail(Code::invalid_argument, "export: sequence {} has {} states of {} rows, expected one per row", lengths.size(),
           rows.observed.size(), rows.source.rows);
    }
    lengths.push_back(rows.source.rows);
  }
  check_export(schema, lengths, options);
  const RankRows rank = rows_of_rank(lengths, options);
  ExportLayout layout = layout_of(schema, options, rank);
  if (ids_bytes != layout.bytes || states.size() != static_cast<std::size_t>(layout.rows)) {
    fail(Code::invalid_argument, "export: found {} bytes for ids and {} for states, expected {} and {}", ids_bytes,
         states.size(), layout.bytes, layout.rows);
  }
  Writer writer({schema, options, layer_indices(schema, options), layout.rows, ids, states.data()}, sequences,
                layout.cu_seqlens);
  for (const Segment& segment : rank.segments) writer.write(segment);
  return layout;
}

}  // namespace switchyard
