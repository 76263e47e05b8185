// The works of a record store: 128k tokens of a model with 58 MoE layers, 8 of 256 experts.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "bench_record.hpp"
#include "switchyard/error.hpp"
#include "switchyard/record_store.hpp"

namespace switchyard::cli {
namespace {

constexpr std::int64_t kRows = 131072;
constexpr std::int64_t kMadeRows = 4096;  // different ones: making all would take longer than storing them
constexpr std::int32_t kLayers = 58;
constexpr int kReads = 1000;
constexpr std::int64_t kReadRows = 256;

RecordSchema make_schema(SlotOrder order) {
  RecordSchema schema{256, 8, std::vector<std::int32_t>(kLayers), order, ""};
  std::iota(schema.layers.begin(), schema.layers.end(), 3);
  return schema;
}

std::vector<std::byte> make_rows(const RecordSchema& schema) {
  std::mt19937 random(1);
  std::vector<std::byte> rows(static_cast<std::size_t>(kRows) * record_row_bytes(schema));
  const auto made = static_cast<std::size_t>(kMadeRows) * record_row_bytes(schema);
  for (std::size_t set = 0; set < made; set += 8) {
    for (std::size_t k = 0; k < 8;) {
      rows[set + k] = static_cast<std::byte>(random());
      if (std::find(rows.begin() + static_cast<std::ptrdiff_t>(set),
                    rows.begin() + static_cast<std::ptrdiff_t>(set + k),
                    rows[set + k]) == rows.begin() + static_cast<std::ptrdiff_t>(set + k)) {
        ++k;
      }
    }
  }
  for (std::size_t at = made; at < rows.size(); at += made) std::memcpy(rows.data() + at, rows.data(), made);
  return rows;
}

// Files that go away.
struct State {
  explicit State(SlotOrder order) : schema(make_schema(order)), rows(make_rows(schema)) {
    std::string pattern = (std::filesystem::temp_directory_path() / "switchyard_bench_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw Error(Code::io, "bench: no temporary folder, expected one");
    folder = pattern;
  }
  ~State() {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  std::filesystem::path path() const { return folder / "record.db"; }

  // One more sequence. The store stays open: closing it copies the log into the file, which nobody waits for.
  void append() {
    if (!opened) opened = std::make_unique<RecordStore>(RecordStore::open(path(), {.access = StoreAccess::create}));
    auto transaction = opened->transaction();
    const std::int64_t id = opened->add_sequence(schema, std::to_string(++sequences));
    opened->append(id, 0, rows_in_memory(schema, rows.data(), kRows));
    transaction.commit();
  }

  double size() const {
    const StoreStats stats = opened->stats();
    return static_cast<double>(stats.bytes()) / static_cast<double>(stats.raw_bytes());
  }

  // The ids as they are, written and on the disk.
  void write_file() const {
    const int file = ::open((folder / "raw").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0) throw Error(Code::io, "bench: no temporary file, expected one");
    std::size_t done = 0;
    for (ssize_t wrote = 1; done < rows.size() && wrote > 0; done += static_cast<std::size_t>(wrote)) {
      wrote = std::max<ssize_t>(0, ::write(file, rows.data() + done, rows.size() - done));
    }
    const bool whole = done == rows.size() && ::fsync(file) == 0;
    ::close(file);
    if (!whole) throw Error(Code::io, "bench: a temporary file cannot be written, expected space");
  }

  RecordSchema schema;
  std::vector<std::byte> rows;
  std::filesystem::path folder;
  int sequences = 0;
  std::unique_ptr<RecordStore> opened;
  std::vector<std::byte> ids;
  std::vector<std::uint8_t> valid;
};

RecordWork append_work(SlotOrder order) {
  const auto state = std::make_shared<State>(order);
  return {static_cast<double>(state->rows.size()), [state] { state->append(); }, "write and fsync of the ids",
          [state] { state->write_file(); }, [state] { return state->size(); }};
}

std::shared_ptr<State> open_store() {
  auto state = std::make_shared<State>(SlotOrder::canonical);
  state->append();
  state->ids.resize(state->rows.size());
  state->valid.resize(static_cast<std::size_t>(kRows));
  return state;
}

}  // namespace

RecordWork make_append_kept_work() { return append_work(SlotOrder::kept); }
RecordWork make_append_canonical_work() { return append_work(SlotOrder::canonical); }

RecordWork make_read_all_work() {
  const auto state = open_store();
  const auto run = [state] {
    state->opened->read(1, 0, kRows, {}, RecordLayout::layers_first, state->ids.data(), state->valid.data());
  };
  return {static_cast<double>(state->rows.size()), run, "memcpy of the ids",
          [state] { std::memcpy(state->ids.data(), state->rows.data(), state->rows.size()); },
          [state] { return state->size(); }};
}

RecordWork make_read_parts_work() {
  const auto state = open_store();
  const auto run = [state] {
    std::mt19937 random(2);
    for (int i = 0; i < kReads; ++i) {
      const std::int32_t layer = 3 + static_cast<std::int32_t>(random() % kLayers);
      const auto begin = static_cast<std::int64_t>(random() % (kRows / kReadRows)) * kReadRows;
      state->opened->read(1, begin, begin + kReadRows, std::span(&layer, 1), RecordLayout::layers_first,
                          state->ids.data(), state->valid.data());
    }
  };
  constexpr auto kBytes = static_cast<std::size_t>(kReads * kReadRows * 8);
  return {static_cast<double>(kBytes), run, "memcpy of the ids",
          [state] { std::memcpy(state->ids.data(), state->rows.data(), kBytes); }, [state] { return state->size(); }};
}

}  // namespace switchyard::cli
