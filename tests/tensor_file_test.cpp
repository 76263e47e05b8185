#include "switchyard/tensor_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "checkpoint_files.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
  return bytes;
}

std::string file_of(std::string_view header, std::size_t data_bytes) {
  return little_endian(header.size()) + std::string(header) + std::string(data_bytes, '\1');
}

// A file with this header and that much data must be refused; the message names the file and has `parts`.
void expect_damage(std::string_view header, std::size_t data_bytes, std::initializer_list<std::string_view> parts) {
  const TempFolder folder;
  const auto path = folder / "model.safetensors";
  write_text(path, file_of(header, data_bytes));
  expect_error(Code::bad_data, parts, [&] { TensorFile::open(path); });
  expect_error(Code::bad_data, {"safetensors: ", path.string() + ": "}, [&] { TensorFile::open(path); });
}

std::string bytes_of(const Tensor& tensor) {
  return std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
}

TensorList small_tensors() {
  TensorList list;
  list.add("odd", DType::u8, {3}, "abc", 3);
  list.add("a.weight", {2, 3}, {1, 2, 3, 4, 5, 6});
  list.add("scalar", {}, {7});
  list.add("none", {0, 4}, {});
  return list;
}

// ---- reading and writing

TEST(TensorFile, ReadsWhatTheWriterWrote) {
  const TempFolder folder;
  const TensorList list = small_tensors();
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  ASSERT_EQ(file.tensors().size(), list.tensors().size());
  for (const Tensor& wanted : list.tensors()) {
    const Tensor& found = file.at(wanted.name);
    EXPECT_EQ(found.name, wanted.name);
    EXPECT_EQ(found.dtype, wanted.dtype);
    EXPECT_EQ(found.shape, wanted.shape);
    EXPECT_EQ(bytes_of(found), bytes_of(wanted));
    EXPECT_EQ(file.find(wanted.name), &found);
  }
}

TEST(TensorFile, EveryDTypeComesBack) {
  const TempFolder folder;
  const std::vector<std::byte> zeros(8);
  TensorList list;
  for (int i = 0; i < 16; ++i) {
    const auto dtype = static_cast<DType>(i);
    list.add(dtype_name(dtype), dtype, {1}, zeros.data(), dtype_bytes(dtype));
  }
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  for (const Tensor& wanted : list.tensors()) EXPECT_EQ(file.at(wanted.name).dtype, wanted.dtype);
}

TEST(TensorFile, ListsTensorsInTheOrderOfTheirPlace) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  std::vector<std::string> names;
  for (const Tensor& tensor : file.tensors()) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"odd", "a.weight", "scalar", "none"}));
}

TEST(TensorFile, UnalignedTensorsAreFine) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  const Tensor& tensor = file.at("a.weight");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data) % 4, 3u);
  float second = 0;
  std::memcpy(&second, tensor.data + 4, sizeof second);
  EXPECT_EQ(second, 2.0f);
}

TEST(TensorFile, NoTensorsAtAll) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", {});
  EXPECT_TRUE(TensorFile::open(folder / "t.safetensors").tensors().empty());
}

TEST(TensorFile, MetadataAndPaddingAreSkipped) {
  const TempFolder folder;
  write_text(
      folder / "t.safetensors",
      file_of(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}     )", 2));
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  ASSERT_EQ(file.tensors().size(), 1u);
  EXPECT_EQ(bytes_of(file.at("a")), "\1\1");
}

TEST(TensorFile, UnknownNameIsNullOrAnError) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  EXPECT_EQ(file.find("b"), nullptr);
  expect_error(Code::bad_data, {"t.safetensors", "has no tensor b"}, [&] { file.at("b"); });
}

TEST(TensorFile, StaysReadableWhenMoved) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  TensorFile first = TensorFile::open(folder / "t.safetensors");
  const Tensor* tensor = first.find("odd");
  const TensorFile second = std::move(first);
  EXPECT_EQ(second.find("odd"), tensor);
  EXPECT_EQ(bytes_of(*tensor), "abc");
}

TEST(TensorFile, ReleasedTensorsComeBackFromTheFile) {
  const TempFolder folder;
  std::vector<float> values(100'000);
  std::iota(values.begin(), values.end(), 0.0f);
  TensorList list;
  list.add("odd", DType::u8, {3}, "abc", 3);
  list.add("big", {100'000}, values);
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  const Tensor& big = file.at("big");
  const std::string before = bytes_of(big);
  file.release(big);
  file.release(big.data + 5000, 50'000);
  file.release(big.data, 0);
  EXPECT_TRUE(bytes_of(big) == before);
}

TEST(TensorFile, ReleaseLeavesForeignMemoryAlone) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  std::vector<std::byte> mine(1 << 20, std::byte{7});
  file.release(mine.data(), mine.size());
  const Tensor& odd = file.at("odd");
  file.release(odd.data, std::size_t{1} << 40);
  EXPECT_EQ(std::count(mine.begin(), mine.end(), std::byte{7}), 1 << 20);
}

TEST(TensorFile, SeveralThreadsReadAndRelease) {
  const TempFolder folder;
  TensorList list;
  list.add("ones", {50'000}, std::vector<float>(50'000, 1.0f));
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  std::vector<float> sums(4);
  std::vector<std::thread> threads;
  for (float& sum : sums) {
    threads.emplace_back([&file, &sum] {
      const Tensor& tensor = file.at("ones");
      for (std::size_t i = 0; i < tensor.bytes; i += sizeof(float)) {
        float value = 0;
        std::memcpy(&value, tensor.data + i, sizeof value);
        sum += value;
        if (i % 4096 == 0) file.release(tensor);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sums, std::vector<float>(4, 50'000.0f));
}

// A file with holes in the sense of the file system takes no space on disk.
TEST(TensorFile, TensorsBeyondFourGiB) {
  const TempFolder folder;
  const auto path = folder / "t.safetensors";
  constexpr std::uint64_t kBig = 5'000'000'000;  // more than 2^32 bytes, and more elements than that in u8
  const std::string header = R"({"big":{"dtype":"U8","shape":[50000,100000],"data_offsets":[0,5000000000]},)"
                             R"("tail":{"dtype":"U8","shape":[4],"data_offsets":[5000000000,5000000004]}})";
  write_text(path, file_of(header, 0));
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const auto data = static_cast<off_t>(8 + header.size());
  ASSERT_EQ(::pwrite(fd, "tail", 4, data + static_cast<off_t>(kBig)), 4);
  ASSERT_EQ(::pwrite(fd, "end", 3, data + static_cast<off_t>(kBig) - 3), 3);
  ::close(fd);

  const TensorFile file = TensorFile::open(path);
  const Tensor& big = file.at("big");
  EXPECT_EQ(big.bytes, kBig);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(big.data + kBig - 3), 3), "end");
  EXPECT_EQ(bytes_of(file.at("tail")), "tail");
  file.release(big);
}

// ---- the writer

TEST(SafetensorsWriter, DataBeginsAligned) {
  const TempFolder folder;
  for (const std::size_t length : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
    TensorList list;
    list.add(std::string(length, 'n'), {2}, {1, 2});
    write_safetensors(folder / "t.safetensors", list.tensors());
    const TensorFile file = TensorFile::open(folder / "t.safetensors");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensors()[0].data) % 8, 0u);
  }
}

TEST(SafetensorsWriter, ReplacesTheFileAndLeavesNothingElse) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", "old");
  write_text(folder / "t.safetensors.part0", "another writer's");
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  EXPECT_EQ(TensorFile::open(folder / "t.safetensors").tensors().size(), 4u);
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
}

TEST(SafetensorsWriter, FolderThatIsNotThere) {
  const TempFolder folder;
  const auto path = folder / "absent" / "t.safetensors";
  expect_error(Code::io, {"write_safetensors", path.string(), "cannot be created"},
               [&] { write_safetensors(path, small_tensors().tensors()); });
}

TEST(SafetensorsWriter, TargetThatIsAFolderLeavesNothing) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "t.safetensors");
  expect_error(Code::io, {"cannot be put in place"},
               [&] { write_safetensors(folder / "t.safetensors", small_tensors().tensors()); });
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

void expect_refused(const TensorList& list, std::initializer_list<std::string_view> parts) {
  const TempFolder folder;
  expect_error(Code::invalid_argument, parts, [&] { write_safetensors(folder / "t.safetensors", list.tensors()); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, DuplicateNames) {
  TensorList list;
  list.add("a", {1}, {1});
  list.add("a", {1}, {2});
  expect_refused(list, {"tensor a appears twice"});
}

TEST(SafetensorsWriter, BytesThatDoNotFitTheShape) {
  TensorList list;
  list.add("a", {3}, {1, 2});
  expect_refused(list, {"tensor a has 8 bytes, expected 12 for f32 [3]"});
}

TEST(SafetensorsWriter, NegativeShape) {
  TensorList list;
  list.add("a", {-1}, {});
  expect_refused(list, {"tensor a has shape [-1]"});
}

TEST(SafetensorsWriter, ReservedName) {
  TensorList list;
  list.add("__metadata__", {1}, {1});
  expect_refused(list, {"reserved"});
}

TEST(SafetensorsWriter, NameThatIsNotUtf8) {
  TensorList list;
  list.add("\xff", {1}, {1});
  expect_refused(list, {"not valid UTF-8"});
}

TEST(SafetensorsWriter, NoData) {
  TensorList list;
  list.add("a", {1}, {1});
  list.tensors()[0].data = nullptr;
  expect_refused(list, {"tensor a has no data"});
}

// ---- damage to the file

TEST(SafetensorsDamage, FileIsMissing) {
  const TempFolder folder;
  expect_error(Code::io, {"absent.safetensors", "No such file"},
               [&] { TensorFile::open(folder / "absent.safetensors"); });
}

TEST(SafetensorsDamage, FileIsAFolder) {
  const TempFolder folder;
  expect_error(Code::io, {folder.path().string(), "Is a directory"}, [&] { TensorFile::open(folder.path()); });
}

TEST(SafetensorsDamage, FileIsANamedPipe) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(Code::io, {"pipe", "no regular file"}, [&] { TensorFile::open(folder / "pipe"); });
}

TEST(SafetensorsDamage, FileIsEmpty) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", "");
  expect_error(Code::bad_data, {"t.safetensors", "has 0 bytes, expected at least 8"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsDamage, FileIsShorterThanTheLength) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", "1234567");
  expect_error(Code::bad_data, {"t.safetensors", "has 7 bytes, expected at least 8"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsDamage, HeaderLongerThanTheFile) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", little_endian(3) + "{}");
  expect_error(Code::bad_data, {"t.safetensors", "header claims 3 bytes", "the 2 that follow"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsDamage, HeaderLengthIsAbsurd) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", little_endian(~std::uint64_t{0}) + "{}");
  expect_error(Code::bad_data, {"t.safetensors", "header claims 18446744073709551615 bytes", "100000000"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

TEST(SafetensorsDamage, HeaderLengthAboveTheLimit) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", little_endian(100'000'001) + "{}");
  std::filesystem::resize_file(folder / "t.safetensors", 200'000'000);
  expect_error(Code::bad_data, {"header claims 100000001 bytes", "at most 100000000"},
               [&] { TensorFile::open(folder / "t.safetensors"); });
}

// No cut of a valid file is accepted, and none is read beyond its end: the page behind it cannot be.
TEST(SafetensorsDamage, EveryCutOfAFile) {
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

TEST(SafetensorsDamage, NotJson) { expect_damage("{\"a\":nonsense}", 0, {"the header is not valid JSON"}); }
TEST(SafetensorsDamage, EmptyHeader) { expect_damage("", 0, {"the header is not valid JSON"}); }
TEST(SafetensorsDamage, TextBehindTheJson) { expect_damage("{} {}", 0, {"the header is not valid JSON"}); }
TEST(SafetensorsDamage, NotAnObject) { expect_damage("[1,2]", 0, {"the header is [1,2], expected an object"}); }

TEST(SafetensorsDamage, InvalidUtf8) {
  expect_damage("{\"\xff\xfe\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
                {"the header is not valid JSON", "UTF-8"});
}

TEST(SafetensorsDamage, NestedTooDeep) {
  expect_damage(R"({"a":)" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", 0,
                {"the header is nested deeper than 64 levels"});
}

TEST(SafetensorsDamage, ObjectsNestedTooDeep) {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += R"({"a":)";
  expect_damage(text, 0, {"the header is nested deeper than 64 levels"});
}

TEST(SafetensorsDamage, DuplicateTensor) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
      {"names a twice"});
}

TEST(SafetensorsDamage, DuplicateField) {
  expect_damage(R"({"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}})", 1, {"names dtype twice"});
}

TEST(SafetensorsDamage, MetadataIsNotAnObject) {
  expect_damage(R"({"__metadata__":"pt"})", 0, {"__metadata__ is \"pt\", expected an object of strings"});
}

TEST(SafetensorsDamage, MetadataHoldsANumber) {
  expect_damage(R"({"__metadata__":{"version":3}})", 0, {"__metadata__ has 3 for version, expected a string"});
}

// ---- damage to an entry

// The entry of tensor "w.1"; 16 bytes of data follow.
void expect_bad_entry(std::string_view entry, std::initializer_list<std::string_view> parts) {
  expect_damage(R"({"w.1":)" + std::string(entry) + "}", 16, parts);
  expect_damage(R"({"w.1":)" + std::string(entry) + "}", 16, {"tensor w.1 "});
}

TEST(SafetensorsDamage, EntryIsNotAnObject) { expect_bad_entry("[4]", {"is [4], expected an object"}); }

TEST(SafetensorsDamage, NoDType) { expect_bad_entry(R"({"shape":[4],"data_offsets":[0,16]})", {"has no dtype"}); }
TEST(SafetensorsDamage, NoShape) { expect_bad_entry(R"({"dtype":"F32","data_offsets":[0,16]})", {"has no shape"}); }
TEST(SafetensorsDamage, NoOffsets) { expect_bad_entry(R"({"dtype":"F32","shape":[4]})", {"has no data_offsets"}); }

TEST(SafetensorsDamage, DTypeIsNotAString) {
  expect_bad_entry(R"({"dtype":32,"shape":[4],"data_offsets":[0,16]})", {"has dtype 32, expected a string"});
}

TEST(SafetensorsDamage, UnknownDType) {
  expect_bad_entry(R"({"dtype":"F7","shape":[4],"data_offsets":[0,16]})",
                   {"unknown dtype \"F7\"", "F32, BF16, F16", "F8_E8M0"});
}

TEST(SafetensorsDamage, ShapeIsNotAnArray) {
  expect_bad_entry(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})", {"has shape 4, expected an array"});
}

TEST(SafetensorsDamage, NegativeShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})", {"has -4 in its shape, expected integers"});
}

TEST(SafetensorsDamage, TwoNegativeSizes) {
  expect_bad_entry(R"({"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]})", {"has -2 in its shape"});
}

TEST(SafetensorsDamage, FractionInShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})", {"has 4.0 in its shape"});
}

TEST(SafetensorsDamage, StringInShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":["4"],"data_offsets":[0,16]})", {"has \"4\" in its shape"});
}

TEST(SafetensorsDamage, SizeBeyond63Bits) {
  expect_bad_entry(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,16]})",
                   {"has 9223372036854775808 in its shape"});
}

TEST(SafetensorsDamage, ShapeOverflows) {
  // 2^32 · 2^32 is 0 in 64 bits, and 2^62 elements of four bytes are too.
  expect_bad_entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", {"overflows"});
  expect_bad_entry(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})", {"overflows"});
}

TEST(SafetensorsDamage, ShapeOverflowsBehindAZero) {
  expect_bad_entry(R"({"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})", {"overflows"});
}

TEST(SafetensorsDamage, OffsetsAreNotAnArray) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":16})", {"has data_offsets 16, expected two integers"});
}

TEST(SafetensorsDamage, ThreeOffsets) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16,32]})", {"has data_offsets [0,16,32]"});
}

TEST(SafetensorsDamage, NegativeOffset) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[-16,0]})", {"has data_offsets [-16,0]"});
}

TEST(SafetensorsDamage, FractionAsOffset) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16.5]})", {"has data_offsets [0,16.5]"});
}

TEST(SafetensorsDamage, OffsetBeyond64Bits) {
  expect_bad_entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551632]})", {"has data_offsets"});
}

TEST(SafetensorsDamage, OffsetsReversed) {
  expect_bad_entry(R"({"dtype":"F32","shape":[2],"data_offsets":[16,8]})",
                   {"has data_offsets 16..8, expected begin <= end"});
}

TEST(SafetensorsDamage, OffsetsOutsideTheData) {
  expect_bad_entry(R"({"dtype":"F32","shape":[5],"data_offsets":[0,20]})",
                   {"has data_offsets 0..20", "inside of the file's 16 bytes"});
}

TEST(SafetensorsDamage, OffsetsFarOutsideTheData) {
  expect_bad_entry(R"({"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]})",
                   {"inside of the file's 16 bytes"});
}

TEST(SafetensorsDamage, OffsetsDoNotFitTheShape) {
  expect_bad_entry(R"({"dtype":"F32","shape":[5],"data_offsets":[0,16]})",
                   {"has 16 bytes at data_offsets 0..16, expected 20 for F32 [5]"});
}

TEST(SafetensorsDamage, NameWithControlCharactersIsShownWithout) {
  expect_damage("{\"a\\n\\u0000b\":[4]}", 0, {"tensor a??b is [4]"});
}

// ---- damage between entries

TEST(SafetensorsDamage, Overlap) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})",
      12, {"tensor b has data_offsets 4..12, which overlap tensor a at 0..8"});
}

TEST(SafetensorsDamage, TwoTensorsAtOnePlace) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})", 8,
      {"tensor b has data_offsets 0..8, which overlap tensor a at 0..8"});
}

TEST(SafetensorsDamage, HoleAtTheBeginning) {
  expect_damage(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[4,12]}})", 12,
                {"tensor a begins at 4", "ends at 0, expected no hole"});
}

TEST(SafetensorsDamage, HoleBetweenTensors) {
  expect_damage(
      R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[8,12]}})",
      12, {"tensor b begins at 8", "ends at 4, expected no hole"});
}

TEST(SafetensorsDamage, HoleAtTheEnd) {
  expect_damage(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 6, {"end at 4 of 6 bytes", "no hole"});
}
}  // namespace
