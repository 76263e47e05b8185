#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

#include "checkpoint/json_text.hpp"
#include "checkpoint/safetensors.hpp"
#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

using nlohmann::json;

// In the order of DType's numbers.
constexpr std::array<const char*, 16> kDTypes = {"F32", "BF16", "F16", "F64", "I8",   "U8",      "I16",     "U16",
                                                 "I32", "U32",  "I64", "U64", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"};

struct Entry {
  Tensor tensor;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// One entry of the header; `where` is "safetensors: FILE: tensor NAME".
class EntryReader {
 public:
  EntryReader(const json& value, std::string where) : value_(value), where_(std::move(where)) {
    if (!value.is_object()) {
      fail(Code::bad_data, "{} is {}, expected an object with dtype, shape and data_offsets", where_,
           printable_value(value));
    }
  }

  Entry read() const {
    Entry entry;
    entry.tensor.dtype = dtype();
    entry.tensor.shape = shape();
    std::tie(entry.begin, entry.end) = offsets();
    const auto bytes = tensor_bytes(entry.tensor.dtype, entry.tensor.shape);
    if (!bytes) {
      fail(Code::bad_data, "{} has shape {}, whose size in bytes overflows 64 bits, expected less", where_,
           printable_value(field("shape")));
    }
    if (entry.end - entry.begin != *bytes) {
      fail(Code::bad_data, "{} has {} bytes at data_offsets {}..{}, expected {} for {} {}", where_,
           entry.end - entry.begin, entry.begin, entry.end, *bytes, safetensors_dtype(entry.tensor.dtype),
           printable_value(field("shape")));
    }
    entry.tensor.bytes = *bytes;
    return entry;
  }

 private:
  const json& field(const char* key) const {
    const auto found = value_.find(key);
    if (found == value_.end()) {
      fail(Code::bad_data, "{} has no {}, expected dtype, shape and data_offsets", where_, key);
    }
    return *found;
  }

  DType dtype() const {
    const json& value = field("dtype");
    if (!value.is_string()) fail(Code::bad_data, "{} has dtype {}, expected a string", where_, printable_value(value));
    const auto found = std::find(kDTypes.begin(), kDTypes.end(), value.get_ref<const std::string&>());
    if (found == kDTypes.end()) {
      fail(Code::bad_data, "{} has the unknown dtype {}, expected one of {}", where_, printable_value(value),
           fmt::join(kDTypes, ", "));
    }
    return static_cast<DType>(found - kDTypes.begin());
  }

  std::vector<std::int64_t> shape() const {
    constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
    const json& value = field("shape");
    if (!value.is_array()) fail(Code::bad_data, "{} has shape {}, expected an array", where_, printable_value(value));
    std::vector<std::int64_t> shape;
    shape.reserve(value.size());
    for (const json& size : value) {
      if (!size.is_number_unsigned() || size.get<std::uint64_t>() > kMax) {
        fail(Code::bad_data, "{} has {} in its shape, expected integers 0..{}", where_, printable_value(size), kMax);
      }
      shape.push_back(size.get<std::int64_t>());
    }
    return shape;
  }

  std::pair<std::uint64_t, std::uint64_t> offsets() const {
    const json& value = field("data_offsets");
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() || !value[1].is_number_unsigned()) {
      fail(Code::bad_data, "{} has data_offsets {}, expected two integers from 0", where_, printable_value(value));
    }
    const auto begin = value[0].get<std::uint64_t>();
    const auto end = value[1].get<std::uint64_t>();
    if (begin > end) {
      fail(Code::bad_data, "{} has data_offsets {}..{}, expected begin <= end", where_, begin, end);
    }
    return {begin, end};
  }

  const json& value_;
  std::string where_;
};

void check_metadata(const json& value, const std::string& file) {
  if (!value.is_object()) {
    fail(Code::bad_data, "safetensors: {}: __metadata__ is {}, expected an object of strings", file,
         printable_value(value));
  }
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      fail(Code::bad_data, "safetensors: {}: __metadata__ has {} for {}, expected a string", file,
           printable_value(text), printable(key));
    }
  }
}

// The format wants the data covered exactly once. `entries` are in the order of their place.
void check_places(const std::vector<Entry>& entries, std::uint64_t data_bytes, const std::string& file) {
  std::uint64_t covered = 0;
  const Entry* previous = nullptr;
  for (const Entry& entry : entries) {
    const std::string where = format_text("safetensors: {}: tensor {}", file, printable(entry.tensor.name));
    if (entry.end > data_bytes) {
      fail(Code::bad_data, "{} has data_offsets {}..{}, expected them inside of the file's {} bytes of data", where,
           entry.begin, entry.end, data_bytes);
    }
    if (entry.begin < covered) {
      fail(Code::bad_data, "{} has data_offsets {}..{}, which overlap tensor {} at {}..{}, expected no overlap", where,
           entry.begin, entry.end, printable(previous->tensor.name), previous->begin, previous->end);
    }
    if (entry.begin > covered) {
      fail(Code::bad_data, "{} begins at {} and the data before it ends at {}, expected no hole", where, entry.begin,
           covered);
    }
    covered = entry.end;
    previous = &entry;
  }
  if (covered != data_bytes) {
    fail(Code::bad_data, "safetensors: {}: the tensors end at {} of {} bytes of data, expected no hole", file, covered,
         data_bytes);
  }
}

}  // namespace

std::optional<std::size_t> tensor_bytes(DType dtype, std::span<const std::int64_t> shape) noexcept {
  std::size_t product = dtype_bytes(dtype);
  bool empty = false;
  for (const std::int64_t size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, static_cast<std::size_t>(size), &product)) {
      return std::nullopt;
    }
  }
  return empty ? 0 : product;
}

const char* safetensors_dtype(DType dtype) noexcept { return kDTypes[static_cast<std::size_t>(dtype)]; }

std::vector<Tensor> parse_safetensors_header(std::string_view text, const std::byte* data, std::size_t data_bytes,
                                             const std::string& file) {
  const json header = parse_json(text, format_text("safetensors: {}: the header", file));
  if (!header.is_object()) {
    fail(Code::bad_data, "safetensors: {}: the header is {}, expected an object", file, printable_value(header));
  }
  std::vector<Entry> entries;
  entries.reserve(header.size());
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      check_metadata(value, file);
      continue;
    }
    Entry entry = EntryReader(value, format_text("safetensors: {}: tensor {}", file, printable(name))).read();
    entry.tensor.name = name;
    entries.push_back(std::move(entry));
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  check_places(entries, data_bytes, file);

  std::vector<Tensor> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    entry.tensor.data = data + entry.begin;
    tensors.push_back(std::move(entry.tensor));
  }
  return tensors;
}

std::vector<Tensor> parse_safetensors(std::span<const std::byte> file, const std::string& name) {
  if (file.size() < kSafetensorsPrefix) {
    fail(Code::bad_data, "safetensors: {}: has {} bytes, expected at least {}", name, file.size(), kSafetensorsPrefix);
  }
  std::uint64_t length = 0;
  for (std::size_t i = kSafetensorsPrefix; i-- > 0;) length = length << 8 | std::to_integer<std::uint64_t>(file[i]);
  if (length > kMaxJsonBytes) {
    fail(Code::bad_data, "safetensors: {}: the header claims {} bytes, expected at most {}", name, length,
         kMaxJsonBytes);
  }
  const auto rest = file.subspan(kSafetensorsPrefix);
  if (length > rest.size()) {
    fail(Code::bad_data, "safetensors: {}: the header claims {} bytes, expected at most the {} that follow", name,
         length, rest.size());
  }
  const auto data = rest.subspan(length);
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), length);
  return parse_safetensors_header(text, data.data(), data.size(), name);
}

}  // namespace switchyard
