#include "record/store_format.hpp"

#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kApplicationId = 0x53575244;  // "SWRD"

constexpr const char* kVersion1 = R"(
CREATE TABLE schemas (
  schema_id INTEGER PRIMARY KEY,
  experts INTEGER NOT NULL CHECK (experts BETWEEN 1 AND 65536),
  topk INTEGER NOT NULL CHECK (topk BETWEEN 1 AND 64),
  slot_order INTEGER NOT NULL CHECK (slot_order IN (0, 1)),
  group_layers INTEGER NOT NULL CHECK (group_layers > 0),
  layers TEXT NOT NULL,
  model TEXT NOT NULL
) STRICT;
CREATE TABLE sequences (
  sequence_id INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT UNIQUE,
  schema_id INTEGER NOT NULL REFERENCES schemas,
  policy_version INTEGER NOT NULL,
  parent_id INTEGER REFERENCES sequences CHECK (parent_id < sequence_id),
  parent_rows INTEGER NOT NULL CHECK (parent_rows >= 0),
  rows INTEGER NOT NULL,
  conflicts INTEGER NOT NULL
) STRICT;
CREATE INDEX sequences_by_parent ON sequences (parent_id) WHERE parent_id IS NOT NULL;
CREATE TABLE spans (
  span_id INTEGER PRIMARY KEY,
  sequence_id INTEGER NOT NULL REFERENCES sequences,
  start INTEGER NOT NULL CHECK (start >= 0),
  rows INTEGER NOT NULL CHECK (rows BETWEEN 1 AND 256),
  UNIQUE (sequence_id, start)
) STRICT;
CREATE TABLE blobs (
  blob_id INTEGER PRIMARY KEY,
  span_id INTEGER NOT NULL REFERENCES spans ON DELETE CASCADE,
  layer_group INTEGER NOT NULL,
  encoding INTEGER NOT NULL,
  checksum INTEGER NOT NULL,
  data BLOB NOT NULL,
  UNIQUE (span_id, layer_group)
) STRICT;
)";

// kMigrations[v] makes version v + 1 of version v; 0 is an empty file.
constexpr const char* kMigrations[] = {kVersion1};
constexpr std::int64_t kVersion = std::size(kMigrations);

void check_is_store(const Sqlite& database) {
  const std::int64_t id = database.number("PRAGMA application_id");
  if (id != kApplicationId) {
    fail(Code::bad_data, "record store: {}: application id {:#x}, expected {:#x}: it is another kind of database",
         database.path(), id, kApplicationId);
  }
  const std::int64_t version = database.number("PRAGMA user_version");
  if (version > kVersion) {
    fail(Code::not_supported, "record store: {}: version {}, expected at most {}", database.path(), version, kVersion);
  }
  if (version < 1) fail(Code::bad_data, "record store: {}: version {}, expected 1 or more", database.path(), version);
}

bool is_empty(const Sqlite& database) {
  return database.number("PRAGMA application_id") == 0 && database.number("SELECT count(*) FROM sqlite_schema") == 0;
}

}  // namespace

std::int64_t blob_checksum(const BlobPlace& place, std::span<const std::byte> bytes) {
  static_assert(sizeof(BlobPlace) == 7 * sizeof(std::int64_t), "hashed as 7 numbers");
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  if (!state) fail(Code::out_of_memory, "record store: no memory for a checksum, expected some");
  XXH3_64bits_reset(state.get());
  XXH3_64bits_update(state.get(), &place, sizeof(place));
  XXH3_64bits_update(state.get(), bytes.data(), bytes.size());
  return static_cast<std::int64_t>(XXH3_64bits_digest(state.get()));
}

std::int64_t StoredSchema::group_end(std::int64_t group) const noexcept {
  return std::min(layers(), (group + 1) * group_layers);
}

std::string layers_json(const RecordSchema& schema) { return nlohmann::json(schema.layers).dump(); }

std::vector<std::int32_t> layers_from_json(const std::string& text, std::string_view path) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  std::vector<std::int32_t> layers;
  for (const auto& layer : json.is_array() ? json : nlohmann::json::array()) {
    const std::int64_t index = layer.is_number_integer() ? layer.get<std::int64_t>() : -1;
    if (index < 0 || index > INT32_MAX) {
      fail(Code::bad_data, "record store: {}: a layer '{}', expected an index", path, layer.dump());
    }
    layers.push_back(static_cast<std::int32_t>(index));
  }
  return layers;
}

void prepare_tables(const Sqlite& database, StoreAccess access) {
  if (is_empty(database)) {
    if (access != StoreAccess::create) {
      fail(Code::bad_data, "record store: {}: an empty database, expected a record store", database.path());
    }
    database.run("PRAGMA journal_mode = WAL");  // not possible inside of a transaction
  } else {
    check_is_store(database);
  }
  const std::int64_t found = database.number("PRAGMA user_version");
  if (found == kVersion) return;
  if (access == StoreAccess::read) {
    fail(Code::not_supported, "record store: {}: version {}, expected {}: opening it for writing migrates it",
         database.path(), found, kVersion);
  }
  Savepoint step(database);
  // Somebody else may have been faster.
  for (std::int64_t version = database.number("PRAGMA user_version"); version < kVersion; ++version) {
    database.run(kMigrations[version]);
    database.run(
        format_text("PRAGMA application_id = {}; PRAGMA user_version = {}", kApplicationId, version + 1).c_str());
  }
  step.keep();
}

}  // namespace switchyard
