// The tables of a store and how their rows are made; docs/record_store.md is the page about them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "record/sqlite.hpp"
#include "switchyard/record.hpp"
#include "switchyard/record_store.hpp"

namespace switchyard {

constexpr std::int64_t kBlockRows = 256;  // a span lies within positions n · 256 .. n · 256 + 255
// Layers of a blob: few, so that a pipeline's rank decodes little that is not its own, but 16 KiB of 8 ids, which zstd
// decodes 1.2 times as fast as 8 KiB: building its tables takes as long as decoding 3 KiB.
constexpr std::int64_t kGroupLayers = 8;
constexpr std::int64_t kMaxPosition = std::int64_t{1} << 48;

// What a blob is, beside its bytes: the checksum is that of both.
struct BlobPlace {
  std::int64_t sequence = 0;
  std::int64_t start = 0;
  std::int64_t rows = 0;
  std::int64_t layer_group = 0;
  std::int64_t encoding = 0;
  std::int64_t experts = 0;
  std::int64_t topk = 0;
};
std::int64_t blob_checksum(const BlobPlace& place, std::span<const std::byte> bytes);

// A schema as it is stored.
struct StoredSchema {
  std::int64_t id = 0;
  RecordSchema schema;
  std::int64_t group_layers = kGroupLayers;

  std::int64_t layers() const noexcept { return static_cast<std::int64_t>(schema.layers.size()); }
  std::int64_t groups() const noexcept { return (layers() + group_layers - 1) / group_layers; }
  // Layers first..end − 1 of the schema.
  std::int64_t group_begin(std::int64_t group) const noexcept { return group * group_layers; }
  std::int64_t group_end(std::int64_t group) const noexcept;
};

std::string layers_json(const RecordSchema& schema);
// Throws bad_data.
std::vector<std::int32_t> layers_from_json(const std::string& text, std::string_view path);

// Makes the tables in an empty file, brings those of an older version up to date, and refuses what is no store or a
// newer one.
void prepare_tables(const Sqlite& database, StoreAccess access);

}  // namespace switchyard
