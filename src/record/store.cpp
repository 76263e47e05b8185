// Opening a store, its sequences, and what is appended to them.
#include "record/store.hpp"

#include <algorithm>
#include <cstring>

#include "fail.hpp"

namespace switchyard {
namespace {

SqliteAccess sqlite_access(StoreAccess access) {
  switch (access) {
    case StoreAccess::read:
      return SqliteAccess::read;
    case StoreAccess::write:
      return SqliteAccess::write;
    case StoreAccess::create:
      return SqliteAccess::create;
  }
  fail(Code::invalid_argument, "record store: access {}, expected read, write or create", static_cast<int>(access));
}

// Commits are on the disk when they return; the log of a file that begins here grows to some 256 MB before it is taken into
// the file. Pages of 64 KiB hold four blobs of 14 KiB: large appends take 0.75 of the time that they take with 8 KiB. A commit
// of a few rows pays with 0.3 MB more of log, 0.6 ms.
void set_up(const Sqlite& database) {
  database.run(
      "PRAGMA page_size = 65536; PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; "
      "PRAGMA synchronous = FULL;"
      "PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 4096");
}

constexpr const char* kSequenceColumns =
    "SELECT sequence_id, key, schema_id, policy_version, parent_id, parent_rows, rows, conflicts FROM sequences ";

StoredSequence read_sequence(const Statement& row) {
  return {row.number(0), row.text(1),   row.number(2), row.number(3),
          row.number(4), row.number(5), row.number(6), row.number(7)};
}

// The rows of `from` [rows,L,K] for layers begin..end − 1, as a blob has them: [layer,row,K].
void gather_group(const std::byte* from, std::size_t row_bytes, std::size_t set_bytes, std::int64_t count,
                  std::int64_t begin, std::int64_t end, std::byte* to) {
  for (std::int64_t layer = begin; layer < end; ++layer) {
    const std::byte* set = from + static_cast<std::size_t>(layer) * set_bytes;
    copy_sets(set, row_bytes, to, set_bytes, set_bytes, count);
    to += static_cast<std::size_t>(count) * set_bytes;
  }
}

}  // namespace

RecordStore::Impl::Impl(Sqlite opened, const StoreOptions& options_)
    : database(std::move(opened)),
      options(options_),
      encoder(options_.compress),
      select_sequence(database, (std::string(kSequenceColumns) + "WHERE sequence_id = ?1").c_str()),
      select_schema(database,
                    "SELECT experts, topk, slot_order, group_layers, layers, model FROM schemas WHERE schema_id = ?1"),
      select_spans(database,
                   "SELECT span_id, start, rows FROM spans WHERE sequence_id = ?1 AND start >= ?2 AND start < ?3 "
                   "ORDER BY start"),
      select_blob(database, "SELECT encoding, checksum, data FROM blobs WHERE span_id = ?1 AND layer_group = ?2"),
      insert_span(database, "INSERT INTO spans (sequence_id, start, rows) VALUES (?1, ?2, ?3)"),
      insert_blob(database,
                  "INSERT INTO blobs (span_id, layer_group, encoding, checksum, data) VALUES (?1, ?2, ?3, ?4, ?5)") {}

RecordStore::RecordStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RecordStore::~RecordStore() = default;
RecordStore::RecordStore(RecordStore&&) noexcept = default;
RecordStore& RecordStore::operator=(RecordStore&&) noexcept = default;

RecordStore RecordStore::open(const std::filesystem::path& path, const StoreOptions& options) {
  Sqlite database = Sqlite::open(path, sqlite_access(options.access), options.wait_ms);
  set_up(database);
  prepare_tables(database, options.access);
  return RecordStore(std::make_unique<Impl>(std::move(database), options));
}

StoredSequence RecordStore::Impl::sequence(std::int64_t id) {
  const bool there = select_sequence.with(id).step();
  StoredSequence found = there ? read_sequence(select_sequence) : StoredSequence{};
  select_sequence.reset();
  if (!there) fail(Code::invalid_argument, "record store: {}: no sequence with id {}", database.path(), id);
  return found;
}

const StoredSchema& RecordStore::Impl::schema(std::int64_t id) {
  if (const auto known = schemas.find(id); known != schemas.end()) return known->second;
  StoredSchema found;
  found.id = id;
  if (!select_schema.with(id).step()) {
    fail(Code::bad_data, "record store: {}: schema {} is not there, expected it", database.path(), id);
  }
  found.schema.experts = static_cast<std::int32_t>(select_schema.number(0));
  found.schema.topk = static_cast<std::int32_t>(select_schema.number(1));
  found.schema.order = select_schema.number(2) == 0 ? SlotOrder::kept : SlotOrder::canonical;
  found.group_layers = select_schema.number(3);
  found.schema.layers = layers_from_json(select_schema.text(4), database.path());
  found.schema.model = select_schema.text(5);
  select_schema.reset();
  if (found.group_layers < 1) {
    fail(Code::bad_data, "record store: {}: groups of {} layers, expected 1 or more", database.path(),
         found.group_layers);
  }
  try {
    check_schema(found.schema);
  } catch (const Error& error) {
    fail(Code::bad_data, "record store: {}: schema {} is damaged: {}", database.path(), id, error.what());
  }
  return schemas.emplace(id, std::move(found)).first->second;
}

RecordSchema RecordStore::schema(std::int64_t sequence) const {
  return impl_->schema(impl_->sequence(sequence).schema).schema;
}

std::int64_t RecordStore::add_sequence(const RecordSchema& schema, std::string_view key, const NewSequence& sequence) {
  check_schema(schema);
  if (key.empty()) fail(Code::invalid_argument, "record store: a sequence without a key, expected some text");
  if (sequence.parent_rows < 0 || (sequence.parent == 0 && sequence.parent_rows > 0)) {
    fail(Code::invalid_argument, "record store: sequence '{}' has {} rows of the parent {}, expected a parent and 0..",
         key, sequence.parent_rows, sequence.parent);
  }
  const Sqlite& database = impl_->database;
  Savepoint step(database);
  if (find(key)) fail(Code::invalid_argument, "record store: sequence '{}' is there already, expected a new key", key);
  const std::string layers = layers_json(schema);
  const auto order = static_cast<std::int64_t>(schema.order);
  // With groups of any size, for files that another writer began; if there are several, a child has its parent's.
  Statement same(database,
                 "SELECT schema_id FROM schemas WHERE experts = ?1 AND topk = ?2 AND slot_order = ?3 AND "
                 "layers = ?4 AND model = ?5 "
                 "ORDER BY schema_id IS NOT (SELECT schema_id FROM sequences WHERE sequence_id = ?6), schema_id");
  const auto experts = std::int64_t{schema.experts};
  const auto topk = std::int64_t{schema.topk};
  std::int64_t schema_id = 0;
  if (same.with(experts, topk, order, std::string_view(layers), std::string_view(schema.model), sequence.parent)
          .step()) {
    schema_id = same.number(0);
  } else {
    Statement(database,
              "INSERT INTO schemas (experts, topk, slot_order, group_layers, layers, model) "
              "VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .with(experts, topk, order, kGroupLayers, std::string_view(layers), std::string_view(schema.model))
        .run();
    schema_id = database.last_id();
  }
  std::optional<std::int64_t> parent;
  if (sequence.parent != 0) {
    parent = sequence.parent;
    if (impl_->sequence(sequence.parent).schema != schema_id) {
      fail(Code::invalid_argument, "record store: sequence '{}' and its parent {} have different schemas, expected one",
           key, sequence.parent);
    }
  }
  Statement(database,
            "INSERT INTO sequences (key, schema_id, policy_version, parent_id, parent_rows, rows, conflicts) "
            "VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0)")
      .with(key, schema_id, sequence.policy_version, parent, sequence.parent_rows)
      .run();
  const std::int64_t id = database.last_id();
  step.keep();
  return id;
}

std::optional<RecordSequence> RecordStore::find(std::string_view key) const {
  Statement select(impl_->database, "SELECT sequence_id FROM sequences WHERE key = ?1");
  if (!select.with(key).step()) return std::nullopt;
  const StoredSequence s = impl_->sequence(select.number(0));
  return RecordSequence{
      s.id,       s.key, s.policy_version, s.parent, s.parent_rows, s.rows, impl_->observed_rows(s.id, kMaxPosition),
      s.conflicts};
}

std::vector<RecordSequence> RecordStore::sequences() const {
  Statement select(impl_->database, "SELECT key FROM sequences WHERE key IS NOT NULL ORDER BY sequence_id");
  std::vector<RecordSequence> all;
  while (select.step()) all.push_back(*find(select.text(0)));
  return all;
}

void RecordStore::Impl::write_span(std::int64_t sequence, const StoredSchema& schema, std::int64_t start,
                                   std::int64_t count, const std::byte* from) {
  insert_span.with(sequence, start, count).run();
  const std::int64_t span = database.last_id();
  const std::size_t row_bytes = record_row_bytes(schema.schema);
  const std::size_t set_bytes = row_bytes / schema.schema.layers.size();
  for (std::int64_t group = 0; group < schema.groups(); ++group) {
    const std::int64_t begin = schema.group_begin(group);
    const std::int64_t end = schema.group_end(group);
    const std::int64_t sets = (end - begin) * count;
    ids.resize(static_cast<std::size_t>(sets) * set_bytes);
    gather_group(from, row_bytes, set_bytes, count, begin, end, ids.data());
    const IdShape shape{schema.schema.experts, schema.schema.topk, schema.schema.order, sets};
    const IdEncoder::Result result = encoder.encode(shape, ids.data());
    const auto encoding = static_cast<std::int64_t>(result.encoding);
    const std::int64_t checksum = blob_checksum(
        {sequence, start, count, group, encoding, schema.schema.experts, schema.schema.topk}, result.bytes);
    insert_blob.with(span, group, encoding, checksum, result.bytes).run();
  }
}

namespace {

// Rows of one block that are appended: those of spans that are there are compared, those between are new.
class BlockAppend {
 public:
  BlockAppend(RecordStore::Impl& impl, std::int64_t sequence, const StoredSchema& schema, AppendResult& result)
      : impl_(impl),
        sequence_(sequence),
        schema_(schema),
        row_bytes_(record_row_bytes(schema.schema)),
        result_(result) {}

  // Rows first.. of `source` are those of positions begin..end − 1.
  void add(std::int64_t begin, std::int64_t end, const RowSource& source, std::int64_t first) {
    impl_.rows.resize(static_cast<std::size_t>(end - begin) * row_bytes_);
    source.read(first, first + end - begin, impl_.rows.data());
    if (schema_.schema.order == SlotOrder::canonical) sort_slots(schema_.schema, impl_.rows.data(), end - begin);
    std::int64_t at = begin;
    for (const Span& span : impl_.spans(sequence_, begin, end)) {
      write(begin, at, span.start);
      compare(begin, std::max(at, span.start), std::min(end, span.end()), span);
      at = std::max(at, span.end());
    }
    write(begin, at, end);
  }

 private:
  const std::byte* row(std::int64_t begin, std::int64_t position) const {
    return impl_.rows.data() + static_cast<std::size_t>(position - begin) * row_bytes_;
  }

  void write(std::int64_t begin, std::int64_t from, std::int64_t to) {
    if (from >= to) return;
    impl_.write_span(sequence_, schema_, from, to - from, row(begin, from));
    result_.stored += to - from;
  }

  void compare(std::int64_t begin, std::int64_t from, std::int64_t to, const Span& span) {
    if (from >= to) return;
    there_.resize(static_cast<std::size_t>(to - from) * row_bytes_);
    impl_.read_span(sequence_, schema_, span, from, to, there_.data());
    for (std::int64_t p = from; p < to; ++p) {
      const std::byte* old = there_.data() + static_cast<std::size_t>(p - from) * row_bytes_;
      if (std::memcmp(old, row(begin, p), row_bytes_) == 0) {
        ++result_.equal;
        continue;
      }
      if (impl_.options.on_conflict == OnConflict::refuse) {
        fail(Code::mismatch,
             "record store: {}: sequence '{}' position {} has other ids, expected those observed before",
             impl_.database.path(), impl_.sequence(sequence_).key, p);
      }
      ++result_.conflicts;
    }
  }

  RecordStore::Impl& impl_;
  std::int64_t sequence_;
  const StoredSchema& schema_;
  std::size_t row_bytes_;
  AppendResult& result_;
  std::vector<std::byte> there_;
};

}  // namespace

AppendResult RecordStore::append(std::int64_t sequence, std::int64_t start, const RowSource& source,
                                 std::span<const std::uint8_t> observed) {
  if (start < 0 || source.rows < 0 || start > kMaxPosition - source.rows) {
    fail(Code::invalid_argument, "record store: append of {} rows at position {}, expected positions 0..2^48",
         source.rows, start);
  }
  if (!observed.empty() && std::cmp_not_equal(observed.size(), source.rows)) {
    fail(Code::invalid_argument, "record store: append of {} rows with {} states, expected one per row", source.rows,
         observed.size());
  }
  Savepoint step(impl_->database);
  const StoredSchema& schema = impl_->schema(impl_->sequence(sequence).schema);
  AppendResult result;
  const auto is_missing = [&](std::int64_t r) {
    return !observed.empty() && observed[static_cast<std::size_t>(r)] == 0;
  };
  const std::int64_t end = start + source.rows;
  for (const OwnedRange& range : impl_->owners(sequence, start, end)) {
    BlockAppend block(*impl_, range.sequence, schema, result);
    for (std::int64_t at = range.begin; at < range.end;) {
      if (is_missing(at - start)) {
        ++at;
        continue;
      }
      const std::int64_t most = std::min(range.end, (at / kBlockRows + 1) * kBlockRows);
      std::int64_t to = at + 1;
      while (to < most && !is_missing(to - start)) ++to;
      block.add(at, to, source, at - start);
      at = to;
    }
    Statement(impl_->database, "UPDATE sequences SET rows = max(rows, ?2) WHERE sequence_id = ?1")
        .with(range.sequence, range.end)
        .run();
  }
  if (result.conflicts > 0) {
    Statement(impl_->database, "UPDATE sequences SET conflicts = conflicts + ?2 WHERE sequence_id = ?1")
        .with(sequence, result.conflicts)
        .run();
  }
  step.keep();
  return result;
}

RecordStore::Transaction RecordStore::transaction() {
  if (impl_->transaction_open) {
    fail(Code::invalid_argument, "record store: {}: a second transaction, expected one at a time",
         impl_->database.path());
  }
  impl_->database.run("BEGIN IMMEDIATE");
  impl_->transaction_open = true;
  return Transaction(impl_.get());
}

RecordStore::Transaction::~Transaction() {
  if (store_ == nullptr) return;
  store_->transaction_open = false;
  if (!store_->database.in_transaction()) return;
  try {
    store_->database.run("ROLLBACK");
  } catch (const Error&) {
    // It will be undone when the file is opened again.
  }
}

void RecordStore::Transaction::commit() {
  if (store_ == nullptr)
    fail(Code::invalid_argument, "record store: a transaction that has ended, expected an open one");
  if (!store_->database.in_transaction()) {
    fail(Code::io, "record store: {}: the transaction was undone after an earlier error", store_->database.path());
  }
  store_->database.run("COMMIT");
  store_->transaction_open = false;
  store_ = nullptr;
}

}  // namespace switchyard
