// Payload: routed experts as engines send them, found in a response's body and read row by row.
//
// A payload is a description of text or bytes that somebody else owns; nothing is decoded until rows are read, and then
// only those. What is read is what was asked for: damage in other rows is not seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/record.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

enum class PayloadForm : std::int32_t {
  raw = 0,     // the ids, little-endian
  base64 = 1,  // the same in base64: standard alphabet, padded, nothing else between the characters
  lists = 2,   // JSON: [[[id, …], …], …]
};

// What stands in `data`: ids [rows,layers,topk] of `dtype`, row-major.
struct Payload {
  PayloadForm form = PayloadForm::raw;
  DType dtype = DType::u8;  // i8, u8, i16, u16, i32 or i64; of lists, i32
  std::int64_t rows = 0;
  std::int64_t layers = 0;
  std::int64_t topk = 0;
  std::int64_t start = 0;  // position in the sequence of row 0
  // [layers] global indices, ascending. Empty: those of the schema, if there are as many; otherwise every hidden layer
  // from 0 on, of which the schema's are taken.
  std::vector<std::int32_t> layer_ids;
  std::size_t offset = 0;  // bytes of the decoded data before the first id: the header of an .npy file
  std::string_view data;   // not owned: it must outlive the payload and every source made of it
};

// Throws bad_data unless the shape is possible, the data has exactly its size, and layer_ids fit it; lists are parsed
// as a whole.
SWITCHYARD_API void check_payload(const Payload& payload);

// Ids without a header, whose shape is known from elsewhere, as SGLang sends them (base64 of i32): rows follow from
// the length. Throws as check_payload.
SWITCHYARD_API Payload flat_payload(PayloadForm form, DType dtype, std::int64_t layers, std::int64_t topk,
                                    std::string_view data);

// An .npy file, form raw or base64, as vLLM sends it: rows, layers, topk and dtype come from its header. Throws as
// check_payload, and as read_npy_header.
SWITCHYARD_API Payload npy_payload(PayloadForm form, std::string_view data);

// NeMo's envelope, "nrlre1:<dtype>:<rows>x<layers>x<topk>:<base64>". Throws as check_payload.
SWITCHYARD_API Payload envelope_payload(std::string_view text);

// JSON lists, as Megatron sends them. The whole text is read once, for the shape. Throws as check_payload.
SWITCHYARD_API Payload lists_payload(std::string_view text);

// Rows of the schema from a payload: decoded, narrowed to the schema's type, its layers taken, checked as check_rows
// does, and sorted if the schema's order is canonical. `read` may be called from several threads, holds 16 KiB on its
// stack and allocates nothing; of lists, up to 4096 places in their text are kept. It throws bad_data for damage, for an
// id outside 0..E−1, with row, layer and value, and for a row that is −1 in every id, which means that it is missing.
// Throws as check_payload, and bad_data if the payload does not have the schema's K or layers.
SWITCHYARD_API RowSource rows_of(const Payload& payload, const RecordSchema& schema);

enum class RowState : std::uint8_t {
  missing = 0,   // −1 in every id: the sender says that it has none
  observed = 1,  // anything else; reading it may still find it damaged
  zero = 2,      // 0 in every id of a row of several: padding, or a capture that failed
};

// The state of rows begin..end−1, by the ids of the schema's layers, to states[end − begin]. Throws as rows_of and its
// read do for damage, but not for ids.
SWITCHYARD_API void row_states(const Payload& payload, const RecordSchema& schema, std::int64_t begin, std::int64_t end,
                               RowState* states);

// What a body does not say about its payloads. 0 or empty: nothing is known, and what needs it is refused.
struct PayloadHints {
  std::int64_t layers = 0;  // this and the next two: of ids without a shape
  std::int64_t topk = 0;
  DType dtype = DType::i32;
  std::int64_t start = 0;               // that was asked for; a start in the body counts more
  std::vector<std::int32_t> layer_ids;  // of payloads with as many layers that do not name them
};

struct FoundPayload {
  std::int64_t choice = 0;  // place in the outermost list on the way to it (choices, or a list of responses); else 0
  Payload payload;
};

// The payloads in the body of a response, JSON, in the order they stand in: values of the keys routed_experts (vLLM,
// SGLang, verifiers, prime-rl, SkyRL, NeMo) and moe_topk_indices (Megatron), at any depth:
//   "…"                              base64 of an .npy file, NeMo's envelope, or base64 of ids without a shape
//   {"data": "…", "shape": [R,L,K]}  base64, with "dtype" (NumPy's name, else uint8), "start" and "layer_indices"
//   [[[…]]]                          lists
//   null                             none
// A "routed_experts_start_len" beside it is its start.
//
// The body is not copied: text longer than 4 KiB and lists of ids are left out of what is parsed, and of a payload
// with a shape only the ends are looked at, so the time is that of what stands around. That is copied (simdjson wants
// bytes to spare behind it). Payloads point into the body, which must outlive them. Throws bad_data for a
// body that is no JSON or ends too early, and for a payload that is none or has no shape.
SWITCHYARD_API std::vector<FoundPayload> find_payloads(std::string_view body, const PayloadHints& hints = {});

}  // namespace switchyard
