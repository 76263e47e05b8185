// Base64: what it decodes to, that every damage is an error, and that no byte beside the wanted ones is touched. Run on
// every instruction set; base64_emulated runs the AVX-512 text on any machine.

#include "switchyard/base64.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "record/record_kernels.hpp"
#include "switchyard/cpu.hpp"
#include "switchyard/error.hpp"

namespace switchyard {

extern const RecordKernels kRecordKernelsPlain;
extern const RecordKernels kEmulatedRecordAvx512;

namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::vector<std::byte> random_bytes(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) {
    byte = static_cast<std::byte>(random());
  }
  return bytes;
}

std::string text_of(const std::string& bytes) { return encode_base64(std::as_bytes(std::span(bytes))); }

// Into memory of exactly the size, from a copy of exactly the size, so that a sanitizer sees every access beside them.
std::vector<std::byte> decode(std::string_view text, std::size_t begin, std::size_t end) {
  const auto from = std::make_unique<char[]>(text.size());
  std::memcpy(from.get(), text.data(), text.size());
  const auto to = std::make_unique<std::byte[]>(end - begin);
  decode_base64({from.get(), text.size()}, begin, end, to.get());
  return {to.get(), to.get() + (end - begin)};
}

std::string message_of(std::string_view text) {
  try {
    decode(text, 0, base64_bytes(text));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::bad_data);
    return error.what();
  }
  return "";
}

TEST(Base64, VectorsOfRfc4648) {
  const std::pair<std::string, std::string> vectors[] = {{"", ""},
                                                         {"f", "Zg=="},
                                                         {"fo", "Zm8="},
                                                         {"foo", "Zm9v"},
                                                         {"foob", "Zm9vYg=="},
                                                         {"fooba", "Zm9vYmE="},
                                                         {"foobar", "Zm9vYmFy"},
                                                         {"\x14\xfb\x9c\x03\xd9\x7e", "FPucA9l+"},
                                                         {"\x14\xfb\x9c\x03\xd9", "FPucA9k="},
                                                         {"\x14\xfb\x9c\x03", "FPucAw=="}};
  for (const auto& [bytes, text] : vectors) {
    EXPECT_EQ(text_of(bytes), text);
    ASSERT_EQ(base64_bytes(text), bytes.size());
    const auto decoded = decode(text, 0, bytes.size());
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(decoded.data()), decoded.size()), bytes);
  }
}

TEST(Base64, EveryLengthAndEveryRange) {
  const auto bytes = random_bytes(200, 1);
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    const std::string text = encode_base64({bytes.data(), size});
    ASSERT_EQ(base64_bytes(text), size);
    for (std::size_t begin = 0; begin <= size; ++begin) {
      for (std::size_t end = begin; end <= size; end += size < 100 ? 1 : 7) {
        const auto decoded = decode(text, begin, end);
        ASSERT_EQ(std::memcmp(decoded.data(), bytes.data() + begin, end - begin), 0) << size << ' ' << begin;
      }
    }
  }
}

TEST(Base64, LongRanges) {
  const auto bytes = random_bytes(100003, 2);
  const std::string text = encode_base64(bytes);
  for (const std::size_t begin : {0, 1, 2, 3, 4, 5, 1000, 50001}) {
    for (const std::size_t end : {100003, 100002, 100001, 100000, 99999, 60000}) {
      const auto decoded = decode(text, begin, end);
      ASSERT_EQ(std::memcmp(decoded.data(), bytes.data() + begin, end - begin), 0) << begin << ' ' << end;
    }
  }
}

TEST(Base64, EveryCharacterInEveryPlace) {
  for (std::size_t place = 0; place < 256; ++place) {
    for (std::size_t value = 0; value < 64; ++value) {
      std::string text(256, 'A');
      text[place] = kAlphabet[value];
      const auto decoded = decode(text, 0, 192);
      EXPECT_EQ(encode_base64(decoded), text);
    }
  }
}

TEST(Base64, EveryOtherByteInEveryPlaceIsNamed) {
  std::string text(512, 'A');
  for (std::size_t i = 0; i < text.size(); ++i) {
    text[i] = kAlphabet[i * 11 % 64];
  }
  for (std::size_t place = 0; place < text.size(); place += place < 160 || place > 480 ? 1 : 13) {
    for (int byte = 0; byte < 256; ++byte) {
      const auto c = static_cast<char>(byte);
      if (kAlphabet.find(c) != std::string_view::npos) continue;
      std::string damaged = text;
      damaged[place] = c;
      // '=' as the last characters is padding.
      if (c == '=' && place == text.size() - 1) continue;
      const std::string message = message_of(damaged);
      ASSERT_NE(message.find("at character " + std::to_string(place) + " of 512"), std::string::npos)
          << place << ' ' << byte << ' ' << message;
    }
  }
}

TEST(Base64, DamageOutsideOfTheRangeIsNotSeen) {
  std::string text = encode_base64(random_bytes(300, 3));
  text[0] = '!';
  text[399] = '!';
  EXPECT_EQ(decode(text, 3, 297).size(), 294U);
  EXPECT_THROW(decode(text, 2, 297), Error);
  EXPECT_THROW(decode(text, 3, 298), Error);
}

TEST(Base64, WhatIsRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"Z", "1 characters, expected a multiple of 4"},
      {"Zg", "2 characters"},
      {"Zg=", "3 characters"},
      {"Zm9vZg=", "7 characters"},
      {"Zh==", "bits beyond the last byte"},
      {"Zm9=", "bits beyond the last byte"},
      {"====", "padding at character 0 of 4"},
      {"A===", "padding at character 1 of 4"},
      {"Zg==Zm9v", "padding at character 2 of 8"},
      {"Zm=v", "padding at character 2 of 4"},
      {"Zm9v\nZg=", "byte 0x0a at character 4"},
      {"Zm 9", "byte 0x20 at character 2"},
      {"Zm-_", "byte 0x2d at character 2"},
      {"AB\\/", "an escape at character 2 of 4"},
  };
  for (const auto& [text, part] : cases) {
    EXPECT_NE(message_of(text).find(part), std::string::npos) << text << ": " << message_of(text);
  }
}

// The kernels themselves, group by group: the same answer and the same bytes as plain.
void expect_kernels_agree(const RecordKernels& kernels) {
  std::mt19937 random(4);
  for (std::size_t groups = 0; groups <= 200; ++groups) {
    std::string text(4 * groups, 'A');
    for (char& c : text) c = kAlphabet[random() % 64];
    for (int round = 0; round < 4; ++round) {
      if (round > 0 && groups > 0) text[random() % text.size()] = static_cast<char>(random());
      std::vector<std::byte> expected(3 * groups + 64, std::byte{0xee});
      std::vector<std::byte> found = expected;
      const std::size_t done = kRecordKernelsPlain.decode_base64(text.data(), groups, expected.data());
      ASSERT_EQ(kernels.decode_base64(text.data(), groups, found.data()), done) << groups;
      ASSERT_EQ(std::memcmp(found.data(), expected.data(), 3 * done), 0) << groups;
      ASSERT_EQ(std::memcmp(found.data() + 3 * groups, expected.data() + 3 * groups, 64), 0) << groups;
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    for (std::size_t place = 0; place < 64; ++place) {
      std::string text(64 * 4, 'b');
      text[place + 64] = static_cast<char>(byte);
      std::byte to[192];
      const bool valid = kAlphabet.find(static_cast<char>(byte)) != std::string_view::npos;
      EXPECT_EQ(kernels.decode_base64(text.data(), 64, to), valid ? 64 : (place + 64) / 4) << byte << ' ' << place;
    }
  }
}

TEST(Base64, KernelsAgreeWithPlain) { expect_kernels_agree(record_kernels()); }

TEST(Base64, EmulatedKernelsAgreeWithPlain) {
  if (available_isas().size() < 2) {
    GTEST_SKIP() << "this machine has no AVX2, which the emulation is compiled for";
  }
  expect_kernels_agree(kEmulatedRecordAvx512);
}

}  // namespace
}  // namespace switchyard
