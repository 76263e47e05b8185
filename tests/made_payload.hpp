// Routed experts as engines send them, made of random ids.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "switchyard/base64.hpp"
#include "switchyard/error.hpp"
#include "switchyard/payload.hpp"

namespace made {

using namespace switchyard;

struct Ids {
  std::int64_t rows = 0;
  std::int64_t layers = 0;
  std::int64_t topk = 0;
  std::vector<std::int64_t> values;  // [rows,layers,topk]

  std::int64_t& at(std::int64_t row, std::int64_t layer, std::int64_t slot) {
    return values[static_cast<std::size_t>((row * layers + layer) * topk + slot)];
  }
  std::int64_t at(std::int64_t row, std::int64_t layer, std::int64_t slot) const {
    return values[static_cast<std::size_t>((row * layers + layer) * topk + slot)];
  }
};

// Distinct within each row and layer: first + i · step mod experts, with a step that has no divisor in common.
inline Ids random_ids(std::int64_t rows, std::int64_t layers, std::int64_t topk, std::int32_t experts, unsigned seed) {
  std::mt19937 random(seed);
  Ids ids{rows, layers, topk, {}};
  for (std::int64_t set = 0; set < rows * layers; ++set) {
    const std::int64_t first = static_cast<std::int64_t>(random() % static_cast<unsigned>(experts));
    const std::int64_t step = random() % 2 == 0 ? 1 : experts - 1;
    for (std::int64_t s = 0; s < topk; ++s) {
      ids.values.push_back((first + s * step) % experts);
    }
  }
  return ids;
}

inline std::string bytes_of(const Ids& ids, DType dtype) {
  const std::size_t size = dtype_bytes(dtype);
  std::string bytes(ids.values.size() * size, '\0');
  for (std::size_t i = 0; i < ids.values.size(); ++i) {
    std::memcpy(bytes.data() + i * size, &ids.values[i], size);
  }
  return bytes;
}

inline std::string base64_of(const std::string& bytes) { return encode_base64(std::as_bytes(std::span(bytes))); }

// As numpy.save writes it.
inline std::string npy_of(const Ids& ids, DType dtype, char version = 1) {
  const char* descr = dtype == DType::u8    ? "|u1"
                      : dtype == DType::i8  ? "|i1"
                      : dtype == DType::u16 ? "<u2"
                      : dtype == DType::i16 ? "<i2"
                      : dtype == DType::i32 ? "<i4"
                                            : "<i8";
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}, {}, {}), }}", descr,
                                   ids.rows, ids.layers, ids.topk);
  const std::size_t prelude = version == 1 ? 10 : 12;
  header.append(63 - (prelude + header.size()) % 64, ' ');
  header += '\n';
  std::string file = "\x93NUMPY";
  file += {version, '\0', static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  file.append(prelude - 10, '\0');
  return file + header + bytes_of(ids, dtype);
}

inline std::string lists_of(const Ids& ids, const std::string& space = "") {
  std::string text = "[";
  for (std::int64_t r = 0; r < ids.rows; ++r) {
    text += r == 0 ? "[" : "," + space + "[";
    for (std::int64_t l = 0; l < ids.layers; ++l) {
      text += l == 0 ? "[" : "," + space + "[";
      for (std::int64_t s = 0; s < ids.topk; ++s) {
        text += (s == 0 ? "" : "," + space) + std::to_string(ids.at(r, l, s));
      }
      text += "]";
    }
    text += "]";
  }
  return text + "]";
}

inline RecordSchema schema_of(std::int32_t experts, std::int64_t topk, std::vector<std::int32_t> layers) {
  RecordSchema schema;
  schema.experts = experts;
  schema.topk = static_cast<std::int32_t>(topk);
  schema.layers = std::move(layers);
  return schema;
}

inline std::vector<std::int32_t> layers_from(std::int32_t first, std::int64_t count) {
  std::vector<std::int32_t> layers;
  for (std::int32_t l = first; l < first + static_cast<std::int32_t>(count); ++l) {
    layers.push_back(l);
  }
  return layers;
}

// Ids of rows begin..end−1, into memory of exactly their size.
inline std::vector<std::int64_t> read(const RowSource& source, const RecordSchema& schema, std::int64_t begin,
                                      std::int64_t end) {
  const std::size_t size = dtype_bytes(record_id_type(schema));
  const std::size_t count =
      static_cast<std::size_t>(end - begin) * schema.layers.size() * static_cast<std::size_t>(schema.topk);
  const auto bytes = std::make_unique<std::byte[]>(count * size);
  source.read(begin, end, bytes.get());
  std::vector<std::int64_t> ids(count, 0);
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(&ids[i], bytes.get() + i * size, size);
  }
  return ids;
}

template <class Action>
std::string message_of(const Action& action, Code code = Code::bad_data) {
  try {
    action();
  } catch (const Error& error) {
    return error.code() == code ? error.what() : std::string("code ") + code_name(error.code()) + ": " + error.what();
  }
  return "accepted";
}

}  // namespace made
