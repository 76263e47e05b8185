// The store: what is appended comes back, whoever else is at work and whatever breaks.
#include "switchyard/record_store.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "checkpoint_files.hpp"
#include "record_rows.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

const StoreOptions kCreate{.access = StoreAccess::create};
const StoreOptions kWrite{.access = StoreAccess::write};

RecordSchema small_schema(SlotOrder order = SlotOrder::kept, std::int32_t experts = 64) {
  return {experts, 4, {1, 2, 3, 5, 6, 9}, order, "fingerprint"};
}

struct ReadRows {
  std::vector<std::byte> ids;
  std::vector<std::uint8_t> valid;
};

ReadRows read_rows(const RecordStore& store, std::int64_t sequence, std::int64_t begin, std::int64_t end,
                   const std::vector<std::int32_t>& layers = {}, RecordLayout layout = RecordLayout::rows_first) {
  const RecordSchema schema = store.schema(sequence);
  const std::size_t set = record_row_bytes(schema) / schema.layers.size();
  const std::size_t wanted = layers.empty() ? schema.layers.size() : layers.size();
  const auto rows = static_cast<std::size_t>(end - begin);
  ReadRows read{std::vector<std::byte>(rows * wanted * set, std::byte{0x5a}), std::vector<std::uint8_t>(rows, 7)};
  store.read(sequence, begin, end, layers, layout, read.ids.data(), read.valid.data());
  return read;
}

std::vector<std::byte> part(const RecordSchema& schema, const std::vector<std::byte>& rows, std::int64_t begin,
                            std::int64_t end) {
  const auto bytes = static_cast<std::int64_t>(record_row_bytes(schema));
  return {rows.begin() + begin * bytes, rows.begin() + end * bytes};
}

std::vector<std::uint8_t> ones(std::size_t count) { return std::vector<std::uint8_t>(count, 1); }

// Statements that the library itself would never run.
void tamper(const std::filesystem::path& path, const std::string& sql) {
  sqlite3* handle = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &handle), SQLITE_OK);
  char* message = nullptr;
  EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, &message), SQLITE_OK) << message;
  sqlite3_free(message);
  sqlite3_close(handle);
}

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
          const std::byte expected = position < 900 ? rows[(position * 6 + at) * 4 + k] : std::byte{0};
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
TEST(RecordStore, KilledWriterLosesTheOpenTransactionAlone) {
  constexpr int kKills = 200;
  constexpr std::int64_t kRows = 24;
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, kRows, 14);
  { RecordStore::open(path, kCreate).add_sequence(schema, "a"); }
  std::mt19937 random(15);
  std::int64_t told = 0;
  for (int kill = 0; kill < kKills; ++kill) {
    int pipe_ends[2];
    ASSERT_EQ(::pipe(pipe_ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        RecordStore store = RecordStore::open(path, kWrite);
        const std::int64_t id = store.find("a")->id;
        for (std::int64_t next = store.find("a")->rows / kRows;; ++next) {
          auto transaction = store.transaction();
          store.append(id, next * kRows, rows_in_memory(schema, rows.data(), kRows / 2));
          store.append(id, next * kRows + kRows / 2, rows_in_memory(schema, rows.data() + rows.size() / 2, kRows / 2));
          transaction.commit();
          const std::int64_t committed = next + 1;
          if (::write(pipe_ends[1], &committed, sizeof(committed)) != sizeof(committed)) ::_exit(1);
        }
      } catch (...) {
        ::_exit(2);
      }
    }
    ::close(pipe_ends[1]);
    if (kill % 4 == 0) {  // one commit at least; else before, while opening or recovering
      std::int64_t first = 0;
      ASSERT_EQ(::read(pipe_ends[0], &first, sizeof(first)), static_cast<ssize_t>(sizeof(first)));
      told = std::max(told, first);
    }
    ::usleep(static_cast<useconds_t>(random() % 6000));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer ended by itself with " << status;
    for (std::int64_t done = 0; ::read(pipe_ends[0], &done, sizeof(done)) == sizeof(done);) told = std::max(told, done);
    ::close(pipe_ends[0]);

    const RecordStore store = RecordStore::open(path);
    const RecordSequence found = *store.find("a");
    ASSERT_EQ(found.rows % kRows, 0) << "half of a transaction";
    ASSERT_EQ(found.observed, found.rows);
    ASSERT_GE(found.rows, told * kRows) << "a commit is lost";
    ASSERT_LE(found.rows, (told + 1) * kRows);
    told = found.rows / kRows;
    if (kill % 20 == 19) {
      ASSERT_TRUE(store.verify().empty());
    }
  }
  EXPECT_GT(told, kKills / 4);
  const RecordStore store = RecordStore::open(path);
  const ReadRows all = read_rows(store, store.find("a")->id, 0, told * kRows);
  for (std::int64_t i = 0; i < told; ++i) ASSERT_EQ(part(schema, all.ids, i * kRows, (i + 1) * kRows), rows);
}

TEST(RecordStore, DamageIsNamedAndTheRestIsReadable) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, 600, 16);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), 600));
    store.append(store.add_sequence(schema, "b"), 0, rows_in_memory(schema, rows.data(), 600));
  }
  // Span 2 of 'a': positions 256..511; group 1: layers 6 and 9.
  const std::string where = " WHERE span_id = 2 AND layer_group = 1";
  const std::string damages[] = {
      "UPDATE blobs SET data = zeroblob(length(data))" + where,
      "UPDATE blobs SET data = substr(data, 1, length(data) - 1)" + where,
      "UPDATE blobs SET encoding = 0" + where,
      "UPDATE blobs SET encoding = 99" + where,
      "UPDATE blobs SET checksum = checksum + 1" + where,
      "UPDATE blobs SET data = x''" + where,
      "DELETE FROM blobs" + where,
      "UPDATE blobs SET data = (SELECT data FROM blobs WHERE span_id = 5 AND layer_group = 0)" + where,
  };
  for (const std::string& damage : damages) {
    SCOPED_TRACE(damage);
    const auto copy = folder / "copy.db";
    std::filesystem::copy_file(path, copy, std::filesystem::copy_options::overwrite_existing);
    tamper(copy, damage);
    const RecordStore store = RecordStore::open(copy);
    const auto found = store.verify();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].sequence, "a");
    EXPECT_EQ(found[0].begin, 256);
    EXPECT_EQ(found[0].end, 512);
    EXPECT_EQ(found[0].first_layer, 6);
    EXPECT_EQ(found[0].last_layer, 9);
    expect_error(Code::bad_data, {"sequence 'a' positions 256..511 layers 6..9"},
                 [&] { read_rows(store, 1, 300, 301); });
    EXPECT_EQ(read_rows(store, 1, 0, 256).ids, part(schema, rows, 0, 256));
    EXPECT_EQ(read_rows(store, 1, 512, 600).ids, part(schema, rows, 512, 600));
    EXPECT_EQ(read_rows(store, 1, 0, 600, {1, 2, 3, 5}).valid, ones(600));
    EXPECT_EQ(read_rows(store, 2, 0, 600).ids, rows);
  }
}

TEST(RecordStore, RowsThatMovedAreDamage) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 50, 17);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), 50));
    store.add_sequence(schema, "b");
  }
  for (const char* damage : {"UPDATE spans SET start = 1", "UPDATE spans SET sequence_id = 2",
                             "UPDATE spans SET rows = 49", "UPDATE schemas SET experts = 63"}) {
    SCOPED_TRACE(damage);
    const auto copy = folder / "copy.db";
    std::filesystem::copy_file(path, copy, std::filesystem::copy_options::overwrite_existing);
    tamper(copy, damage);
    EXPECT_EQ(RecordStore::open(copy).verify().size(), 2u);  // both groups of layers
  }
}

// Bytes of the file itself, wherever they stand: an error or the right rows, never other ones and never a crash.
TEST(RecordStore, FlippedBytesOfTheFile) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 600, 18);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), 600));
  }
  const auto size = std::filesystem::file_size(path);
  std::mt19937 random(19);
  int noticed = 0;
  for (int i = 0; i < 300; ++i) {
    const auto copy = folder / "copy.db";
    std::filesystem::copy_file(path, copy, std::filesystem::copy_options::overwrite_existing);
    {
      std::fstream file(copy, std::ios::in | std::ios::out | std::ios::binary);
      const auto at = static_cast<std::streamoff>(random() % size);
      file.seekg(at);
      const int old = file.get();
      file.seekp(at);
      file.put(static_cast<char>(old ^ static_cast<int>(1 + random() % 255)));
    }
    try {
      const RecordStore store = RecordStore::open(copy);
      const bool clean = store.verify().empty();
      noticed += clean ? 0 : 1;
      const auto found = store.find("a");
      if (!found) continue;
      const ReadRows read = read_rows(store, found->id, 0, 600);
      for (std::int64_t r = 0; r < 600; ++r) {
        if (read.valid[static_cast<std::size_t>(r)] == 0) continue;
        ASSERT_EQ(part(schema, read.ids, r, r + 1), part(schema, rows, r, r + 1)) << "row " << r;
      }
    } catch (const Error& error) {
      ++noticed;
      ASSERT_NE(error.code(), Code::invalid_argument) << error.what();
    }
  }
  EXPECT_GT(noticed, 50);
}

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

TEST(RecordStore, CompactLeavesDamagedSpans) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 30, 21);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    const std::int64_t id = store.add_sequence(schema, "a");
    for (std::int64_t at : {0, 10, 20}) {
      store.append(id, at, rows_in_memory(schema, rows.data() + static_cast<std::size_t>(at) * 24, 10));
    }
  }
  tamper(path, "UPDATE blobs SET data = zeroblob(length(data)) WHERE span_id = 2");
  RecordStore store = RecordStore::open(path, kWrite);
  const CompactResult result = store.compact();
  EXPECT_EQ(result.merged_spans, 0);
  EXPECT_EQ(result.damaged_spans, 3);
  EXPECT_EQ(read_rows(store, 1, 20, 30).ids, part(schema, rows, 20, 30));
  EXPECT_EQ(store.verify().size(), 2u);
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
  EXPECT_EQ(stats.raw_bytes(), 512 * 24);
  // 6 bits per id; sets would take 4 · 4 + 4 + 64 / 16, the same.
  EXPECT_EQ(stats.bytes(), 512 * 24 * 3 / 4);
  ASSERT_EQ(stats.encodings.size(), 1u);
  EXPECT_EQ(stats.encodings[0].encoding, RecordEncoding::packed);
  EXPECT_EQ(stats.encodings[0].blobs, 4);
  EXPECT_GT(stats.file_bytes, stats.bytes());
}

TEST(RecordStore, WhatIsNoStoreIsRefused) {
  const TempFolder folder;
  expect_error(Code::io, {"record store", "none.db", "cannot be opened"},
               [&] { RecordStore::open(folder / "none.db"); });
  expect_error(Code::io, {"none.db"}, [&] { RecordStore::open(folder / "none.db", kWrite); });
  EXPECT_FALSE(std::filesystem::exists(folder / "none.db"));
  expect_error(Code::io, {"cannot be opened"}, [&] { RecordStore::open(folder.path(), kCreate); });
  write_text(folder / "text.db", std::string(5000, 'x'));
  expect_error(Code::bad_data, {"text.db", "not a database"}, [&] { RecordStore::open(folder / "text.db", kCreate); });
  tamper(folder / "other.db", "CREATE TABLE t (x); PRAGMA application_id = 5");
  expect_error(Code::bad_data, {"application id 0x5"}, [&] { RecordStore::open(folder / "other.db", kCreate); });
  write_text(folder / "empty.db", "");
  expect_error(Code::bad_data, {"empty database"}, [&] { RecordStore::open(folder / "empty.db", kWrite); });
  RecordStore::open(folder / "empty.db", kCreate);
  EXPECT_TRUE(RecordStore::open(folder / "empty.db").sequences().empty());
  tamper(folder / "empty.db", "PRAGMA user_version = 2");
  expect_error(Code::not_supported, {"version 2", "at most 1"},
               [&] { RecordStore::open(folder / "empty.db", kWrite); });
}

TEST(RecordStore, ReadOnlyFiles) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "f");
  const auto path = folder / "f/a?b#c%d.db";
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 30, 23);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), 30));
  }
  {
    RecordStore store = RecordStore::open(path);
    expect_error(Code::io, {"readonly"}, [&] { store.append(1, 30, rows_in_memory(schema, rows.data(), 30)); });
    expect_error(Code::io, {"readonly"}, [&] { store.compact(); });
  }
  std::filesystem::permissions(path, std::filesystem::perms(0400));
  std::filesystem::permissions(folder / "f", std::filesystem::perms(0500));
  if (::getuid() == 0) {  // permissions do not hold for it: read as somebody else
    std::filesystem::permissions(folder.path(), std::filesystem::perms(0755));
    std::filesystem::permissions(folder / "f", std::filesystem::perms(0555));
    std::filesystem::permissions(path, std::filesystem::perms(0444));
  }
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::getuid() == 0 && ::setuid(65534) != 0) ::_exit(3);
    try {
      const RecordStore store = RecordStore::open(path);
      ::_exit(read_rows(store, 1, 0, 30).ids == rows ? 0 : 1);
    } catch (const Error& error) {
      std::fputs(error.what(), stderr);
      ::_exit(2);
    }
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  std::filesystem::permissions(folder / "f", std::filesystem::perms(0700));
  EXPECT_EQ(read_rows(RecordStore::open(path), 1, 0, 30).ids, rows);
}

// A limit on the size of files stands for a disk that is full.
TEST(RecordStore, FullDiskLosesNothing) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 512, 24);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), 512));
  }
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{200000, 200000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(3);
    try {
      RecordStore store = RecordStore::open(path, kWrite);
      for (std::int64_t at = 512;; at += 512) store.append(1, at, rows_in_memory(schema, rows.data(), 512));
    } catch (const Error& error) {
      ::_exit(error.code() == Code::io ? 0 : 1);
    }
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  RecordStore store = RecordStore::open(path, kWrite);
  EXPECT_TRUE(store.verify().empty());
  const std::int64_t there = store.find("a")->observed;
  EXPECT_GE(there, 1024);
  EXPECT_EQ(there % 512, 0);
  for (std::int64_t at = 0; at < there; at += 512) EXPECT_EQ(read_rows(store, 1, at, at + 512).ids, rows);
  EXPECT_EQ(store.append(1, there, rows_in_memory(schema, rows.data(), 512)).stored, 512);
}

}  // namespace
