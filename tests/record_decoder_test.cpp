// A second decoder, in Python, written from the page about the format: both read the same from the same file.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "checkpoint_files.hpp"
#include "record_rows.hpp"
#include "switchyard/record_store.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

constexpr int kNeedsZstandard = 77;

struct Answer {
  int status = 0;
  std::set<std::string> encodings;
};

Answer run_decoder(const std::filesystem::path& store, const std::filesystem::path& folder) {
  const std::string command =
      fmt::format("'{}' -B '{}' '{}' '{}'", TEST_PYTHON, TEST_DECODER, store.string(), folder.string());
  std::FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("the decoder cannot be started");
  std::string text;
  char buffer[256];
  while (std::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
  const int status = ::pclose(pipe);
  std::istringstream words(text);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, {std::istream_iterator<std::string>(words), {}}};
}

std::string file_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Sets of few different ids, which can be compressed.
std::vector<std::byte> repeated_rows(const RecordSchema& schema, std::int64_t count) {
  const auto few = random_rows(schema, 3, 1);
  std::vector<std::byte> rows;
  while (std::cmp_less(rows.size(), count * static_cast<std::int64_t>(record_row_bytes(schema)))) {
    rows.insert(rows.end(), few.begin(), few.end());
  }
  return rows;
}

// Observed and missing rows, forks and small spans of schemas of all kinds.
void fill(const std::filesystem::path& path, bool compress) {
  RecordStore store = RecordStore::open(path, {.access = StoreAccess::create, .compress = compress});
  int name = 0;
  for (const SlotOrder order : {SlotOrder::kept, SlotOrder::canonical}) {
    for (const auto& [experts, topk] :
         {std::pair(256, 8), {384, 8}, {512, 10}, {8, 2}, {65536, 4}, {100, 64}, {16, 1}}) {
      const RecordSchema schema{experts, topk, {0, 2, 3, 4, 7}, order, "model"};
      const auto rows = compress ? repeated_rows(schema, 300) : random_rows(schema, 300, 2);
      const auto add = [&](std::int64_t parent, std::int64_t parent_rows, std::int64_t start, std::int64_t count) {
        const std::int64_t id = store.add_sequence(schema, fmt::format("{}", name++), {0, parent, parent_rows});
        std::vector<std::uint8_t> observed(static_cast<std::size_t>(count), 1);
        if (count > 9) observed[5] = 0;
        store.append(id, start, rows_in_memory(schema, rows.data(), count), observed);
        return id;
      };
      const std::int64_t root = add(0, 0, 10, 280);
      add(root, 200, 200, 3);
    }
  }
}

void compare(const std::filesystem::path& path, const std::filesystem::path& folder) {
  const RecordStore store = RecordStore::open(path);
  for (const RecordSequence& sequence : store.sequences()) {
    std::string ids(static_cast<std::size_t>(sequence.rows) * record_row_bytes(store.schema(sequence.id)), '\0');
    std::string valid(static_cast<std::size_t>(sequence.rows), '\0');
    store.read(sequence.id, 0, sequence.rows, {}, RecordLayout::rows_first, ids.data(),
               reinterpret_cast<std::uint8_t*>(valid.data()));
    EXPECT_NE(valid.find('\1'), std::string::npos);
    EXPECT_TRUE(file_text(folder / fmt::format("{}.ids", sequence.id)) == ids) << sequence.id;
    EXPECT_TRUE(file_text(folder / fmt::format("{}.valid", sequence.id)) == valid) << sequence.id;
  }
}

TEST(RecordDecoder, PythonReadsTheSame) {
  const TempFolder folder;
  fill(folder / "a.db", false);
  const Answer answer = run_decoder(folder / "a.db", folder.path());
  ASSERT_EQ(answer.status, 0);
  EXPECT_EQ(answer.encodings, (std::set<std::string>{"raw", "packed", "elias_fano"}));
  compare(folder / "a.db", folder.path());
}

TEST(RecordDecoder, PythonReadsCompressedBlobsIfItHasZstandard) {
  const TempFolder folder;
  fill(folder / "a.db", true);
  const Answer answer = run_decoder(folder / "a.db", folder.path());
  if (answer.status == kNeedsZstandard) GTEST_SKIP() << "this Python has no zstandard";
  ASSERT_EQ(answer.status, 0);
  EXPECT_TRUE(answer.encodings.contains("raw_zstd"));
  compare(folder / "a.db", folder.path());
}

TEST(RecordDecoder, PythonChecksSums) {
  const TempFolder folder;
  fill(folder / "a.db", false);
  const std::string text = file_text(folder / "a.db");
  // Somewhere in the second half, where nothing but blobs is.
  std::string damaged = text;
  for (std::size_t at = damaged.size() / 2; at < damaged.size() / 2 + 4000; ++at) damaged[at] ^= 1;
  write_text(folder / "b.db", damaged);
  EXPECT_EQ(run_decoder(folder / "b.db", folder.path()).status, 1);
}

}  // namespace
