// Looking after a store: what is in it, what is damaged, what can go.
#include <algorithm>
#include <numeric>
#include <system_error>

#include "fail.hpp"
#include "record/store.hpp"

namespace switchyard {
namespace {

// Rows that children still read.
constexpr const char* kNeededRows = "(SELECT max(parent_rows) FROM sequences AS child WHERE child.parent_id = ?1)";

std::vector<std::int64_t> numbers(const Sqlite& database, const char* sql) {
  Statement select(database, sql);
  std::vector<std::int64_t> all;
  while (select.step()) all.push_back(select.number(0));
  return all;
}

std::vector<Span> all_spans(const Sqlite& database, std::int64_t sequence) {
  Statement select(database, "SELECT span_id, start, rows FROM spans WHERE sequence_id = ?1 ORDER BY start");
  select.with(sequence);
  std::vector<Span> spans;
  while (select.step()) spans.push_back({select.number(0), select.number(1), select.number(2)});
  return spans;
}

// Spans that are damaged one by one, so that each is named.
class Verifier {
 public:
  Verifier(RecordStore::Impl& impl, std::vector<StoreDamage>& damages) : impl_(impl), damages_(damages) {}

  void check_sequence(std::int64_t id, const std::function<void(std::int64_t)>& done) {
    const StoredSequence sequence = impl_.sequence(id);
    const StoredSchema& schema = impl_.schema(sequence.schema);
    std::int64_t end = 0;
    for (const Span& span : all_spans(impl_.database, id)) {
      check_span(sequence, schema, span);
      if (span.start < end)
        add(sequence, schema, span, 0, schema.groups() - 1, "its rows are those of another span too");
      end = std::max(end, span.end());
      done(1);
    }
  }

 private:
  void add(const StoredSequence& sequence, const StoredSchema& schema, const Span& span, std::int64_t first_group,
           std::int64_t last_group, const char* what) {
    const auto& layers = schema.schema.layers;
    damages_.push_back({sequence.key, span.start, span.end(),
                        layers[static_cast<std::size_t>(schema.group_begin(first_group))],
                        layers[static_cast<std::size_t>(schema.group_end(last_group) - 1)], what});
  }

  void check_span(const StoredSequence& sequence, const StoredSchema& schema, const Span& span) {
    const std::size_t before = damages_.size();
    for (std::int64_t group = 0; group < schema.groups(); ++group) {
      try {
        impl_.read_blob(sequence.id, schema, span, group, schema.group_begin(group), schema.group_end(group) - 1,
                        span.start, span.end(), rows_);
      } catch (const Error& error) {
        add(sequence, schema, span, group, group, error.what());
      }
    }
    if (damages_.size() > before) return;
    try {
      rows_.resize(static_cast<std::size_t>(span.rows) * record_row_bytes(schema.schema));
      impl_.read_span(sequence.id, schema, span, span.start, span.end(), rows_.data());
      check_rows(schema.schema, rows_.data(), span.rows, span.start);
      check_order(schema, span.rows);
    } catch (const Error& error) {
      add(sequence, schema, span, 0, schema.groups() - 1, error.what());
    }
  }

  void check_order(const StoredSchema& schema, std::int64_t count) {
    if (schema.schema.order != SlotOrder::canonical) return;
    std::vector<std::byte> sorted = rows_;
    sort_slots(schema.schema, sorted.data(), count);
    if (sorted != rows_) fail(Code::bad_data, "record: slots that do not ascend, expected the canonical order");
  }

  RecordStore::Impl& impl_;
  std::vector<StoreDamage>& damages_;
  std::vector<std::byte> rows_;
};

// One span of neighbouring ones of a block, wherever there are several.
class Merger {
 public:
  Merger(RecordStore::Impl& impl, CompactResult& result)
      : impl_(impl), result_(result), delete_(impl.database, "DELETE FROM spans WHERE span_id = ?1") {}

  void merge(std::int64_t sequence, const std::function<void(std::int64_t)>& done) {
    const StoredSchema& schema = impl_.schema(impl_.sequence(sequence).schema);
    const std::vector<Span> spans = all_spans(impl_.database, sequence);
    for (std::size_t first = 0; first < spans.size();) {
      std::size_t end = first + 1;
      while (end < spans.size() && spans[end].start == spans[end - 1].end() &&
             spans[end].start / kBlockRows == spans[first].start / kBlockRows) {
        ++end;
      }
      if (end - first > 1) join(sequence, schema, {spans.data() + first, end - first});
      done(static_cast<std::int64_t>(end - first));
      first = end;
    }
  }

 private:
  void join(std::int64_t sequence, const StoredSchema& schema, std::span<const Span> spans) {
    const std::size_t row_bytes = record_row_bytes(schema.schema);
    const std::int64_t start = spans.front().start;
    const std::int64_t count = spans.back().end() - start;
    rows_.resize(static_cast<std::size_t>(count) * row_bytes);
    try {
      for (const Span& span : spans) {
        impl_.read_span(sequence, schema, span, span.start, span.end(),
                        rows_.data() + static_cast<std::size_t>(span.start - start) * row_bytes);
      }
    } catch (const Error& error) {
      if (error.code() != Code::bad_data) throw;
      result_.damaged_spans += static_cast<std::int64_t>(spans.size());
      return;
    }
    for (const Span& span : spans) delete_.with(span.id).run();
    impl_.write_span(sequence, schema, start, count, rows_.data());
    result_.merged_spans += static_cast<std::int64_t>(spans.size());
  }

  RecordStore::Impl& impl_;
  CompactResult& result_;
  Statement delete_;
  std::vector<std::byte> rows_;
};

// Sequences without a key and without children go, again and again; of those with children, what no child reads.
void drop_unreachable(const Sqlite& database, CompactResult& result) {
  const std::string spans_beyond =
      std::string("FROM spans WHERE sequence_id = ?1 AND start >= coalesce(") + kNeededRows + ", 0)";
  Statement count(database, ("SELECT coalesce(sum(rows), 0) " + spans_beyond).c_str());
  Statement drop(database, ("DELETE " + spans_beyond).c_str());
  Statement forget(database,
                   "DELETE FROM sequences WHERE sequence_id = ?1 AND NOT EXISTS "
                   "(SELECT 1 FROM sequences AS child WHERE child.parent_id = ?1)");
  // Children have higher ids than their parents.
  for (const std::int64_t id :
       numbers(database, "SELECT sequence_id FROM sequences WHERE key IS NULL ORDER BY sequence_id DESC")) {
    count.with(id).step();
    result.dropped_rows += count.number(0);
    count.reset();
    drop.with(id).run();
    forget.with(id).run();
  }
  database.run("DELETE FROM schemas WHERE schema_id NOT IN (SELECT schema_id FROM sequences)");
}

}  // namespace

std::int64_t StoreStats::bytes() const noexcept {
  return std::accumulate(encodings.begin(), encodings.end(), std::int64_t{0},
                         [](std::int64_t sum, const EncodingStats& e) { return sum + e.bytes; });
}

std::int64_t StoreStats::raw_bytes() const noexcept {
  return std::accumulate(encodings.begin(), encodings.end(), std::int64_t{0},
                         [](std::int64_t sum, const EncodingStats& e) { return sum + e.raw_bytes; });
}

std::int64_t RecordStore::Impl::file_bytes() const {
  std::int64_t bytes = 0;
  for (const char* part : {"", "-wal"}) {
    std::error_code absent;
    const auto size = std::filesystem::file_size(database.path() + part, absent);
    if (!absent) bytes += static_cast<std::int64_t>(size);
  }
  return bytes;
}

StoreStats RecordStore::stats() const {
  const Sqlite& database = impl_->database;
  const ReadView view(database);
  StoreStats stats;
  stats.sequences = database.number("SELECT count(*) FROM sequences WHERE key IS NOT NULL");
  stats.spans = database.number("SELECT count(*) FROM spans");
  stats.rows = database.number("SELECT coalesce(sum(rows), 0) FROM spans");
  stats.conflicts = database.number("SELECT coalesce(sum(conflicts), 0) FROM sequences");
  stats.file_bytes = impl_->file_bytes();
  // The last group of a schema has the layers that are left.
  Statement select(database,
                   "SELECT encoding, count(*), sum(length(data)), sum(spans.rows * topk * iif(experts <= 256, 1, 2) * "
                   "min(group_layers, json_array_length(layers) - layer_group * group_layers)) "
                   "FROM blobs JOIN spans USING (span_id) JOIN sequences USING (sequence_id) JOIN schemas USING "
                   "(schema_id) GROUP BY encoding ORDER BY encoding");
  while (select.step()) {
    stats.encodings.push_back(
        {static_cast<RecordEncoding>(select.number(0)), select.number(1), select.number(2), select.number(3)});
  }
  return stats;
}

std::vector<StoreDamage> RecordStore::verify(const StoreProgress& progress) const {
  const Sqlite& database = impl_->database;
  std::vector<StoreDamage> damages;
  const auto whole_file = [&](const std::string& what) { damages.push_back({"", 0, 0, 0, 0, what}); };
  try {
    const ReadView view(database);
    const std::int64_t of = database.number("SELECT count(*) FROM spans");
    std::int64_t checked = 0;
    Verifier verifier(*impl_, damages);
    for (const std::int64_t id : numbers(database, "SELECT sequence_id FROM sequences ORDER BY sequence_id")) {
      try {
        verifier.check_sequence(id, [&](std::int64_t spans) {
          checked += spans;
          if (progress) progress(checked, of);
        });
      } catch (const Error& error) {
        whole_file(error.what());
      }
    }
    Statement check(database, "PRAGMA quick_check");
    while (check.step()) {
      if (check.text(0) != "ok") whole_file(check.text(0));
    }
    if (database.number("SELECT count(*) FROM pragma_foreign_key_check") > 0) {
      whole_file("rows that belong to nothing, expected none");
    }
  } catch (const Error& error) {
    if (error.code() != Code::bad_data) throw;
    whole_file(error.what());
  }
  return damages;
}

void RecordStore::remove(std::int64_t sequence) {
  Savepoint step(impl_->database);
  if (impl_->sequence(sequence).key.empty()) {
    fail(Code::invalid_argument, "record store: {}: sequence {} is removed already", impl_->database.path(), sequence);
  }
  Statement(impl_->database, "UPDATE sequences SET key = NULL WHERE sequence_id = ?1").with(sequence).run();
  step.keep();
}

CompactResult RecordStore::compact(const StoreProgress& progress) {
  const Sqlite& database = impl_->database;
  if (database.in_transaction()) {
    fail(Code::invalid_argument, "record store: {}: compact inside of a transaction, expected none", database.path());
  }
  CompactResult result;
  result.bytes_before = impl_->file_bytes();
  {
    Savepoint step(database);
    drop_unreachable(database, result);
    const std::int64_t of = database.number("SELECT count(*) FROM spans");
    std::int64_t done = 0;
    Merger merger(*impl_, result);
    for (const std::int64_t id : numbers(database, "SELECT sequence_id FROM sequences ORDER BY sequence_id")) {
      merger.merge(id, [&](std::int64_t spans) {
        done += spans;
        if (progress) progress(done, of);
      });
    }
    step.keep();
  }
  impl_->schemas.clear();  // those of dropped sequences may be gone
  database.run("VACUUM");
  database.run("PRAGMA wal_checkpoint(TRUNCATE)");
  result.bytes_after = impl_->file_bytes();
  return result;
}

}  // namespace switchyard
