// Rows of a store for its tests.
#pragma once

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "switchyard/record_store.hpp"

namespace switchyard::testing {

inline const StoreOptions kCreate{.access = StoreAccess::create};
inline const StoreOptions kWrite{.access = StoreAccess::write};

inline RecordSchema small_schema(SlotOrder order = SlotOrder::kept, std::int32_t experts = 64) {
  return {experts, 4, {1, 2, 3, 5, 6, 9, 10, 11, 20, 21}, order, "fingerprint"};
}

struct ReadRows {
  std::vector<std::byte> ids;
  std::vector<std::uint8_t> valid;
};

inline ReadRows read_rows(const RecordStore& store, std::int64_t sequence, std::int64_t begin, std::int64_t end,
                          const std::vector<std::int32_t>& layers = {},
                          RecordLayout layout = RecordLayout::rows_first) {
  const RecordSchema schema = store.schema(sequence);
  const std::size_t set = record_row_bytes(schema) / schema.layers.size();
  const std::size_t wanted = layers.empty() ? schema.layers.size() : layers.size();
  const auto rows = static_cast<std::size_t>(end - begin);
  ReadRows read{std::vector<std::byte>(rows * wanted * set, std::byte{0x5a}), std::vector<std::uint8_t>(rows, 7)};
  store.read(sequence, begin, end, layers, layout, read.ids.data(), read.valid.data());
  return read;
}

inline std::vector<std::byte> part(const RecordSchema& schema, const std::vector<std::byte>& rows, std::int64_t begin,
                                   std::int64_t end) {
  const auto bytes = static_cast<std::int64_t>(record_row_bytes(schema));
  return {rows.begin() + begin * bytes, rows.begin() + end * bytes};
}

// Statements that the library itself would never run.
inline void run_sql(const std::filesystem::path& path, const std::string& sql) {
  sqlite3* handle = nullptr;
  ASSERT_EQ(sqlite3_open(path.c_str(), &handle), SQLITE_OK);
  char* message = nullptr;
  EXPECT_EQ(sqlite3_exec(handle, sql.c_str(), nullptr, nullptr, &message), SQLITE_OK) << message;
  sqlite3_free(message);
  sqlite3_close(handle);
}

inline std::vector<std::uint8_t> ones(std::size_t count) { return std::vector<std::uint8_t>(count, 1); }

}  // namespace switchyard::testing
