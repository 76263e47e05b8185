// The .npy files of the command line tool: what is read, and one test per kind of damage.
#include "../cli/npy.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <string>

#include "../cli/files.hpp"
#include "checkpoint_files.hpp"
#include "switchyard/error.hpp"

namespace switchyard::cli {
namespace {

constexpr const char* kHeader = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

std::string with_header(const std::string& header, std::size_t data_bytes, char major = 1) {
  std::string file = "\x93NUMPY";
  file += major;
  file += '\0';
  file += static_cast<char>(header.size() & 0xff);
  file += static_cast<char>(header.size() >> 8);
  if (major > 1) file += std::string(2, '\0');
  file += header;
  for (std::size_t i = 0; i < data_bytes / 4; ++i) {
    const auto value = static_cast<float>(i);
    file.append(reinterpret_cast<const char*>(&value), 4);
  }
  file.append(data_bytes % 4, 'x');
  return file;
}

// From memory of exactly the file's size, so that a sanitizer sees every read beyond it.
NpyArray parse(const std::string& file) {
  const auto exact = std::make_unique<std::byte[]>(file.size());
  std::memcpy(exact.get(), file.data(), file.size());
  return parse_npy({exact.get(), file.size()}, "x.npy");
}

std::vector<float> floats(const NpyArray& array) {
  std::vector<float> values(array.bytes.size() / sizeof(float));
  std::memcpy(values.data(), array.bytes.data(), array.bytes.size());
  return values;
}

void expect_error(const std::string& file, Code code, const std::string& part) {
  try {
    parse(file);
    ADD_FAILURE() << "accepted, expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("x.npy"), std::string::npos) << error.what();
  }
}

void expect_damage(const std::string& header, const std::string& part) {
  expect_error(with_header(header, 24), Code::bad_data, part);
}

TEST(Npy, ReadsVersions1To3) {
  for (const char major : {'\1', '\2', '\3'}) {
    const NpyArray array = parse(with_header(kHeader, 24, major));
    EXPECT_EQ(array.shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(array.dtype, DType::f32);
    EXPECT_EQ(floats(array), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  }
}

TEST(Npy, ReadsHeadersWrittenInOtherWays) {
  EXPECT_EQ(parse(with_header("{\"shape\":(6,),\"fortran_order\":False,\"descr\":\"<f4\"}", 24)).shape.size(), 1U);
  EXPECT_EQ(parse(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", 4)).bytes.size(), 4U);
  EXPECT_EQ(parse(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7)}", 0)).bytes.size(), 0U);
}

TEST(Npy, ReadsEveryTypeOfElement) {
  const std::pair<const char*, DType> kinds[] = {{"<f2", DType::f16}, {"<i2", DType::i16}, {"<i4", DType::i32},
                                                 {"<i8", DType::i64}, {"|u1", DType::u8},  {"|b1", DType::boolean}};
  for (const auto& [descr, dtype] : kinds) {
    const std::string header = "{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (2, 3)}";
    const std::string file = with_header(header, 6 * dtype_bytes(dtype));
    const NpyArray array = parse(file);
    EXPECT_EQ(array.dtype, dtype);
    EXPECT_EQ(std::memcmp(array.bytes.data(), file.data() + file.size() - array.bytes.size(), array.bytes.size()), 0);
    expect_error(with_header(header, 6 * dtype_bytes(dtype) + 1), Code::bad_data, "bytes of data");
  }
}

TEST(Npy, WritesWhatItReads) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "switchyard_npy_test.npy";
  const std::vector<std::int64_t> shape{2, 1, 2};
  const std::vector<float> values{1.5F, -2, 3e30F, 0};
  write_npy(path, shape, values);
  EXPECT_EQ((read_file(path, "npy").size() - values.size() * 4) % 64, 0U);
  const NpyArray array = read_npy(path);
  EXPECT_EQ(array.shape, shape);
  EXPECT_EQ(floats(array), values);
  std::filesystem::remove(path);
}

TEST(Npy, EveryCutIsAnError) {
  for (const char major : {'\1', '\2', '\3'}) {
    const std::string whole = with_header(kHeader, 24, major);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      EXPECT_THROW(parse(whole.substr(0, size)), Error) << size;
    }
  }
}

TEST(Npy, OtherFile) { expect_error("PK\3\4 this is an .npz", Code::bad_data, "expected \\x93NUMPY"); }
TEST(Npy, Version) { expect_error(with_header(kHeader, 24, 4), Code::not_supported, "version 4.0"); }
TEST(Npy, TooMuchData) { expect_error(with_header(kHeader, 28), Code::bad_data, "28 bytes of data, expected 24"); }
TEST(Npy, TooLittleData) { expect_error(with_header(kHeader, 23), Code::bad_data, "23 bytes of data, expected 24"); }

TEST(Npy, HeaderLongerThanTheFile) {
  std::string file = with_header(kHeader, 24, 2);
  file[11] = '\x7f';
  expect_error(file, Code::bad_data, "expected at most the");
}

TEST(Npy, ShapeThatOverflows) {
  expect_damage("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", "too large");
  expect_damage("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", "no size");
}

TEST(Npy, ShapeThatIsNone) {
  expect_damage("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}", "no size");
  expect_damage("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 'a')}", "no size");
  expect_damage("{'descr': '<f4', 'fortran_order': False, 'shape': 6}", "no '('");
  expect_damage("{'descr': '<f4', 'fortran_order': False, 'shape': (2 3)}", "no ')'");
}

TEST(Npy, HeaderThatIsNoDict) {
  expect_damage("", "no '{'");
  expect_damage("{'descr': '<f4'", "no '}'");
  expect_damage("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2, 3)}", "neither True nor False");
  expect_damage("{'descr: 1}", "a string without end");
  expect_damage("{descr: 1}", "no string");
  expect_damage("{'descr' '<f4'}", "no ':'");
  expect_damage(std::string(kHeader) + "x", "text after the closing brace");
}

TEST(Npy, KeysMissingUnknownTwice) {
  expect_damage("{'descr': '<f4', 'shape': (2, 3)}", "without descr, fortran_order or shape");
  expect_damage("{'descr': '<f4', 'order': False, 'shape': (2, 3)}", "an unknown key");
  expect_damage("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", "a second descr");
  expect_damage("{'shape': (2, 3), 'shape': (3, 2), 'fortran_order': False, 'descr': '<f4'}", "a second shape");
}

TEST(Npy, OtherKindsOfArrays) {
  for (const char* descr : {"<f8", ">f4", "<u4", "|i1", "|O"}) {
    expect_error(with_header("{'descr': '" + std::string(descr) + "', 'fortran_order': False, 'shape': (2, 3)}", 24),
                 Code::not_supported, "expected one of '<f4', ");
  }
  expect_error(with_header("{'descr': '<V2', 'fortran_order': False, 'shape': (2, 3)}", 12), Code::not_supported,
               "npy has no bf16");
  expect_error(with_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 3)}", 24),
               Code::not_supported, "structures");
  expect_error(with_header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", 24), Code::not_supported,
               "fortran_order");
}

TEST(Npy, FilesThatCannotBe) {
  const auto code_of = [](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.code();
    }
    return Code::ok;
  };
  EXPECT_EQ(code_of([] { read_npy("/nonexistent/x.npy"); }), Code::io);
  EXPECT_EQ(code_of([] { read_npy("/"); }), Code::io);
  EXPECT_EQ(code_of([] { write_npy("/nonexistent/x.npy", {}, std::span<const float>()); }), Code::io);
  EXPECT_EQ(code_of([] { write_npy("/", {}, std::span<const float>()); }), Code::io);
}

TEST(Npy, WritesTheTargetOfALinkAndKeepsItsPermissions) {
  const switchyard::testing::TempFolder folder;
  switchyard::testing::write_text(folder / "y.npy", "old");
  std::filesystem::permissions(folder / "y.npy", std::filesystem::perms(0600));
  std::filesystem::create_symlink("y.npy", folder / "link");
  write_npy(folder / "link", std::vector<std::int64_t>{1}, std::vector<float>{3});
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(floats(read_npy(folder / "y.npy")), std::vector<float>{3});
  EXPECT_EQ(std::filesystem::status(folder / "y.npy").permissions(), std::filesystem::perms(0600));
  std::filesystem::create_symlink("new.npy", folder / "to_new");
  write_npy(folder / "to_new", std::vector<std::int64_t>{1}, std::vector<float>{4});
  EXPECT_EQ(floats(read_npy(folder / "new.npy")), std::vector<float>{4});
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 4);
}

TEST(Npy, LinksInACircle) {
  const switchyard::testing::TempFolder folder;
  std::filesystem::create_symlink("link", folder / "link");
  EXPECT_THROW(write_npy(folder / "link", std::vector<std::int64_t>{1}, std::vector<float>{3}), Error);
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST(Npy, SameFile) {
  const switchyard::testing::TempFolder folder;
  std::filesystem::create_symlink("y", folder / "link");
  EXPECT_TRUE(same_file(folder / "y", folder / "./y"));
  EXPECT_TRUE(same_file(folder / "y", folder / "link"));
  EXPECT_FALSE(same_file(folder / "y", folder / "z"));
}

}  // namespace
}  // namespace switchyard::cli
