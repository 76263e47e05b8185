// Rows of a payload: decoded, narrowed and checked in blocks that stay in the first cache.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "fail.hpp"
#include "record/lists.hpp"
#include "record/payload_parts.hpp"
#include "record/record_kernels.hpp"
#include "switchyard/base64.hpp"
#include "switchyard/payload.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{16} << 10;  // of ids as they are sent, and of rows

// Neighbouring layers of the payload that are neighbours in the schema, as ids of a row.
struct Run {
  std::int64_t from;
  std::int64_t to;
  std::int64_t count;
};

std::vector<Run> make_runs(const Payload& payload, const RecordSchema& schema) {
  const std::size_t layers = schema.layers.size();
  std::vector<Run> runs;
  std::int64_t at = 0;  // where the search goes on: both lists ascend
  for (std::size_t l = 0; l < layers; ++l) {
    const std::int32_t layer = schema.layers[l];
    std::int64_t place = layer;
    if (!payload.layer_ids.empty()) {
      const auto& ids = payload.layer_ids;
      const auto found = std::lower_bound(ids.begin() + at, ids.end(), layer);
      place = found != ids.end() && *found == layer ? found - ids.begin() : payload.layers;
    } else if (payload.layers == static_cast<std::int64_t>(layers)) {
      place = static_cast<std::int64_t>(l);
    }
    if (place >= payload.layers) {
      fail(Code::bad_data, "payload: no layer {} among its {}, expected the {} of the schema", layer, payload.layers,
           layers);
    }
    const std::int64_t from = place * schema.topk;
    const std::int64_t to = static_cast<std::int64_t>(l) * schema.topk;
    if (!runs.empty() && runs.back().from + runs.back().count == from) {
      runs.back().count += schema.topk;
    } else {
      runs.push_back({from, to, schema.topk});
    }
    at = place;
  }
  return runs;
}

std::int64_t id_at(const std::byte* ids, DType dtype, std::int64_t i) {
  const std::size_t size = dtype_bytes(dtype);
  std::uint64_t bits = 0;
  std::memcpy(&bits, ids + static_cast<std::size_t>(i) * size, size);
  const bool is_signed = dtype != DType::u8 && dtype != DType::u16;
  const auto shift = static_cast<unsigned>(64 - 8 * size);
  return is_signed ? static_cast<std::int64_t>(bits << shift) >> shift : static_cast<std::int64_t>(bits);
}

// Immutable once made; what is called from several threads.
class PayloadReader {
 public:
  PayloadReader(const Payload& payload, const RecordSchema& schema) : payload_(payload), schema_(schema) {
    check_schema(schema);
    check_payload_size(payload);
    if (payload.form == PayloadForm::lists) {
      lists_ = parse_lists(payload.data);
      check_payload_lists(payload, lists_);
    }
    if (payload.rows == 0) {
      return;
    }
    if (payload.topk != schema.topk) {
      fail(Code::bad_data, "payload: topk {}, expected the schema's {}", payload.topk, schema.topk);
    }
    runs_ = make_runs(payload, schema);
    row_ids_ = payload.layers * payload.topk;
    const bool whole = runs_.size() == 1 && runs_.front().count == row_ids_;
    straight_ = whole && payload.form != PayloadForm::lists && payload.dtype == record_id_type(schema);
  }

  void read(std::int64_t begin, std::int64_t end, void* to) const {
    check_range(begin, end);
    const std::size_t row_bytes = record_row_bytes(schema_);
    const auto block = static_cast<std::int64_t>(std::max<std::size_t>(1, kBlockBytes / row_bytes));
    Source source(*this);
    auto* out = static_cast<std::byte*>(to);
    for (std::int64_t first = begin; first < end; first += block) {
      const std::int64_t last = std::min(end, first + block);
      if (straight_) {
        source.take(first * row_ids_, (last - first) * row_ids_, out);
      } else {
        narrow(source, first, last, out);
      }
      check_rows(schema_, out, last - first, first);
      if (schema_.order == SlotOrder::canonical) {
        sort_slots(schema_, out, last - first);
      }
      out += static_cast<std::size_t>(last - first) * row_bytes;
    }
  }

  void states(std::int64_t begin, std::int64_t end, RowState* states) const {
    check_range(begin, end);
    if (begin == end) {
      return;
    }
    Source source(*this);
    std::int64_t first = 0;  // id of the row; all others have to be equal to it
    for_each_piece(source, begin, end, [&](std::int64_t row, const Run& run, const std::byte* ids, std::int64_t count) {
      RowState& state = states[row - begin];
      if (run.to == 0) {
        first = id_at(ids, payload_.dtype, 0);
        state = first == -1 ? RowState::missing : RowState::zero;
      }
      if (state == RowState::observed) {
        return;
      }
      for (std::int64_t i = 0; i < count; ++i) {
        if (id_at(ids, payload_.dtype, i) != first || (first != -1 && first != 0)) {
          state = RowState::observed;
          return;
        }
      }
    });
    const std::size_t ids_kept = schema_.layers.size() * static_cast<std::size_t>(schema_.topk);
    if (schema_.experts == 1 || ids_kept == 1) {
      std::replace(states, states + (end - begin), RowState::zero, RowState::observed);
    }
  }

 private:
  // Ids by their place in the row-major payload, as they are sent.
  class Source {
   public:
    explicit Source(const PayloadReader& reader) : payload_(reader.payload_), lists_(payload_.data, reader.lists_) {}

    void take(std::int64_t first, std::int64_t count, std::byte* to) {
      const std::size_t size = dtype_bytes(payload_.dtype);
      const std::size_t begin = payload_.offset + static_cast<std::size_t>(first) * size;
      const std::size_t bytes = static_cast<std::size_t>(count) * size;
      if (payload_.form == PayloadForm::base64) {
        decode_base64(payload_.data, begin, begin + bytes, to);
      } else if (payload_.form == PayloadForm::raw) {
        std::memcpy(to, payload_.data.data() + begin, bytes);
      } else {
        lists_.read(first, count, reinterpret_cast<std::int32_t*>(to));
      }
    }

   private:
    const Payload& payload_;
    ListCursor lists_;
  };

  void check_range(std::int64_t begin, std::int64_t end) const {
    if (begin < 0 || end < begin || end > payload_.rows) {
      fail(Code::invalid_argument, "payload: rows {} to {}, expected a range inside of 0 to {}", begin, end,
           payload_.rows);
    }
  }

  // piece(row, run, ids, count) for every run of every row, in order; a run that is larger than the buffer comes in
  // several.
  template <class Piece>
  void for_each_piece(Source& source, std::int64_t begin, std::int64_t end, const Piece& piece) const {
    alignas(64) std::array<std::byte, kBlockBytes> buffer;
    const std::size_t size = dtype_bytes(payload_.dtype);
    const auto room = static_cast<std::int64_t>(kBlockBytes / size);
    if (row_ids_ <= room) {
      const std::int64_t rows_at_once = room / row_ids_;
      for (std::int64_t first = begin; first < end; first += rows_at_once) {
        const std::int64_t last = std::min(end, first + rows_at_once);
        source.take(first * row_ids_, (last - first) * row_ids_, buffer.data());
        for (std::int64_t row = first; row < last; ++row) {
          for (const Run& run : runs_) {
            const auto at = static_cast<std::size_t>((row - first) * row_ids_ + run.from);
            piece(row, run, buffer.data() + at * size, run.count);
          }
        }
      }
      return;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      for (const Run& run : runs_) {
        Run part = run;
        for (std::int64_t done = 0; done < run.count; done += part.count) {
          part = {run.from + done, run.to + done, std::min(room, run.count - done)};
          source.take(row * row_ids_ + part.from, part.count, buffer.data());
          piece(row, part, buffer.data(), part.count);
        }
      }
    }
  }

  void narrow(Source& source, std::int64_t begin, std::int64_t end, std::byte* to) const {
    const RecordKernels& kernels = record_kernels();
    const std::size_t id_bytes = dtype_bytes(record_id_type(schema_));
    const std::size_t row_bytes = record_row_bytes(schema_);
    bool valid = true;
    for_each_piece(source, begin, end, [&](std::int64_t row, const Run& run, const std::byte* ids, std::int64_t count) {
      std::byte* out =
          to + static_cast<std::size_t>(row - begin) * row_bytes + static_cast<std::size_t>(run.to) * id_bytes;
      valid &= kernels.narrow(ids, payload_.dtype, count, out, id_bytes, schema_.experts);
    });
    if (!valid) {
      explain(source, begin, end);
    }
  }

  // Throws for the first row that is missing or names an expert that is none.
  void explain(Source& source, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t row = begin; row < end; ++row) {
      RowState state = RowState::observed;
      states(row, row + 1, &state);
      if (state == RowState::missing) {
        fail(Code::bad_data, "payload: row {} is missing, -1 in every id, expected one that was captured", row);
      }
      for_each_piece(source, row, row + 1, [&](std::int64_t, const Run& run, const std::byte* ids, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) {
          const std::int64_t id = id_at(ids, payload_.dtype, i);
          if (id < 0 || id >= schema_.experts) {
            const std::int64_t slot = run.to + i;
            fail(Code::bad_data, "payload: row {} layer {} slot {} names expert {}, expected 0..{}", row,
                 schema_.layers[static_cast<std::size_t>(slot / schema_.topk)], slot % schema_.topk, id,
                 schema_.experts - 1);
          }
        }
      });
    }
  }

  Payload payload_;
  RecordSchema schema_;
  Lists lists_;
  std::vector<Run> runs_;
  std::int64_t row_ids_ = 1;  // a divisor, so not 0 where there are no rows either
  bool straight_ = false;     // rows stand in the payload as they are wanted
};

}  // namespace

RowSource rows_of(const Payload& payload, const RecordSchema& schema) {
  return {payload.rows, [reader = std::make_shared<const PayloadReader>(payload, schema)](
                            std::int64_t begin, std::int64_t end, void* to) { reader->read(begin, end, to); }};
}

void row_states(const Payload& payload, const RecordSchema& schema, std::int64_t begin, std::int64_t end,
                RowState* states) {
  PayloadReader(payload, schema).states(begin, end, states);
}

}  // namespace switchyard
