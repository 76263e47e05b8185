#include "switchyard/base64.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fail.hpp"
#include "record/record_kernels.hpp"

namespace switchyard {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::size_t padding(std::string_view text) {
  if (text.empty() || text.back() != '=') {
    return 0;
  }
  return text[text.size() - 2] == '=' ? 2 : 1;
}

[[noreturn]] void fail_at(std::string_view text, std::size_t group) {
  const std::size_t at = std::min(text.find_first_not_of(kAlphabet, 4 * group), text.size() - 1);
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte == '=') {
    fail(Code::bad_data, "base64: padding at character {} of {}, expected it at the end alone", at, text.size());
  }
  if (byte == '\\') {
    fail(Code::bad_data, "base64: an escape at character {} of {}, expected text without any", at, text.size());
  }
  fail(Code::bad_data, "base64: byte 0x{:02x} at character {} of {}, expected A-Z, a-z, 0-9, + or /", byte, at,
       text.size());
}

// Groups without padding.
void decode_whole(std::string_view text, std::size_t first, std::size_t count, std::byte* to) {
  const std::size_t done = record_kernels().decode_base64(text.data() + 4 * first, count, to);
  if (done != count) {
    fail_at(text, first + done);
  }
}

// Any group to three bytes, 0 for those that padding stands for.
void decode_any(std::string_view text, std::size_t group, std::byte* to) {
  const std::size_t padded = 4 * (group + 1) == text.size() ? padding(text) : 0;
  char whole[4];
  std::memcpy(whole, text.data() + 4 * group, 4);
  std::fill(std::end(whole) - padded, std::end(whole), 'A');
  if (record_kernels().decode_base64(whole, 1, to) != 1) {
    fail_at(text, group);
  }
  if (std::any_of(to + 3 - padded, to + 3, [](std::byte byte) { return byte != std::byte{0}; })) {
    fail(Code::bad_data, "base64: the last of {} characters has bits beyond the last byte, expected 0", text.size());
  }
}

}  // namespace

std::size_t base64_bytes(std::string_view text) {
  if (text.size() % 4 != 0) {
    fail(Code::bad_data, "base64: {} characters, expected a multiple of 4", text.size());
  }
  return text.size() / 4 * 3 - padding(text);
}

void decode_base64(std::string_view text, std::size_t begin, std::size_t end, void* to) {
  if (begin == end) {
    return;
  }
  auto* out = static_cast<std::byte*>(to);
  std::byte three[3];
  std::size_t group = begin / 3;
  const auto take_part = [&](std::size_t last) {
    decode_any(text, group, three);
    out = std::copy(three + (begin - 3 * group), three + (last - 3 * group), out);
    begin = last;
    ++group;
  };
  if (begin % 3 != 0) {
    take_part(std::min(end, 3 * (group + 1)));
  }
  // The last group of the text may have padding.
  const std::size_t whole = std::min(end / 3, text.size() / 4 - 1);
  if (whole > group) {
    decode_whole(text, group, whole - group, out);
    out += 3 * (whole - group);
    begin = 3 * whole;
    group = whole;
  }
  if (begin < end) {
    take_part(end);
  }
}

std::string encode_base64(std::span<const std::byte> bytes) {
  std::string text((bytes.size() + 2) / 3 * 4, '=');
  for (std::size_t first = 0, at = 0; first < bytes.size(); first += 3, at += 4) {
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - first);
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      bits = bits << 8 | (i < count ? std::to_integer<std::uint32_t>(bytes[first + i]) : 0);
    }
    for (std::size_t i = 0; i <= count; ++i) {
      text[at + i] = kAlphabet[bits >> (18 - 6 * i) & 63U];
    }
  }
  return text;
}

}  // namespace switchyard
