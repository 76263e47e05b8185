// RecordSchema: what a routing record holds per row, and what makes a row valid.
//
// A record row says, for one token and every MoE layer of a model, which K experts it used: [L,K] ids, layers in the
// schema's order, slots in the router's. Rows in memory are [rows,L,K] of the schema's id type. Zero is a valid expert,
// so absence is a state beside the ids and never one of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// Whether a row's slots stand as the router gave them, or ascending: a set, which is stored in fewer bytes.
enum class SlotOrder : std::int32_t { kept = 0, canonical = 1 };

struct RecordSchema {
  std::int32_t experts = 0;          // E, 1..65536
  std::int32_t topk = 0;             // K, 1..64, not above E
  std::vector<std::int32_t> layers;  // [L] global indices of the MoE layers, ascending
  SlotOrder order = SlotOrder::kept;
  std::string model;  // fingerprint of the model: any text, compared byte for byte

  friend bool operator==(const RecordSchema&, const RecordSchema&) = default;
};

// Throws invalid_argument, naming the field, unless a record can have this schema.
SWITCHYARD_API void check_schema(const RecordSchema& schema);

// Type of an id: u8 up to 256 experts, u16 above. It follows from E and never from the data.
SWITCHYARD_API DType record_id_type(const RecordSchema& schema) noexcept;

// Bytes of one row [L,K] of that type.
SWITCHYARD_API std::size_t record_row_bytes(const RecordSchema& schema) noexcept;

// Throws bad_data for the first of `count` rows that names an expert outside 0..E−1 or one twice in a layer, or that is
// zero in every id (the pattern of a capture that failed; looked for where E > 1, and K > 1 or L > 1): the message has
// row, layer and value. `first` is what row 0 is called in it. `rows` [count,L,K] of record_id_type.
SWITCHYARD_API void check_rows(const RecordSchema& schema, const void* rows, std::int64_t count,
                               std::int64_t first = 0);

// Sorts the slots of every row and layer, in place.
SWITCHYARD_API void sort_slots(const RecordSchema& schema, void* rows, std::int64_t count);

// Rows that come from anywhere: a payload, a buffer, a store. `read` writes rows begin..end−1, [end − begin,L,K] of
// record_id_type, checked, to `to`; it may be called for any ranges in any order.
struct RowSource {
  std::int64_t rows = 0;
  std::function<void(std::int64_t begin, std::int64_t end, void* to)> read;
};

// Rows [count,L,K] of record_id_type in memory, not owned; read checks them as check_rows does.
SWITCHYARD_API RowSource rows_in_memory(const RecordSchema& schema, const void* rows, std::int64_t count);

}  // namespace switchyard
