#include "switchyard/npy.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kPreludeV1 = 10;  // magic, two bytes of version, length of the header in 2 bytes
constexpr std::size_t kPreludeV2 = 12;  // the same with the length in 4 bytes; version 3 too
constexpr std::size_t kMaxDimensions = 32;

struct Kind {
  std::string_view descr;
  DType dtype;
};
constexpr std::array<Kind, 12> kKinds{{{"<f4", DType::f32},
                                       {"<f2", DType::f16},
                                       {"<f8", DType::f64},
                                       {"<i2", DType::i16},
                                       {"<i4", DType::i32},
                                       {"<i8", DType::i64},
                                       {"|i1", DType::i8},
                                       {"|u1", DType::u8},
                                       {"<u2", DType::u16},
                                       {"<u4", DType::u32},
                                       {"<u8", DType::u64},
                                       {"|b1", DType::boolean}}};

// The header is the text of a Python dict: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  void read() {
    take('{');
    while (!try_take('}')) {
      read_entry();
      if (!try_take(',')) {
        take('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) damaged("text after the closing brace of the header");
    if (!descr || !fortran_order || !shape) damaged("a header without descr, fortran_order or shape");
  }

  std::optional<std::string> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;

 private:
  [[noreturn]] void damaged(std::string_view what) const {
    fail(Code::bad_data, "npy: {}: {} at byte {} of the header, expected a dict of descr, fortran_order and shape",
         name_, what, at_);
  }

  void read_entry() {
    const std::string key = read_string();
    take(':');
    if (key == "descr") {
      if (descr) damaged("a second descr");
      skip_space();
      if (at_ < text_.size() && text_[at_] == '[') {
        fail(Code::not_supported, "npy: {}: an array of structures, expected numbers", name_);
      }
      descr = read_string();
    } else if (key == "fortran_order") {
      if (fortran_order) damaged("a second fortran_order");
      fortran_order = read_bool();
    } else if (key == "shape") {
      if (shape) damaged("a second shape");
      shape = read_shape();
    } else {
      damaged("an unknown key");
    }
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }

  bool try_take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  void take(char c) {
    if (!try_take(c)) damaged(format_text("no '{}'", c));
  }

  std::string read_string() {
    skip_space();
    if (at_ >= text_.size() || (text_[at_] != '\'' && text_[at_] != '"')) damaged("no string");
    const std::size_t end = text_.find(text_[at_], at_ + 1);
    if (end == std::string_view::npos) damaged("a string without end");
    const std::string_view inside = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return std::string(inside);
  }

  bool read_bool() {
    skip_space();
    for (const std::string_view word : {std::string_view("True"), std::string_view("False")}) {
      if (text_.substr(at_).starts_with(word)) {
        at_ += word.size();
        return word == "True";
      }
    }
    damaged("neither True nor False");
  }

  std::vector<std::int64_t> read_shape() {
    std::vector<std::int64_t> sizes;
    take('(');
    while (!try_take(')')) {
      if (sizes.size() == kMaxDimensions) damaged("more than 32 dimensions");
      sizes.push_back(read_size());
      if (!try_take(',')) {
        take(')');
        break;
      }
    }
    return sizes;
  }

  std::int64_t read_size() {
    skip_space();
    std::int64_t size = 0;
    const char* first = text_.data() + at_;
    const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), size);
    if (error != std::errc() || size < 0) damaged("no size");
    at_ += static_cast<std::size_t>(end - first);
    return size;
  }

  std::string_view text_;
  const std::string& name_;
  std::size_t at_ = 0;
};

std::string known_kinds() {
  std::string text;
  for (const Kind& kind : kKinds) text += format_text("{}'{}'", text.empty() ? "" : ", ", kind.descr);
  return text;
}

DType read_kind(const HeaderReader& header, const std::string& name) {
  const std::string& descr = *header.descr;
  if (descr == "<V2" || descr == "|V2" || descr == "bfloat16") {
    fail(Code::not_supported, "npy: {}: elements '{}': npy has no bf16, expected '<f4' or a .safetensors file", name,
         descr);
  }
  const auto kind = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& known) { return known.descr == descr; });
  if (kind == kKinds.end()) {
    fail(Code::not_supported, "npy: {}: elements '{}', expected one of {}", name, descr, known_kinds());
  }
  if (*header.fortran_order) {
    fail(Code::not_supported, "npy: {}: fortran_order, expected rows one after the other (numpy.ascontiguousarray)",
         name);
  }
  return kind->dtype;
}

// The number of elements; a product that no file can have is damage as well.
std::size_t element_count(std::span<const std::int64_t> shape, const std::string& name) {
  constexpr std::size_t kMost = std::numeric_limits<std::int64_t>::max() / sizeof(std::int64_t);
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::size_t count = 1;
  for (const std::int64_t size : shape) {
    if (static_cast<std::size_t>(size) > kMost / count) {
      fail(Code::bad_data, "npy: {}: shape ({}) is too large, expected fewer than 2^60 elements", name,
           fmt::join(shape, ", "));
    }
    count *= static_cast<std::size_t>(size);
  }
  return count;
}

struct HeaderPlace {
  std::size_t offset;
  std::size_t size;
};

HeaderPlace find_header(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() < kMagic.size() || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    fail(Code::bad_data, "npy: {}: does not begin as an .npy file does, expected \\x93NUMPY", name);
  }
  if (bytes.size() < kPreludeV1) {
    fail(Code::bad_data, "npy: {}: has {} bytes, expected at least {}", name, bytes.size(), kPreludeV1);
  }
  const auto byte = [&](std::size_t i) { return std::to_integer<std::size_t>(bytes[i]); };
  if (byte(6) < 1 || byte(6) > 3) {
    fail(Code::not_supported, "npy: {}: version {}.{}, expected 1.0 to 3.0", name, byte(6), byte(7));
  }
  if (byte(6) == 1) {
    return {kPreludeV1, byte(8) | byte(9) << 8};
  }
  if (bytes.size() < kPreludeV2) {
    fail(Code::bad_data, "npy: {}: has {} bytes, expected at least {}", name, bytes.size(), kPreludeV2);
  }
  return {kPreludeV2, byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24};
}

}  // namespace

std::size_t npy_data_offset(std::span<const std::byte> beginning, const std::string& name) {
  const HeaderPlace place = find_header(beginning, name);
  return place.offset + place.size;
}

NpyHeader read_npy_header(std::span<const std::byte> beginning, const std::string& name) {
  const HeaderPlace place = find_header(beginning, name);
  if (place.size > beginning.size() - place.offset) {
    fail(Code::bad_data, "npy: {}: a header of {} bytes, expected at most the {} that are left", name, place.size,
         beginning.size() - place.offset);
  }
  HeaderReader header({reinterpret_cast<const char*>(beginning.data()) + place.offset, place.size}, name);
  header.read();
  const DType dtype = read_kind(header, name);
  const std::size_t bytes = element_count(*header.shape, name) * dtype_bytes(dtype);
  return {dtype, std::move(*header.shape), place.offset + place.size, bytes};
}

}  // namespace switchyard
