// Every kind of damage that a safetensors file can have.
#include <sys/mman.h>

#include "checkpoint_files.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  return bytes;
}

// A file with this header and that much data must be refused; the message names the file and has `parts`.
void expect_damage(std::string_view header, std::size_t data_bytes, std::initializer_list<std::string_view> parts) {
  const TempFolder folder;
  const auto path = folder / "model.safetensors";
  write_text(path, safetensors_of(header, data_bytes));
  expect_error(Code::bad_data, parts, [&] { TensorFile::open(path); });
  expect_error(Code::bad_data, {"safetensors: ", path.string() + ": "}, [&] { TensorFile::open(path); });
}

// ---- damage to the file

TEST(SafetensorsHeader, FileIsEmpty) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", "");
  expect_error(Code::bad_data, {"t.safetensors", "has 0 bytes, expected at least 8"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsHeader, FileIsShorterThanTheLength) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", "1234567");
  expect_error(Code::bad_data, {"t.safetensors", "has 7 bytes, expected at least 8"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsHeader, HeaderLongerThanTheFile) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", little_endian(3) + "{}");
  expect_error(Code::bad_data, {"t.safetensors", "header claims 3 bytes", "the 2 that follow"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsHeader, HeaderLengthIsAbsurd) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", little_endian(~std::uint64_t{0}) + "{}");
  expect_error(Code::bad_data, {"t.safetensors", "header claims 18446744073709551615 bytes", "100000000"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsHeader, HeaderLengthAboveTheLimit) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", little_endian(100'000'001) + "{}");
  std::filesystem::resize_file(folder / "t.safetensors", 200'000'000);
  expect_error(Code::bad_data, {"header claims 100000001 bytes", "at most 100000000"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

// No cut of a valid file is accepted, and none is read beyond its end: the page behind it cannot be.
TEST(SafetensorsHeader, EveryCutOfAFile) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* base = ::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(base, MAP_FAILED);
  char* const wall = static_cast<char*>(base) + page;
  ASSERT_EQ(::mprotect(wall, page, PROT_NONE), 0);
  for (std::size_t length = 0; length <= header.size(); ++length) {
    char* const text = wall - length;
    std::memcpy(text, header.data(), length);
    const auto parse = [&] {
      parse_safetensors_header({text, length}, reinterpret_cast<const std::byte*>(wall), 8, "cut");
    };
    if (length < header.size()) {
      expect_error(Code::bad_data, {"safetensors: cut: the header is not valid JSON"}, parse);
    } else {
      EXPECT_NO_THROW(parse());
    }
  }
  ::munmap(base, 2 * page);
}

// ---- damage to the header

TEST(SafetensorsHeader, NotJson) { expect_damage("{\"a\":nonsense}", 0, {"the header is not valid JSON"}); }
TEST(SafetensorsHeader, EmptyHeader) { expect_damage("", 0, {"the header is not valid JSON"}); }
TEST(SafetensorsHeader, TextBehindTheJson) { expect_damage("{} {}", 0, {"the header is not valid JSON"}); }
TEST(SafetensorsHeader, NotAnObject) { expect_damage("[1,2]", 0, {"the header is [1,2], expected an object"}); }

TEST(SafetensorsHeader, InvalidUtf8) {
  expect_damage("{\"\xff\xfe\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
                {"the header is not valid JSON", "UTF-8"});
}

TEST(SafetensorsHeader, NestedTooDeep) {
  expect_damage(R"({"a":)" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", 0,
                {"the header is nested deeper than 64 levels"});
}

TEST(SafetensorsHeader, ObjectsNestedTooDeep) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += R"({"a":)";
  expect_damage(text, 0, {"the header is nested deeper than 64 levels"});
}

TEST(SafetensorsHeader, DuplicateTensor) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
      {"names a twice"});
}

TEST(SafetensorsHeader, DuplicateField) {
  expect_damage(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1, {"names dtype twice"});
}

TEST(SafetensorsHeader, MetadataIsNotAnObject) {
  expect_damage(R"({"__metadata__":"pt"})", 0, {"__metadata__ is \"pt\", expected an object of strings"});
}

TEST(SafetensorsHeader, MetadataHoldsANumber) {
  expect_damage(R"({"__metadata__":{"version":3}})", 0, {"__metadata__ has 3 for version, expected a string"});
}

// ---- damage to an entry

// The entry of tensor "w.1"; 16 bytes of data follow.
void expect_bad_entry(std::string_view entry, std::initializer_list<std::string_view> parts) {
  expect_damage(R"({"w.1":)" + std::string(entry) + "}", 16, parts);
  expect_damage(R"({"w.1":)" + std::string(entry) + "}", 16, {"tensor w.1 "});
}

TEST(SafetensorsHeader, EntryIsNotAnObject) { expect_bad_entry("[4]", {"is [4], expected an object"}); }

TEST(SafetensorsHeader, NoDType) { expect_bad_entry(R"({"shape":[4],"data_offsets":[0,16]})", {"has no dtype"}); }
TEST(SafetensorsHeader, NoShape) { expect_bad_entry(R"({"dtype":"F32","data_offsets":[0,16]})", {"has no shape"}); }
TEST(SafetensorsHeader, NoOffsets) { expect_bad_entry(R"({"dtype":"F32","shape":[4]})", {"has no data_offsets"}); }

TEST(SafetensorsHeader, DTypeIsNotAString) {
  expect_bad_entry(R"({"dtype":32,"shape":[4],"data_offsets":[0,16]})", {"has dtype 32, expected a string"});
}

TEST(SafetensorsHeader, UnknownDType) {
  expect_bad_entry(R"({"dtype":"F7","shape":[4],"data_offsets":[0,16]})",
                   {"unknown dtype \"F7\"", "F32, BF16, F16", "F8_E8M0"});
}

TEST(SafetensorsHeader, ShapeIsNotAnArray) {
  expect_bad_entry(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})", {"has shape 4, expected an array"});
}

TEST(SafetensorsHeader, NegativeShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})", {"has -4 in its shape, expected integers"});
}

TEST(SafetensorsHeader, TwoNegativeSizes) {
  expect_bad_entry(R"({"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]})", {"has -2 in its shape"});
}

TEST(SafetensorsHeader, FractionInShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})", {"has 4.0 in its shape"});
}

TEST(SafetensorsHeader, StringInShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":["4"],"data_offsets":[0,16]})", {"has \"4\" in its shape"});
}

TEST(SafetensorsHeader, SizeBeyond63Bits) {
  expect_bad_entry(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,16]})",
                   {"has 9223372036854775808 in its shape"});
}

TEST(SafetensorsHeader, ShapeOverflows) {
  // 2^32 · 2^32 is 0 in 64 bits, and 2^62 elements of four bytes are too.
  expect_bad_entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", {"overflows"});
  expect_bad_entry(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})", {"overflows"});
}

TEST(SafetensorsHeader, ShapeOverflowsBehindAZero) {
  expect_bad_entry(R"({"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})", {"overflows"});
}

TEST(SafetensorsHeader, OffsetsAreNotAnArray) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":16})", {"has data_offsets 16, expected two integers"});
}

TEST(SafetensorsHeader, ThreeOffsets) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16,32]})", {"has data_offsets [0,16,32]"});
}

TEST(SafetensorsHeader, NegativeOffset) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[-16,0]})", {"has data_offsets [-16,0]"});
}

TEST(SafetensorsHeader, FractionAsOffset) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16.5]})", {"has data_offsets [0,16.5]"});
}

TEST(SafetensorsHeader, OffsetBeyond64Bits) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551632]})", {"has data_offsets"});
}

TEST(SafetensorsHeader, OffsetsReversed) {
  expect_bad_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[16,8]})",
                   {"has data_offsets 16..8, expected begin <= end"});
}

TEST(SafetensorsHeader, OffsetsOutsideTheData) {
  expect_bad_entry(R"({"dtype":"F32","shape":[5],"data_offsets":[0,20]})",
                   {"has data_offsets 0..20", "inside of the file's 16 bytes"});
}

TEST(SafetensorsHeader, OffsetsFarOutsideTheData) {
  expect_bad_entry(R"({"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]})",
                   {"inside of the file's 16 bytes"});
}

TEST(SafetensorsHeader, OffsetsDoNotFitTheShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":[5],"data_offsets":[0,16]})",
                   {"has 16 bytes at data_offsets 0..16, expected 20 for F32 [5]"});
}

TEST(SafetensorsHeader, NameWithControlCharactersIsShownWithout) {
  expect_damage("{\"a\\n\\u0000b\":[4]}", 0, {"tensor a??b is [4]"});
}

// ---- damage between entries

TEST(SafetensorsHeader, Overlap) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})",
      12, {"tensor b has data_offsets 4..12, which overlap tensor a at 0..8"});
}

TEST(SafetensorsHeader, TwoTensorsAtOnePlace) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8,
      {"tensor b has data_offsets 0..8, which overlap tensor a at 0..8"});
}

TEST(SafetensorsHeader, HoleAtTheBeginning) {
  expect_damage(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})", 12,
                {"tensor a begins at 4", "ends at 0, expected no hole"});
}

TEST(SafetensorsHeader, HoleBetweenTensors) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}})",
      12, {"tensor b begins at 8", "ends at 4, expected no hole"});
}

TEST(SafetensorsHeader, HoleAtTheEnd) {
  expect_damage(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 6, {"end at 4 of 6 bytes", "no hole"});
}
}  // namespace
