#include "npy.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>

#include "files.hpp"
#include "switchyard/error.hpp"

namespace switchyard::cli {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are read and written as they stand in memory");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kPreludeV1 = 10;  // magic, two bytes of version, length of the header in 2 bytes
constexpr std::size_t kPreludeV2 = 12;  // the same with the length in 4 bytes
constexpr std::size_t kAlignment = 64;  // of the data in the file
constexpr std::size_t kMaxDimensions = 32;

struct Kind {
  std::string_view descr;
  DType dtype;
};
constexpr std::array<Kind, 7> kKinds{{{"<f4", DType::f32},
                                      {"<f2", DType::f16},
                                      {"<i2", DType::i16},
                                      {"<i4", DType::i32},
                                      {"<i8", DType::i64},
                                      {"|u1", DType::u8},
                                      {"|b1", DType::boolean}}};

// The header is the text of a Python dict: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& file) : text_(text), file_(file) {}

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
    throw Error(Code::bad_data,
                fmt::format("npy: {}: {} at byte {} of the header, expected a dict of descr, fortran_order and shape",
                            file_, what, at_));
  }

  void read_entry() {
    const std::string key = read_string();
    take(':');
    if (key == "descr") {
      if (descr) damaged("a second descr");
      skip_space();
      if (at_ < text_.size() && text_[at_] == '[') {
        throw Error(Code::not_supported, fmt::format("npy: {}: an array of structures, expected numbers", file_));
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
    if (!try_take(c)) damaged(fmt::format("no '{}'", c));
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
  const std::string& file_;
  std::size_t at_ = 0;
};

std::string known_kinds() {
  std::string text;
  for (const Kind& kind : kKinds) text += fmt::format("{}'{}'", text.empty() ? "" : ", ", kind.descr);
  return text;
}

DType read_kind(const HeaderReader& header, const std::string& file) {
  const std::string& descr = *header.descr;
  if (descr == "<V2" || descr == "|V2" || descr == "bfloat16") {
    throw Error(
        Code::not_supported,
        fmt::format("npy: {}: elements '{}': npy has no bf16, expected '<f4' or a .safetensors file", file, descr));
  }
  const auto kind = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& known) { return known.descr == descr; });
  if (kind == kKinds.end()) {
    throw Error(Code::not_supported,
                fmt::format("npy: {}: elements '{}', expected one of {}", file, descr, known_kinds()));
  }
  if (*header.fortran_order) {
    throw Error(
        Code::not_supported,
        fmt::format("npy: {}: fortran_order, expected rows one after the other (numpy.ascontiguousarray)", file));
  }
  return kind->dtype;
}

// The number of elements; a product that no file can have is damage as well.
std::size_t element_count(std::span<const std::int64_t> shape, const std::string& file) {
  constexpr std::size_t kMost = std::numeric_limits<std::int64_t>::max() / sizeof(std::int64_t);
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::size_t count = 1;
  for (const std::int64_t size : shape) {
    if (static_cast<std::size_t>(size) > kMost / count) {
      throw Error(Code::bad_data, fmt::format("npy: {}: shape ({}) is too large, expected fewer than 2^60 elements",
                                              file, fmt::join(shape, ", ")));
    }
    count *= static_cast<std::size_t>(size);
  }
  return count;
}

struct HeaderPlace {
  std::size_t offset;
  std::size_t size;
};

HeaderPlace find_header(std::span<const std::byte> bytes, const std::string& file) {
  if (bytes.size() < kMagic.size() || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    throw Error(Code::bad_data, fmt::format("npy: {}: does not begin as an .npy file does, expected \\x93NUMPY", file));
  }
  if (bytes.size() < kPreludeV1)
    throw Error(Code::bad_data,
                fmt::format("npy: {}: has {} bytes, expected at least {}", file, bytes.size(), kPreludeV1));
  const auto byte = [&](std::size_t i) { return std::to_integer<std::size_t>(bytes[i]); };
  if (byte(6) != 1 && byte(6) != 2) {
    throw Error(Code::not_supported,
                fmt::format("npy: {}: version {}.{}, expected 1.0 or 2.0", file, byte(6), byte(7)));
  }
  HeaderPlace place{kPreludeV1, byte(8) | byte(9) << 8};
  if (byte(6) == 2) {
    if (bytes.size() < kPreludeV2) {
      throw Error(Code::bad_data,
                  fmt::format("npy: {}: has {} bytes, expected at least {}", file, bytes.size(), kPreludeV2));
    }
    place = {kPreludeV2, byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24};
  }
  if (place.size > bytes.size() - place.offset) {
    throw Error(Code::bad_data,
                fmt::format("npy: {}: a header of {} bytes, expected at most the {} that the file has left", file,
                            place.size, bytes.size() - place.offset));
  }
  return place;
}

}  // namespace

NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& file) {
  const HeaderPlace place = find_header(bytes, file);
  HeaderReader header({reinterpret_cast<const char*>(bytes.data()) + place.offset, place.size}, file);
  header.read();
  const DType dtype = read_kind(header, file);
  const std::size_t size = element_count(*header.shape, file) * dtype_bytes(dtype);
  const auto data = bytes.subspan(place.offset + place.size);
  if (data.size() != size) {
    throw Error(Code::bad_data, fmt::format("npy: {}: {} bytes of data, expected {} for shape ({})", file, data.size(),
                                            size, fmt::join(*header.shape, ", ")));
  }
  return {dtype, std::move(*header.shape), {data.begin(), data.end()}};
}

NpyArray read_npy(const std::filesystem::path& path) { return parse_npy(read_file(path, "npy"), path.string()); }

void write_npy(const std::filesystem::path& path, std::span<const std::int64_t> shape, std::span<const float> values) {
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{}), }}",
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  const std::size_t end = kPreludeV1 + header.size() + 1;
  header.append((kAlignment - end % kAlignment) % kAlignment, ' ');
  header += '\n';
  std::string prelude(kMagic);
  prelude += {'\x01', '\0', static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  write_file(path, "npy", {std::as_bytes(std::span(prelude)), std::as_bytes(std::span(header)), std::as_bytes(values)});
}

}  // namespace switchyard::cli
