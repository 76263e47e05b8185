// The store when something breaks: writers that are killed, damaged files, disks that are full or cannot be written.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <random>

#include "checkpoint_files.hpp"
#include "record_rows.hpp"
#include "record_store_rows.hpp"
#include "switchyard/record_store.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

TEST(RecordStoreFailures, KilledWriterLosesTheOpenTransactionAlone) {
  const char* wanted = std::getenv("SWITCHYARD_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 200;
  constexpr std::int64_t kRows = 24;
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, kRows, 14);
  { RecordStore::open(path, kCreate).add_sequence(schema, "a"); }
  std::mt19937 random(15);
  std::int64_t told = 0;
  for (int kill = 0; kill < kills; ++kill) {
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
  EXPECT_GT(told, kills / 4);
  const RecordStore store = RecordStore::open(path);
  const ReadRows all = read_rows(store, store.find("a")->id, 0, told * kRows);
  for (std::int64_t i = 0; i < told; ++i) ASSERT_EQ(part(schema, all.ids, i * kRows, (i + 1) * kRows), rows);
}

TEST(RecordStoreFailures, DamageIsNamedAndTheRestIsReadable) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema(SlotOrder::canonical);
  const auto rows = random_rows(schema, 600, 16);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), 600));
    store.append(store.add_sequence(schema, "b"), 0, rows_in_memory(schema, rows.data(), 600));
  }
  // Span 2 of 'a': positions 256..511; group 1: layers 20 and 21.
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
    run_sql(copy, damage);
    const RecordStore store = RecordStore::open(copy);
    const auto found = store.verify();
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].sequence, "a");
    EXPECT_EQ(found[0].begin, 256);
    EXPECT_EQ(found[0].end, 512);
    EXPECT_EQ(found[0].first_layer, 20);
    EXPECT_EQ(found[0].last_layer, 21);
    expect_error(Code::bad_data, {"sequence 'a' positions 256..511 layers 20..21"},
                 [&] { read_rows(store, 1, 300, 301); });
    EXPECT_EQ(read_rows(store, 1, 0, 256).ids, part(schema, rows, 0, 256));
    EXPECT_EQ(read_rows(store, 1, 512, 600).ids, part(schema, rows, 512, 600));
    EXPECT_EQ(read_rows(store, 1, 0, 600, {1, 2, 3, 5, 11}).valid, ones(600));
    EXPECT_EQ(read_rows(store, 2, 0, 600).ids, rows);
  }
}

TEST(RecordStoreFailures, RowsThatMovedAreDamage) {
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
    run_sql(copy, damage);
    EXPECT_EQ(RecordStore::open(copy).verify().size(), 2u);  // both groups of layers
  }
}

TEST(RecordStoreFailures, FlippedBytesOfTheFile) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema();
  constexpr std::int64_t kRows = 6000;  // fewer would leave most of the pages unused
  const auto rows = random_rows(schema, kRows, 18);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    store.append(store.add_sequence(schema, "a"), 0, rows_in_memory(schema, rows.data(), kRows));
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
      const ReadRows read = read_rows(store, found->id, 0, kRows);
      for (std::int64_t r = 0; r < kRows; ++r) {
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

TEST(RecordStoreFailures, CompactLeavesDamagedSpans) {
  const TempFolder folder;
  const auto path = folder / "a.db";
  const RecordSchema schema = small_schema();
  const auto rows = random_rows(schema, 30, 21);
  {
    RecordStore store = RecordStore::open(path, kCreate);
    const std::int64_t id = store.add_sequence(schema, "a");
    for (std::int64_t at : {0, 10, 20}) {
      store.append(id, at, rows_in_memory(schema, part(schema, rows, at, at + 10).data(), 10));
    }
  }
  run_sql(path, "UPDATE blobs SET data = zeroblob(length(data)) WHERE span_id = 2");
  RecordStore store = RecordStore::open(path, kWrite);
  const CompactResult result = store.compact();
  EXPECT_EQ(result.merged_spans, 0);
  EXPECT_EQ(result.damaged_spans, 3);
  EXPECT_EQ(read_rows(store, 1, 20, 30).ids, part(schema, rows, 20, 30));
  EXPECT_EQ(store.verify().size(), 2u);
}

TEST(RecordStoreFailures, WhatIsNoStoreIsRefused) {
  const TempFolder folder;
  expect_error(Code::io, {"record store", "none.db", "cannot be opened"},
               [&] { RecordStore::open(folder / "none.db"); });
  expect_error(Code::io, {"none.db"}, [&] { RecordStore::open(folder / "none.db", kWrite); });
  EXPECT_FALSE(std::filesystem::exists(folder / "none.db"));
  expect_error(Code::io, {"cannot be opened"}, [&] { RecordStore::open(folder.path(), kCreate); });
  write_text(folder / "text.db", std::string(5000, 'x'));
  expect_error(Code::bad_data, {"text.db", "not a database"}, [&] { RecordStore::open(folder / "text.db", kCreate); });
  run_sql(folder / "other.db", "CREATE TABLE t (x); PRAGMA application_id = 5");
  expect_error(Code::bad_data, {"application id 0x5"}, [&] { RecordStore::open(folder / "other.db", kCreate); });
  write_text(folder / "empty.db", "");
  expect_error(Code::bad_data, {"empty database"}, [&] { RecordStore::open(folder / "empty.db", kWrite); });
  RecordStore::open(folder / "empty.db", kCreate);
  EXPECT_TRUE(RecordStore::open(folder / "empty.db").sequences().empty());
  run_sql(folder / "empty.db", "PRAGMA user_version = 2");
  expect_error(Code::not_supported, {"version 2", "at most 1"},
               [&] { RecordStore::open(folder / "empty.db", kWrite); });
}

TEST(RecordStoreFailures, ReadOnlyFiles) {
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

TEST(RecordStoreFailures, FullDiskLosesNothing) {
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
    const rlimit limit{2000000, 2000000};  // some commits
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
