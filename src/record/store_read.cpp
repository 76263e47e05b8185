// Rows out of a store.
#include <algorithm>
#include <cstring>

#include "fail.hpp"
#include "format_text.hpp"
#include "record/known_encoding.hpp"
#include "record/store.hpp"

namespace switchyard {
namespace {

// Where the wanted layers stand in the schema. Throws invalid_argument.
std::vector<std::int64_t> find_layers(const RecordSchema& schema, std::span<const std::int32_t> layers) {
  std::vector<std::int64_t> places;
  for (const std::int32_t layer : layers.empty() ? std::span<const std::int32_t>(schema.layers) : layers) {
    const auto at = std::lower_bound(schema.layers.begin(), schema.layers.end(), layer);
    if (at == schema.layers.end() || *at != layer) {
      fail(Code::invalid_argument, "record store: layer {} is not in the record, expected one of {}..{}", layer,
           schema.layers.front(), schema.layers.back());
    }
    places.push_back(at - schema.layers.begin());
  }
  return places;
}

// Distances in `ids`, in bytes.
struct Strides {
  std::size_t row = 0;
  std::size_t layer = 0;
};

template <std::size_t kBytes>
void copy_sets_of(const std::byte* from, std::size_t from_stride, std::byte* to, std::size_t to_stride,
                  std::int64_t count) noexcept {
  for (std::int64_t s = 0; s < count; ++s, from += from_stride, to += to_stride) std::memcpy(to, from, kBytes);
}

}  // namespace

void copy_sets(const std::byte* from, std::size_t from_stride, std::byte* to, std::size_t to_stride, std::size_t bytes,
               std::int64_t count) noexcept {
  if (from_stride == bytes && to_stride == bytes) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * bytes);
    return;
  }
  switch (bytes) {  // usual ones, as moves of a fixed size
    case 4:
      return copy_sets_of<4>(from, from_stride, to, to_stride, count);
    case 8:
      return copy_sets_of<8>(from, from_stride, to, to_stride, count);
    case 16:
      return copy_sets_of<16>(from, from_stride, to, to_stride, count);
    default:
      for (std::int64_t s = 0; s < count; ++s, from += from_stride, to += to_stride) std::memcpy(to, from, bytes);
  }
}

std::string place_text(const std::string& key, std::int64_t begin, std::int64_t end, std::int32_t first_layer,
                       std::int32_t last_layer) {
  return format_text("sequence '{}' positions {}..{} layers {}..{}", key, begin, end - 1, first_layer, last_layer);
}

std::vector<OwnedRange> RecordStore::Impl::owners(std::int64_t sequence_id, std::int64_t begin, std::int64_t end) {
  std::vector<OwnedRange> ranges;
  while (begin < end) {
    const StoredSequence owner = sequence(sequence_id);
    const std::int64_t from = std::max(begin, owner.parent == 0 ? 0 : owner.parent_rows);
    if (from < end) ranges.push_back({sequence_id, from, end});
    end = std::min(end, from);
    sequence_id = owner.parent;
  }
  std::reverse(ranges.begin(), ranges.end());
  return ranges;
}

std::vector<Span> RecordStore::Impl::spans(std::int64_t sequence_id, std::int64_t begin, std::int64_t end) {
  std::vector<Span> found;
  select_spans.with(sequence_id, begin / kBlockRows * kBlockRows, end);
  while (select_spans.step()) {
    const Span span{select_spans.number(0), select_spans.number(1), select_spans.number(2)};
    if (span.end() > begin) found.push_back(span);
  }
  select_spans.reset();
  return found;
}

std::int64_t RecordStore::Impl::observed_rows(std::int64_t sequence_id, std::int64_t end) {
  std::int64_t rows_observed = 0;
  Statement sum(database,
                "SELECT coalesce(sum(min(rows, ?3 - start)), 0) FROM spans "
                "WHERE sequence_id = ?1 AND start >= ?2 AND start < ?3");
  for (const OwnedRange& range : owners(sequence_id, 0, end)) {
    sum.with(range.sequence, range.begin, range.end).step();  // no span begins before what its sequence owns
    rows_observed += sum.number(0);
  }
  return rows_observed;
}

void RecordStore::Impl::read_blob(std::int64_t sequence_id, const StoredSchema& stored, const Span& span,
                                  std::int64_t group, std::int64_t first, std::int64_t last, std::int64_t begin,
                                  std::int64_t end, std::vector<std::byte>& to) {
  const RecordSchema& s = stored.schema;
  const std::int64_t group_begin = stored.group_begin(group);
  const std::int64_t group_end = stored.group_end(group);
  const auto damaged = [&](std::string_view what) {
    fail(Code::bad_data, "record store: {}: {} cannot be read: {}", database.path(),
         place_text(sequence(sequence_id).key, span.start, span.end(), s.layers[static_cast<std::size_t>(group_begin)],
                    s.layers[static_cast<std::size_t>(group_end - 1)]),
         what);
  };
  if (span.rows < 1 || span.rows > kBlockRows) damaged(format_text("{} rows, expected 1..{}", span.rows, kBlockRows));
  struct Reset {
    Statement& statement;
    ~Reset() { statement.reset(); }
  } reset{select_blob};
  if (!select_blob.with(span.id, group).step()) damaged("its blob is not there");
  const std::int64_t encoding = select_blob.number(0);
  const std::span<const std::byte> bytes = select_blob.bytes(2);
  const BlobPlace place{sequence_id, span.start, span.rows, group, encoding, s.experts, s.topk};
  if (blob_checksum(place, bytes) != select_blob.number(1)) damaged("its blob has another checksum");
  if (!is_known_encoding(encoding))
    damaged(format_text("its blob has the encoding {}, expected a known one", encoding));

  const IdShape shape{s.experts, s.topk, s.order, (group_end - group_begin) * span.rows};
  const std::size_t set_bytes = static_cast<std::size_t>(s.topk) * shape.id_bytes();
  const std::int64_t count = end - begin;
  to.resize(static_cast<std::size_t>((last - first + 1) * count) * set_bytes);
  try {
    const auto part = [&](std::int64_t layer, std::int64_t sets, std::size_t at) {
      decoder.decode(static_cast<RecordEncoding>(encoding), shape, bytes,
                     (layer - group_begin) * span.rows + begin - span.start, sets, to.data() + at * set_bytes);
    };
    if (count == span.rows) {
      part(first, (last - first + 1) * count, 0);
      return;
    }
    for (std::int64_t layer = first; layer <= last; ++layer) {
      part(layer, count, static_cast<std::size_t>((layer - first) * count));
    }
  } catch (const Error& error) {
    if (error.code() != Code::bad_data) throw;
    damaged(error.what());
  }
}

void RecordStore::Impl::read_span(std::int64_t sequence_id, const StoredSchema& stored, const Span& span,
                                  std::int64_t begin, std::int64_t end, void* to) {
  const std::size_t row_bytes = record_row_bytes(stored.schema);
  const std::size_t set_bytes = row_bytes / stored.schema.layers.size();
  for (std::int64_t group = 0; group < stored.groups(); ++group) {
    const std::int64_t first = stored.group_begin(group);
    const std::int64_t last = stored.group_end(group) - 1;
    read_blob(sequence_id, stored, span, group, first, last, begin, end, ids);
    const std::byte* from = ids.data();
    for (std::int64_t layer = first; layer <= last; ++layer) {
      std::byte* set = static_cast<std::byte*>(to) + static_cast<std::size_t>(layer) * set_bytes;
      copy_sets(from, set_bytes, set, row_bytes, set_bytes, end - begin);
      from += static_cast<std::size_t>(end - begin) * set_bytes;
    }
  }
}

void RecordStore::read(std::int64_t sequence, std::int64_t begin, std::int64_t end,
                       std::span<const std::int32_t> layers, RecordLayout layout, void* ids,
                       std::uint8_t* valid) const {
  if (begin < 0 || end < begin || end > kMaxPosition) {
    fail(Code::invalid_argument, "record store: positions {}..{}, expected an ascending range", begin, end);
  }
  Impl& impl = *impl_;
  // One view of the file for all that is read.
  const ReadView view(impl.database);
  const StoredSchema& stored = impl.schema(impl.sequence(sequence).schema);
  const std::vector<std::int64_t> places = find_layers(stored.schema, layers);
  const std::size_t set_bytes = record_row_bytes(stored.schema) / stored.schema.layers.size();
  const auto count = static_cast<std::size_t>(end - begin);
  std::fill_n(valid, count, std::uint8_t{0});
  const Strides strides = layout == RecordLayout::rows_first ? Strides{places.size() * set_bytes, set_bytes}
                                                             : Strides{set_bytes, count * set_bytes};
  std::vector<std::byte> part;
  for (const OwnedRange& range : impl.owners(sequence, begin, end)) {
    for (const Span& span : impl.spans(range.sequence, range.begin, range.end)) {
      const std::int64_t from = std::max(range.begin, span.start);
      const std::int64_t to = std::min(range.end, span.end());
      for (std::int64_t group = 0; group < stored.groups(); ++group) {
        const std::int64_t group_begin = stored.group_begin(group);
        const std::int64_t group_end = stored.group_end(group);
        std::int64_t first = group_end;
        std::int64_t last = -1;
        for (const std::int64_t layer : places) {
          if (layer < group_begin || layer >= group_end) continue;
          first = std::min(first, layer);
          last = std::max(last, layer);
        }
        if (last < 0) continue;
        impl.read_blob(range.sequence, stored, span, group, first, last, from, to, part);
        for (std::size_t l = 0; l < places.size(); ++l) {
          if (places[l] < group_begin || places[l] >= group_end) continue;
          const std::byte* set = part.data() + static_cast<std::size_t>((places[l] - first) * (to - from)) * set_bytes;
          std::byte* out =
              static_cast<std::byte*>(ids) + l * strides.layer + static_cast<std::size_t>(from - begin) * strides.row;
          copy_sets(set, set_bytes, out, strides.row, set_bytes, to - from);
        }
      }
      std::fill_n(valid + (from - begin), to - from, std::uint8_t{1});
    }
  }
  for (std::size_t row = 0; row < count; ++row) {
    if (valid[row] != 0) continue;
    for (std::size_t l = 0; l < places.size(); ++l) {
      std::memset(static_cast<std::byte*>(ids) + row * strides.row + l * strides.layer, 0, set_bytes);
    }
  }
}

}  // namespace switchyard
