#include <algorithm>
#include <cstring>

#include "fail.hpp"
#include "record/ids.hpp"
#include "record/record_kernels.hpp"
#include "switchyard/record.hpp"

namespace switchyard {
namespace {

// A row in which every id is zero, which no routing gives where there is more than one id to choose.
template <class Id>
bool is_zero_row(const RecordSchema& schema, const Id* row, std::int64_t row_ids) {
  return schema.experts > 1 && row_ids > 1 && std::all_of(row, row + row_ids, [](Id id) { return id == 0; });
}

template <class Id>
void check_slots(const RecordSchema& schema, const Id* slots, std::int64_t row, std::size_t layer) {
  for (std::int32_t s = 0; s < schema.topk; ++s) {
    if (static_cast<std::int32_t>(slots[s]) >= schema.experts) {
      fail(Code::bad_data, "record: row {} layer {} slot {} names expert {}, expected 0..{}", row, schema.layers[layer],
           s, slots[s], schema.experts - 1);
    }
    for (std::int32_t before = 0; before < s; ++before) {
      if (slots[before] == slots[s]) {
        fail(Code::bad_data, "record: row {} layer {} names expert {} in slots {} and {}, expected distinct experts",
             row, schema.layers[layer], slots[s], before, s);
      }
    }
  }
}

template <class Id>
void check_row(const RecordSchema& schema, const Id* row, std::int64_t row_ids, std::int64_t number) {
  if (is_zero_row(schema, row, row_ids)) {
    fail(Code::bad_data, "record: row {} is zero in every layer, expected ids: its capture failed", number);
  }
  for (std::size_t l = 0; l < schema.layers.size(); ++l) {
    check_slots(schema, row + static_cast<std::int64_t>(l) * schema.topk, number, l);
  }
}

}  // namespace

void check_schema(const RecordSchema& schema) {
  if (schema.experts < 1 || schema.experts > kMaxRecordExperts) {
    fail(Code::invalid_argument, "record: schema has {} experts, expected 1..{}", schema.experts, kMaxRecordExperts);
  }
  if (schema.topk < 1 || schema.topk > std::min(kMaxRecordTopk, schema.experts)) {
    fail(Code::invalid_argument, "record: schema has topk {}, expected 1..{}", schema.topk,
         std::min(kMaxRecordTopk, schema.experts));
  }
  if (schema.layers.empty() || schema.layers.front() < 0) {
    fail(Code::invalid_argument, "record: schema has no layers or a negative one, expected global layer indices");
  }
  for (std::size_t i = 1; i < schema.layers.size(); ++i) {
    if (schema.layers[i] <= schema.layers[i - 1]) {
      fail(Code::invalid_argument, "record: schema has layer {} after layer {}, expected ascending layers",
           schema.layers[i], schema.layers[i - 1]);
    }
  }
}

DType record_id_type(const RecordSchema& schema) noexcept { return schema.experts <= 256 ? DType::u8 : DType::u16; }

std::size_t record_row_bytes(const RecordSchema& schema) noexcept {
  return schema.layers.size() * static_cast<std::size_t>(schema.topk) * dtype_bytes(record_id_type(schema));
}

void check_rows(const RecordSchema& schema, const void* rows, std::int64_t count, std::int64_t first) {
  const auto layers = static_cast<std::int64_t>(schema.layers.size());
  const std::size_t id_bytes = dtype_bytes(record_id_type(schema));
  const bool sets = record_kernels().are_sets(rows, id_bytes, count * layers, schema.topk, schema.experts);
  if (sets && schema.topk > 1) {
    return;  // distinct ids are not all zero
  }
  with_ids(schema, rows, [&](const auto* ids) {
    const std::int64_t row_ids = layers * schema.topk;
    for (std::int64_t r = 0; r < count; ++r) {
      if (!sets || is_zero_row(schema, ids + r * row_ids, row_ids)) {
        check_row(schema, ids + r * row_ids, row_ids, first + r);
      }
    }
  });
}

RowSource rows_in_memory(const RecordSchema& schema, const void* rows, std::int64_t count) {
  return {count, [schema, from = static_cast<const std::byte*>(rows)](std::int64_t begin, std::int64_t end, void* to) {
            const std::size_t row_bytes = record_row_bytes(schema);
            const std::byte* first = from + static_cast<std::size_t>(begin) * row_bytes;
            check_rows(schema, first, end - begin, begin);
            if (end > begin) {
              std::memcpy(to, first, static_cast<std::size_t>(end - begin) * row_bytes);
            }
          }};
}

}  // namespace switchyard
