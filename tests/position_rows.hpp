// Rows whose ids say which position they are of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/record.hpp"
#include "switchyard/record_rows.hpp"

namespace position_rows {

using namespace switchyard;

using Row = std::vector<std::byte>;

inline RecordSchema schema_of(std::int32_t experts = 256, std::int32_t topk = 4,
                              std::vector<std::int32_t> layers = {1, 2, 5}) {
  return {experts, topk, std::move(layers), SlotOrder::kept, "test"};
}

// Id of a slot: another one for every slot of a layer, for every position modulo E, and for every salt.
inline std::int64_t id_of(const RecordSchema& schema, std::int64_t position, std::int64_t layer, std::int64_t slot,
                          std::int64_t salt = 0) {
  const std::int64_t experts = schema.experts;
  const std::int64_t id = position + 5 * layer + slot + 1 + 101 * salt;
  return (id % experts + experts) % experts;
}

inline Row row_of(const RecordSchema& schema, std::int64_t position, std::int64_t salt = 0) {
  Row row(record_row_bytes(schema));
  const std::size_t bytes = dtype_bytes(record_id_type(schema));
  std::byte* to = row.data();
  for (std::size_t l = 0; l < schema.layers.size(); ++l) {
    for (std::int32_t s = 0; s < schema.topk; ++s, to += bytes) {
      const auto id = static_cast<std::uint16_t>(id_of(schema, position, static_cast<std::int64_t>(l), s, salt));
      std::memcpy(to, &id, bytes);  // the low bytes come first
    }
  }
  return row;
}

// Rows of positions start..start + count − 1, made when they are read; `read` is told of every range.
inline RowSource source_of(const RecordSchema& schema, std::int64_t start, std::int64_t count, std::int64_t salt = 0,
                           std::function<void(std::int64_t, std::int64_t)> read = {}) {
  return {count, [=](std::int64_t begin, std::int64_t end, void* to) {
            if (read) read(begin, end);
            auto* out = static_cast<std::byte*>(to);
            for (std::int64_t r = begin; r < end; ++r, out += record_row_bytes(schema)) {
              const Row row = row_of(schema, start + r, salt);
              std::copy(row.begin(), row.end(), out);
            }
          }};
}

inline std::vector<Row> read_all(const RecordSchema& schema, const RowSource& source) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(source.rows) * record_row_bytes(schema));
  if (source.rows > 0) source.read(0, source.rows, bytes.data());
  std::vector<Row> rows;
  for (auto at = bytes.begin(); at != bytes.end(); at += static_cast<std::ptrdiff_t>(record_row_bytes(schema))) {
    rows.emplace_back(at, at + static_cast<std::ptrdiff_t>(record_row_bytes(schema)));
  }
  return rows;
}

// "" or "code: message".
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(code_name(error.code())) + ": " + error.what();
  }
  return "";
}

}  // namespace position_rows
