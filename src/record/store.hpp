// What a RecordStore is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "record/sqlite.hpp"
#include "record/store_format.hpp"
#include "switchyard/record_encoding.hpp"
#include "switchyard/record_store.hpp"

namespace switchyard {

// A row of the table of sequences.
struct StoredSequence {
  std::int64_t id = 0;
  std::string key;
  std::int64_t schema = 0;
  std::int64_t policy_version = 0;
  std::int64_t parent = 0;
  std::int64_t parent_rows = 0;
  std::int64_t rows = 0;
  std::int64_t conflicts = 0;
};

// Neighbouring observed rows of one sequence, of one block.
struct Span {
  std::int64_t id = 0;
  std::int64_t start = 0;
  std::int64_t rows = 0;
  std::int64_t end() const noexcept { return start + rows; }
};

// Positions begin..end − 1, whose rows `sequence` has: it or one that it continues.
struct OwnedRange {
  std::int64_t sequence = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

struct RecordStore::Impl {
  Impl(Sqlite opened, const StoreOptions& options_);

  Sqlite database;
  StoreOptions options;
  IdEncoder encoder;
  IdDecoder decoder;
  std::map<std::int64_t, StoredSchema> schemas;  // those that were asked for: they never change
  std::vector<std::byte> rows;                   // of a block, as the source gives them
  std::vector<std::byte> ids;                    // of a blob
  bool transaction_open = false;

  Statement select_sequence;
  Statement select_schema;
  Statement select_spans;
  Statement select_blob;
  Statement insert_span;
  Statement insert_blob;

  StoredSequence sequence(std::int64_t id);  // throws invalid_argument
  const StoredSchema& schema(std::int64_t id);

  // Who has positions begin..end − 1, ascending.
  std::vector<OwnedRange> owners(std::int64_t sequence, std::int64_t begin, std::int64_t end);
  // Spans with rows among begin..end − 1 of the sequence itself, ascending.
  std::vector<Span> spans(std::int64_t sequence, std::int64_t begin, std::int64_t end);
  std::int64_t observed_rows(std::int64_t sequence, std::int64_t end);

  // Decodes rows begin..end − 1 (positions) of layers first..last (of the schema) of one blob to
  // `ids` [last − first + 1,end − begin,K]. Throws bad_data naming sequence, positions and layers.
  void read_blob(std::int64_t sequence, const StoredSchema& schema, const Span& span, std::int64_t group,
                 std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end,
                 std::vector<std::byte>& to);
  // All layers of positions begin..end − 1, which the span has, to `to` [rows,L,K].
  void read_span(std::int64_t sequence, const StoredSchema& schema, const Span& span, std::int64_t begin,
                 std::int64_t end, void* to);
  // `from` [rows,L,K], sorted if canonical, as a new span.
  void write_span(std::int64_t sequence, const StoredSchema& schema, std::int64_t start, std::int64_t count,
                  const std::byte* from);
  std::int64_t file_bytes() const;
};

// `count` sets of `bytes` bytes each, at these distances from one to the next.
void copy_sets(const std::byte* from, std::size_t from_stride, std::byte* to, std::size_t to_stride, std::size_t bytes,
               std::int64_t count) noexcept;

// Names rows in messages: sequence 'a' positions 0..255 layers 3..6.
std::string place_text(const std::string& key, std::int64_t begin, std::int64_t end, std::int32_t first_layer,
                       std::int32_t last_layer);

}  // namespace switchyard
