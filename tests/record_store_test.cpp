// The store: what is appended comes back, whoever else is at work.
#include "switchyard/record_store.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "checkpoint_files.hpp"
#include "record_rows.hpp"
#include "record_store_rows.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

TEST(RecordStore, GivesBackWhatWasAppended) {
  const TempFolder folder;
  for (const SlotOrder order : {SlotOrder::kept, SlotOrder::canonical}) {
    for (const std::int32_t experts : {8, 256, 384}) {
      const auto path = folder / fmt::format("{}_{}.db", static_cast<int>(order), experts);
      const RecordSchema schema = small_schema(order, experts);
      const auto rows = random_rows(schema, 700, 1);
      {
        RecordStore store = RecordStore::open(path, kCreate);
        const std::int64_t id = store.add_sequence(schema, "a");
        const AppendResult result = store.append(id, 100, rows_in_memory(schema, rows.data(), 700));
        EXPECT_EQ(result.stored, 700);
        EXPECT_EQ(result.equal + result.conflicts, 0);
      }
      const RecordStore store = RecordStore::open(path);
      const auto found = store.find("a");
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(found->rows, 800);
      EXPECT_EQ(found->observed, 700);
      EXPECT_EQ(store.schema(found->id), schema);
      const ReadRows all = read_rows(store, found->id, 100, 800);
      EXPECT_EQ(all.ids, rows);
      EXPECT_EQ(all.valid, ones(700));
      EXPECT_TRUE(store.verify().empty());
    }
  }
}

TEST(RecordStore, ReadsAnyRangeOfAnyLayersInBothLayouts) {
  const TempFolder folder;
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, 900, 2);
  RecordStore store = RecordStore::open(folder / "a.db", kCreate);
  const std::int64_t id = store.add_sequence(schema, "a");
  store.append(id, 0, rows_in_memory(schema, rows.data(), 900));
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    const auto begin = static_cast<std::int64_t>(random() % 950);
    const std::int64_t end = begin + static_cast<std::int64_t>(random() % 600);
    std::vector<std::int32_t> layers = schema.layers;
    std::shuffle(layers.begin(), layers.end(), random);
    layers.resize(1 + random() % layers.size());
    const auto layout = static_cast<RecordLayout>(random() % 2);
    const ReadRows read = read_rows(store, id, begin, end, layers, layout);
    const auto count = static_cast<std::size_t>(end - begin);
    for (std::size_t r = 0; r < count; ++r) {
      const std::size_t position = static_cast<std::size_t>(begin) + r;
      ASSERT_EQ(read.valid[r], position < 900 ? 1 : 0);
      for (std::size_t l = 0; l < layers.size(); ++l) {
        const auto at = static_cast<std::size_t>(std::find(schema.layers.begin(), schema.layers.end(), layers[l]) -
                                                 schema.layers.begin());
        const std::size_t set = layout == RecordLayout::rows_first ? r * layers.size() + l : l * count + r;
        for (std::size_t k = 0; k < 4; ++k) {
          const std::byte expected =
              position < 900 ? rows[(position * schema.layers.size() + at) * 4 + k] : std::byte{0};
          ASSERT_EQ(read.ids[set * 4 + k], expected);
        }
      }
    }
  }
}

TEST(RecordStore, MissingRowsAreFilledAndObservedOnesStay) {
  const TempFolder folder;
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 600, 4);
  RecordStore store = RecordStore::open(folder / "a.db", kCreate);
  const std::int64_t id = store.add_sequence(schema, "a");
  std::vector<std::uint8_t> observed(600);
  for (std::size_t r = 0; r < 600; ++r) observed[r] = r % 7 != 3 && (r < 250 || r > 270) ? 1 : 0;
  observed.back() = 0;
  const auto there = std::count(observed.begin(), observed.end(), 1);
  // A row that is missing is not read: what stands in its place may be anything.
  auto holed = rows;
  const std::size_t bytes = record_row_bytes(schema);
  for (std::size_t r = 0; r < 600; ++r) {
    if (observed[r] == 0) std::fill_n(holed.begin() + static_cast<std::ptrdiff_t>(r * bytes), bytes, std::byte{0});
  }
  EXPECT_EQ(store.append(id, 0, rows_in_memory(schema, holed.data(), 600), observed).stored, there);
  EXPECT_EQ(read_rows(store, id, 0, 600).valid, observed);
  EXPECT_EQ(read_rows(store, id, 0, 600).ids, holed);
  EXPECT_EQ(store.find("a")->rows, 600);
  EXPECT_EQ(store.find("a")->observed, there);

  const AppendResult filled = store.append(id, 0, rows_in_memory(schema, rows.data(), 600));
  EXPECT_EQ(filled.stored, 600 - there);
  EXPECT_EQ(filled.equal, there);
  EXPECT_EQ(filled.conflicts, 0);
  EXPECT_EQ(read_rows(store, id, 0, 600).ids, rows);

  const auto others = random_rows(schema, 600, 5);
  const AppendResult dropped = store.append(id, 0, rows_in_memory(schema, others.data(), 600));
  EXPECT_EQ(dropped.conflicts, 600);
  EXPECT_EQ(dropped.stored + dropped.equal, 0);
  EXPECT_EQ(read_rows(store, id, 0, 600).ids, rows);
  EXPECT_EQ(store.find("a")->conflicts, 600);
  EXPECT_TRUE(store.verify().empty());
}

TEST(RecordStore, RefusesConflictsIfAskedTo) {
  const TempFolder folder;
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 20, 6);
  RecordStore store =
      RecordStore::open(folder / "a.db", {.access = StoreAccess::create, .on_conflict = OnConflict::refuse});
  const std::int64_t id = store.add_sequence(schema, "a");
  store.append(id, 10, rows_in_memory(schema, rows.data(), 5));
  expect_error(Code::mismatch, {"record store", "'a'", "position 10"},
               [&] { store.append(id, 0, rows_in_memory(schema, rows.data(), 20)); });
  const auto found = store.find("a");
  EXPECT_EQ(found->observed, 5);  // nothing of it, the rows before the conflict neither
  EXPECT_EQ(found->rows, 15);
  EXPECT_EQ(found->conflicts, 0);
}

TEST(RecordStore, ForksReadAndFillTheirParents) {
  const TempFolder folder;
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 500, 7);
  const auto own = random_rows(schema, 100, 8);
  RecordStore store = RecordStore::open(folder / "a.db", kCreate);
  const std::int64_t root = store.add_sequence(schema, "root", {.policy_version = 3});
  store.append(root, 0, rows_in_memory(schema, rows.data(), 300));
  const std::int64_t fork = store.add_sequence(schema, "fork", {4, root, 299});
  const std::int64_t leaf = store.add_sequence(schema, "leaf", {5, fork, 310});
  store.append(fork, 299, rows_in_memory(schema, own.data(), 100));
  const auto leaf_row = random_rows(schema, 1, 9);
  store.append(leaf, 310, rows_in_memory(schema, leaf_row.data(), 1));

  auto expected = part(schema, rows, 0, 299);
  const auto middle = part(schema, own, 0, 11);
  expected.insert(expected.end(), middle.begin(), middle.end());
  expected.insert(expected.end(), leaf_row.begin(), leaf_row.end());
  const ReadRows read = read_rows(store, leaf, 0, 311);
  EXPECT_EQ(read.ids, expected);
  EXPECT_EQ(read.valid, ones(311));
  EXPECT_EQ(store.find("leaf")->observed, 311);
  EXPECT_EQ(store.find("leaf")->parent, fork);
  EXPECT_EQ(store.find("fork")->policy_version, 4);
  EXPECT_EQ(store.find("fork")->observed, 399);

  // A row that the root lacks, carried by a turn of the leaf.
  const std::int64_t late = store.add_sequence(schema, "late", {6, leaf, 320});
  const auto carried = random_rows(schema, 1, 10);
  EXPECT_EQ(store.append(late, 315, rows_in_memory(schema, carried.data(), 1)).stored, 1);
  EXPECT_EQ(read_rows(store, leaf, 315, 316).ids, carried);
  EXPECT_EQ(store.find("leaf")->rows, 316);
  EXPECT_EQ(read_rows(store, late, 0, 320).valid[314], 0);
  EXPECT_TRUE(store.verify().empty());
}

TEST(RecordStore, GroupsOfAnotherWriterStay) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, 300, 23);
  const std::int64_t parent = RecordStore::open(path, kCreate).add_sequence(schema, "parent");
  run_sql(path,
          "INSERT INTO schemas (experts, topk, slot_order, group_layers, layers, model) "
          "SELECT experts, topk, slot_order, 3, layers, model FROM schemas; UPDATE sequences SET schema_id = 2");
  RecordStore store = RecordStore::open(path, kWrite);
  store.append(parent, 0, rows_in_memory(schema, rows.data(), 200));
  const std::int64_t child = store.add_sequence(schema, "child", {0, parent, 150});
  store.append(child, 150, rows_in_memory(schema, part(schema, rows, 150, 300).data(), 150));
  EXPECT_EQ(read_rows(store, child, 0, 300).ids, rows);
  EXPECT_EQ(store.stats().encodings[0].blobs, 3 * 4);  // spans 0..199, 150..255 and 256..299; 10 layers
  EXPECT_TRUE(store.verify().empty());
}

TEST(RecordStore, WrongCallsAreErrorsAndChangeNothing) {
  const TempFolder folder;
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 10, 11);
  RecordStore store = RecordStore::open(folder / "a.db", kCreate);
  const std::int64_t id = store.add_sequence(schema, "a");
  const RowSource source = rows_in_memory(schema, rows.data(), 10);
  const auto refuse = [&](std::initializer_list<std::string_view> parts, const auto& call) {
    expect_error(Code::invalid_argument, parts, call);
  };
  refuse({"'a'", "already"}, [&] { store.add_sequence(schema, "a"); });
  refuse({"without a key"}, [&] { store.add_sequence(schema, ""); });
  refuse({"no sequence with id 77"}, [&] { store.add_sequence(schema, "b", {0, 77, 0}); });
  refuse({"different schemas"}, [&] { store.add_sequence(small_schema(SlotOrder::canonical), "b", {0, id, 0}); });
  refuse({"parent"}, [&] { store.add_sequence(schema, "b", {0, 0, 5}); });
  refuse({"experts"}, [&] { store.add_sequence({0, 1, {0}, SlotOrder::kept, ""}, "b"); });
  refuse({"no sequence with id 5"}, [&] { store.append(5, 0, source); });
  refuse({"position -1"}, [&] { store.append(id, -1, source); });
  refuse({"10 rows with 3 states"}, [&] { store.append(id, 0, source, std::vector<std::uint8_t>(3, 1)); });
  refuse({"layer 4"}, [&] { read_rows(store, id, 0, 1, {4}); });
  refuse({"positions 5..4"}, [&] { store.read(id, 5, 4, {}, RecordLayout::rows_first, nullptr, nullptr); });
  const auto bad = std::vector<std::byte>(record_row_bytes(schema) * 300, std::byte{9});
  expect_error(Code::bad_data, {"row 0"}, [&] { store.append(id, 0, rows_in_memory(schema, bad.data(), 300)); });
  EXPECT_EQ(store.find("a")->rows, 0);
  EXPECT_EQ(store.sequences().size(), 1u);
  EXPECT_FALSE(store.find("b").has_value());
  EXPECT_EQ(store.append(id, 0, {0, {}}).stored, 0);
}

TEST(RecordStore, TransactionsAreWholeOrNothing) {
  const TempFolder folder;
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 400, 12);
  RecordStore store = RecordStore::open(folder / "a.db", kCreate);
  const std::int64_t id = store.add_sequence(schema, "a");
  {
    const auto undone = store.transaction();
    store.append(id, 0, rows_in_memory(schema, rows.data(), 400));
    store.add_sequence(schema, "b");
    expect_error(Code::invalid_argument, {"second transaction"}, [&] { store.transaction(); });
    expect_error(Code::invalid_argument, {"compact"}, [&] { store.compact(); });
    EXPECT_EQ(read_rows(store, id, 0, 400).ids, rows);
  }
  EXPECT_EQ(store.find("a")->observed, 0);
  EXPECT_FALSE(store.find("b").has_value());

  auto kept = store.transaction();
  store.append(id, 0, rows_in_memory(schema, rows.data(), 400));
  const auto bad = std::vector<std::byte>(record_row_bytes(schema) * 300, std::byte{9});
  expect_error(Code::bad_data, {}, [&] { store.append(id, 500, rows_in_memory(schema, bad.data(), 300)); });
  const RecordStore reader = RecordStore::open(folder / "a.db");
  EXPECT_EQ(reader.find("a")->observed, 0);
  kept.commit();
  expect_error(Code::invalid_argument, {"ended"}, [&] { kept.commit(); });
  EXPECT_EQ(reader.find("a")->observed, 400);
  EXPECT_EQ(reader.find("a")->rows, 400);
}

TEST(RecordStore, ReadersSeeWholeCommitsBesideAWriter) {
  const TempFolder folder;
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 64, 13);
  RecordStore store = RecordStore::open(folder / "a.db", kCreate);
  const std::int64_t id = store.add_sequence(schema, "a");
  std::atomic<bool> done{false};
  std::atomic<int> torn{0};
  std::atomic<int> reads{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      const RecordStore reader = RecordStore::open(folder / "a.db");
      while (!done) {
        const std::int64_t seen = reader.find("a")->observed;
        if (seen % 64 != 0) ++torn;
        const ReadRows read = read_rows(reader, id, 0, seen);
        if (std::count(read.valid.begin(), read.valid.end(), 1) != seen) ++torn;
        ++reads;
      }
    });
  }
  for (std::int64_t at = 0; at < 60 * 64; at += 64) store.append(id, at, rows_in_memory(schema, rows.data(), 64));
  while (reads < 10) std::this_thread::yield();
  done = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(torn, 0);

  RecordStore other = RecordStore::open(folder / "a.db", {.access = StoreAccess::write, .wait_ms = 1});
  const auto open = store.transaction();
  expect_error(Code::io, {"record store", "locked", "another process"},
               [&] { other.append(id, 9000, rows_in_memory(schema, rows.data(), 1)); });
}

// A child appends commit by commit until it is killed; it says how many are done.
// Bytes of the file itself, wherever they stand: an error or the right rows, never other ones and never a crash.
TEST(RecordStore, CompactMergesAndDrops) {
  const TempFolder folder;
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, 700, 20);
  RecordStore store = RecordStore::open(folder / "a.db", kCreate);
  const std::int64_t a = store.add_sequence(schema, "a");
  const std::size_t bytes = record_row_bytes(schema);
  auto transaction = store.transaction();
  for (std::int64_t r = 0; r < 700; ++r) {
    if (r == 600) continue;
    store.append(a, r, rows_in_memory(schema, rows.data() + static_cast<std::size_t>(r) * bytes, 1));
  }
  const std::int64_t parent = store.add_sequence(schema, "parent");
  store.append(parent, 0, rows_in_memory(schema, rows.data(), 700));
  const std::int64_t child = store.add_sequence(schema, "child", {1, parent, 300});
  const std::int64_t gone = store.add_sequence(schema, "gone");
  store.append(gone, 0, rows_in_memory(schema, rows.data(), 256));
  transaction.commit();
  store.remove(parent);
  store.remove(gone);
  expect_error(Code::invalid_argument, {"removed already"}, [&] { store.remove(gone); });
  EXPECT_FALSE(store.find("gone").has_value());
  EXPECT_NE(store.add_sequence(schema, "gone"), gone);
  EXPECT_EQ(store.stats().spans, 699 + 3 + 1);

  std::int64_t last = 0;
  std::int64_t all = 0;
  const CompactResult result = store.compact([&](std::int64_t done, std::int64_t of) {
    EXPECT_GT(done, last);
    last = done;
    all = of;
  });
  EXPECT_EQ(last, all);
  EXPECT_EQ(result.merged_spans, 699);
  EXPECT_EQ(result.dropped_rows, 256 + (700 - 512));
  EXPECT_EQ(result.damaged_spans, 0);
  EXPECT_LT(result.bytes_after, result.bytes_before);
  // 0..255, 256..511, 512..599, 601..699 of 'a', and two blocks of its parent for the child.
  EXPECT_EQ(store.stats().spans, 4 + 2);
  const ReadRows read = read_rows(store, a, 0, 700);
  EXPECT_EQ(read.valid[600], 0);
  EXPECT_EQ(part(schema, read.ids, 0, 600), part(schema, rows, 0, 600));
  EXPECT_EQ(part(schema, read.ids, 601, 700), part(schema, rows, 601, 700));
  EXPECT_EQ(read_rows(store, child, 0, 300).ids, part(schema, rows, 0, 300));
  EXPECT_TRUE(store.verify().empty());
  EXPECT_EQ(store.compact().merged_spans, 0);
}

TEST(RecordStore, StatsCountWhatIsThere) {
  const TempFolder folder;
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, 512, 22);
  RecordStore store = RecordStore::open(folder / "a.db", {.access = StoreAccess::create, .compress = false});
  EXPECT_EQ(store.stats().raw_bytes(), 0);
  store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), 512));
  const StoreStats stats = store.stats();
  EXPECT_EQ(stats.sequences, 1);
  EXPECT_EQ(stats.spans, 2);
  EXPECT_EQ(stats.rows, 512);
  EXPECT_EQ(stats.raw_bytes(), 512 * 40);
  // 6 bits per id; sets would take 4 · 4 + 4 + 64 / 16, the same.
  EXPECT_EQ(stats.bytes(), 512 * 40 * 3 / 4);
  ASSERT_EQ(stats.encodings.size(), 1u);
  EXPECT_EQ(stats.encodings[0].encoding, RecordEncoding::packed);
  EXPECT_EQ(stats.encodings[0].blobs, 4);
  EXPECT_GT(stats.file_bytes, stats.bytes());
}

}  // namespace
