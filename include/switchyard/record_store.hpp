// RecordStore: routing records of many sequences in one file that survives whoever writes it.
//
// The file is an SQLite database in WAL mode, docs/record_store.md says what is in it. One process writes, any number
// read at the same time and see what was committed when their call began.
//
// A sequence has positions 0, 1, …; each has a row [L,K] that was observed, or none. A sequence may continue another one:
// then positions below `parent_rows` are the parent's, read there and appended there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/record.hpp"
#include "switchyard/record_encoding.hpp"

namespace switchyard {

enum class StoreAccess : std::int32_t {
  read = 0,
  write = 1,   // the file is there
  create = 2,  // the file is made if it is not there
};

// What happens when a row is appended where another one was observed before. It is kept in either case.
enum class OnConflict : std::int32_t {
  count = 0,   // the new row is dropped and counted
  refuse = 1,  // append throws mismatch and changes nothing
};

struct StoreOptions {
  StoreAccess access = StoreAccess::read;
  OnConflict on_conflict = OnConflict::count;
  bool compress = true;  // try zstd, where it makes a blob smaller
  int wait_ms = 5000;    // how long to wait for another writer
};

struct NewSequence {
  std::int64_t policy_version = 0;
  std::int64_t parent = 0;       // id of a sequence with the same schema; 0: none
  std::int64_t parent_rows = 0;  // positions that are the parent's
};

struct RecordSequence {
  std::int64_t id = 0;
  std::string key;  // empty: removed, but its rows are still needed by others
  std::int64_t policy_version = 0;
  std::int64_t parent = 0;
  std::int64_t parent_rows = 0;
  std::int64_t rows = 0;       // one more than the last position appended, or said to be missing
  std::int64_t observed = 0;   // of them, with a row: the parent's too
  std::int64_t conflicts = 0;  // rows that were dropped
};

struct AppendResult {
  std::int64_t stored = 0;     // rows that are new
  std::int64_t equal = 0;      // rows that were there already
  std::int64_t conflicts = 0;  // rows that were there with other ids
};

// Order of ids that are read: [rows,layers,K] as a record has them, or [layers,rows,K] as a trainer takes them.
enum class RecordLayout : std::int32_t { rows_first = 0, layers_first = 1 };

struct EncodingStats {
  RecordEncoding encoding = RecordEncoding::raw;
  std::int64_t blobs = 0;
  std::int64_t bytes = 0;      // as stored
  std::int64_t raw_bytes = 0;  // of the ids in record_id_type
};

struct StoreStats {
  std::int64_t sequences = 0;
  std::int64_t spans = 0;
  std::int64_t rows = 0;  // observed, each once
  std::int64_t conflicts = 0;
  std::int64_t file_bytes = 0;           // log of the writer included
  std::vector<EncodingStats> encodings;  // those in use

  std::int64_t bytes() const noexcept;
  std::int64_t raw_bytes() const noexcept;
};

// Rows that cannot be read: positions begin..end − 1 of these layers. Without a sequence: the file as a whole.
struct StoreDamage {
  std::string sequence;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int32_t first_layer = 0;  // global indices
  std::int32_t last_layer = 0;
  std::string what;
};

struct CompactResult {
  std::int64_t dropped_rows = 0;   // of removed sequences
  std::int64_t merged_spans = 0;   // spans that became part of a larger one
  std::int64_t damaged_spans = 0;  // left as they are
  std::int64_t bytes_before = 0;   // of the file
  std::int64_t bytes_after = 0;
};

// Called now and then with how much is done of how much.
using StoreProgress = std::function<void(std::int64_t done, std::int64_t of)>;

// Used by one thread at a time; threads and processes that share a file open it themselves, and nobody carries an open
// store through fork(). Movable.
//
// Every function throws io (what the system refuses: no space, no permission, another writer), bad_data (damage, named by
// sequence, positions and layers), not_supported (a newer format) and invalid_argument (ids and ranges that are not
// there). A function that throws has changed nothing.
class SWITCHYARD_API RecordStore {
 public:
  static RecordStore open(const std::filesystem::path& path, const StoreOptions& options = {});
  ~RecordStore();
  RecordStore(RecordStore&&) noexcept;
  RecordStore& operator=(RecordStore&&) noexcept;

  // The key is any text but the empty one, each at most once.
  std::int64_t add_sequence(const RecordSchema& schema, std::string_view key, const NewSequence& sequence = {});
  std::optional<RecordSequence> find(std::string_view key) const;
  std::vector<RecordSequence> sequences() const;  // by id, removed ones left out
  RecordSchema schema(std::int64_t sequence) const;

  // Rows of `source` become those of positions start, start + 1, … `observed` [rows], 0: this one is missing; it is not
  // read and stays what it was. Empty: all are there. Rows of a canonical schema are sorted. Outside of a transaction
  // an append commits. At most 256 rows of it are in memory at once.
  AppendResult append(std::int64_t sequence, std::int64_t start, const RowSource& source,
                      std::span<const std::uint8_t> observed = {});

  // What is done until commit() is there in whole or not at all; without commit() it is undone. One at a time.
  struct Impl;
  class SWITCHYARD_API Transaction {
   public:
    ~Transaction();
    Transaction(Transaction&& other) noexcept : store_(std::exchange(other.store_, nullptr)) {}
    Transaction& operator=(Transaction&&) = delete;
    void commit();

   private:
    friend RecordStore;
    explicit Transaction(Impl* store) : store_(store) {}
    Impl* store_;
  };
  Transaction transaction();  // ends before the store does

  // Positions begin..end − 1 of the layers with these global indices, in their order (none: all layers), to `ids` in
  // record_id_type and `valid` [rows]: 1 where a row was observed, else 0 and its ids are 0. Reads the blobs that have
  // these rows and layers and nothing else: at most one per 256 rows and group of layers once the store is compact.
  void read(std::int64_t sequence, std::int64_t begin, std::int64_t end, std::span<const std::int32_t> layers,
            RecordLayout layout, void* ids, std::uint8_t* valid) const;

  StoreStats stats() const;

  // Reads everything and lists all that is damaged.
  std::vector<StoreDamage> verify(const StoreProgress& progress = {}) const;

  // The key is free again. Rows that other sequences continue stay.
  void remove(std::int64_t sequence);

  // Drops rows that no sequence has any more, makes blobs of neighbouring rows one, gives the space back. Not inside of
  // a transaction.
  CompactResult compact(const StoreProgress& progress = {});

 private:
  explicit RecordStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace switchyard
