// What a payload is: its shape against its data.
#include "switchyard/payload.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <string>

#include "fail.hpp"
#include "record/lists.hpp"
#include "record/payload_parts.hpp"
#include "switchyard/base64.hpp"
#include "switchyard/base64.hpp"
#include "switchyard/npy.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kMostNpyHeader = 8192;

struct TypeName {
  std::string_view name;
  DType dtype;
};
constexpr std::array<TypeName, 6> kTypeNames{{{"int8", DType::i8},
                                              {"uint8", DType::u8},
                                              {"int16", DType::i16},
                                              {"uint16", DType::u16},
                                              {"int32", DType::i32},
                                              {"int64", DType::i64}}};

bool is_id_type(DType dtype) {
  return std::any_of(kTypeNames.begin(), kTypeNames.end(), [&](const TypeName& known) { return known.dtype == dtype; });
}

void check_layer_ids(const Payload& payload) {
  if (payload.layer_ids.empty()) {
    return;
  }
  if (static_cast<std::int64_t>(payload.layer_ids.size()) != payload.layers) {
    fail(Code::bad_data, "payload: {} layer ids, expected {}, one per layer", payload.layer_ids.size(), payload.layers);
  }
  std::int64_t before = -1;
  for (const std::int32_t layer : payload.layer_ids) {
    if (layer <= before) {
      fail(Code::bad_data, "payload: layer id {} after {}, expected ascending ids from 0 on", layer, before);
    }
    before = layer;
  }
}

std::size_t decoded_bytes(const Payload& payload) {
  return payload.form == PayloadForm::base64 ? base64_bytes(payload.data) : payload.data.size();
}

// The first bytes of the decoded data, at most `count`.
std::string decoded_beginning(PayloadForm form, std::string_view data, std::size_t count) {
  if (form != PayloadForm::base64) {
    return std::string(data.substr(0, count));
  }
  // What was cut off the text has no padding to be wrong about.
  const std::string_view text = data.substr(0, std::min((count + 2) / 3 * 4, data.size() / 4 * 4));
  std::string bytes(std::min(count, base64_bytes(text)), '\0');
  decode_base64(text, 0, bytes.size(), bytes.data());
  return bytes;
}

// Takes what stands before `until`, and that.
std::string_view take_until(std::string_view& text, char until, std::string_view expected) {
  const std::size_t end = text.substr(0, 64).find(until);
  if (end == std::string_view::npos) {
    fail(Code::bad_data, "payload: an envelope without {}, expected nrlre1:<dtype>:<rows>x<layers>x<topk>:<base64>",
         expected);
  }
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(end + 1);
  return part;
}

std::int64_t take_size(std::string_view& text, char until, std::string_view expected) {
  const std::string_view part = take_until(text, until, expected);
  std::int64_t size = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), size);
  if (error != std::errc() || end != part.data() + part.size() || size < 0) {
    fail(Code::bad_data, "payload: an envelope with {} '{}', expected a number", expected, part);
  }
  return size;
}

}  // namespace

std::size_t payload_id_bytes(const Payload& payload) {
  if (payload.rows < 0 || payload.layers < 0 || payload.topk < 0 ||
      (payload.rows > 0 && (payload.layers == 0 || payload.topk == 0))) {
    fail(Code::bad_data, "payload: shape [{}, {}, {}], expected positive sizes", payload.rows, payload.layers,
         payload.topk);
  }
  std::size_t bytes = dtype_bytes(payload.dtype);
  for (const std::int64_t size : {payload.layers, payload.topk, payload.rows}) {
    // Room for the offset, and for the third that base64 adds.
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes) || bytes > kMostPayloadBytes) {
      fail(Code::bad_data, "payload: shape [{}, {}, {}] of {} overflows, expected fewer than 2^60 bytes", payload.rows,
           payload.layers, payload.topk, dtype_name(payload.dtype));
    }
  }
  return bytes;
}

std::optional<DType> parse_id_type(std::string_view name) {
  const auto known =
      std::find_if(kTypeNames.begin(), kTypeNames.end(), [&](const TypeName& each) { return each.name == name; });
  return known == kTypeNames.end() ? std::nullopt : std::optional(known->dtype);
}

NpyHeader npy_header_of(PayloadForm form, std::string_view data) {
  const std::string name = "payload";
  const std::string prelude = decoded_beginning(form, data, 12);
  const std::size_t end = npy_data_offset(std::as_bytes(std::span(prelude)), name);
  if (end > kMostNpyHeader) {
    fail(Code::bad_data, "payload: an .npy header of {} bytes, expected at most {}", end, kMostNpyHeader);
  }
  const std::string beginning = decoded_beginning(form, data, end);
  return read_npy_header(std::as_bytes(std::span(beginning)), name);
}

Payload envelope_header(std::string_view text) {
  if (!text.starts_with(kEnvelopePrefix)) {
    fail(Code::bad_data, "payload: does not begin as an envelope does, expected {}", kEnvelopePrefix);
  }
  text.remove_prefix(kEnvelopePrefix.size());
  Payload payload;
  payload.form = PayloadForm::base64;
  const std::string_view type = take_until(text, ':', "dtype");
  const std::optional<DType> dtype = parse_id_type(type);
  if (!dtype) {
    fail(Code::bad_data, "payload: an envelope of '{}', expected int8, int16, int32 or another integer type", type);
  }
  payload.dtype = *dtype;
  payload.rows = take_size(text, 'x', "rows");
  payload.layers = take_size(text, 'x', "layers");
  payload.topk = take_size(text, ':', "topk");
  payload.data = text;
  return payload;
}

void check_payload_size(const Payload& payload) {
  if (!is_id_type(payload.dtype)) {
    fail(Code::bad_data, "payload: ids of {}, expected i8, u8, i16, u16, i32 or i64", dtype_name(payload.dtype));
  }
  check_layer_ids(payload);
  const std::size_t bytes = payload_id_bytes(payload);
  if (payload.form == PayloadForm::lists) {
    return;
  }
  const std::size_t found = decoded_bytes(payload);
  if (payload.offset > kMostPayloadBytes || found != payload.offset + bytes) {
    const bool escapes = payload.form == PayloadForm::base64 && payload.data.find('\\') != std::string_view::npos;
    fail(Code::bad_data, "payload: {} bytes{}, expected {} for shape [{}, {}, {}] of {}", found,
         escapes ? " and JSON escapes among them" : "", payload.offset + bytes, payload.rows, payload.layers,
         payload.topk, dtype_name(payload.dtype));
  }
}

void check_payload_lists(const Payload& payload, const Lists& lists) {
  if (payload.dtype != DType::i32 || lists.length != payload.data.size() || lists.rows != payload.rows ||
      lists.layers != payload.layers || lists.topk != payload.topk) {
    fail(Code::bad_data, "payload: lists of shape [{}, {}, {}] in {} of {} characters, expected [{}, {}, {}] of i32",
         lists.rows, lists.layers, lists.topk, lists.length, payload.data.size(), payload.rows, payload.layers,
         payload.topk);
  }
}

void check_payload(const Payload& payload) {
  check_payload_size(payload);
  if (payload.form == PayloadForm::lists) {
    check_payload_lists(payload, parse_lists(payload.data));
  }
}

Payload flat_payload(PayloadForm form, DType dtype, std::int64_t layers, std::int64_t topk, std::string_view data) {
  Payload payload;
  payload.form = form;
  payload.dtype = dtype;
  payload.rows = 1;
  payload.layers = layers;
  payload.topk = topk;
  payload.data = data;
  if (form == PayloadForm::lists) {
    fail(Code::bad_data, "payload: lists have a shape of their own, expected raw or base64");
  }
  const std::size_t row_bytes = payload_id_bytes(payload);
  payload.rows = static_cast<std::int64_t>(decoded_bytes(payload) / row_bytes);
  check_payload_size(payload);
  return payload;
}

Payload npy_payload(PayloadForm form, std::string_view data) {
  const NpyHeader header = npy_header_of(form, data);
  if (header.shape.size() != 3) {
    fail(Code::bad_data, "payload: an .npy array of {} dimensions, expected 3: rows, layers, topk",
         header.shape.size());
  }
  Payload payload;
  payload.form = form;
  payload.dtype = header.dtype;
  payload.rows = header.shape[0];
  payload.layers = header.shape[1];
  payload.topk = header.shape[2];
  payload.offset = header.data_offset;
  payload.data = data;
  check_payload_size(payload);
  return payload;
}

Payload envelope_payload(std::string_view text) {
  Payload payload = envelope_header(text);
  check_payload_size(payload);
  return payload;
}

Payload lists_payload(std::string_view text) {
  const Lists lists = parse_lists(text);
  Payload payload;
  payload.form = PayloadForm::lists;
  payload.dtype = DType::i32;
  payload.rows = lists.rows;
  payload.layers = lists.layers;
  payload.topk = lists.topk;
  payload.data = text;
  check_payload_size(payload);
  check_payload_lists(payload, lists);
  return payload;
}

}  // namespace switchyard
