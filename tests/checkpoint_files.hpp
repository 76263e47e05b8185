// Files for the tests of checkpoints: a folder that goes away, tensors to write, errors to expect.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard::testing {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "switchyard_test_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline void write_text(const std::filesystem::path& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary);
  file.write(text.data(), static_cast<std::streamsize>(text.size()));
  ASSERT_TRUE(file.good());
}

// Owns the bytes of the tensors it lists, together with its copies.
class TensorList {
 public:
  void add(std::string name, DType dtype, std::vector<std::int64_t> shape, const void* data, std::size_t bytes) {
    bytes_.push_back(std::make_shared<std::vector<std::byte>>(bytes));
    if (bytes > 0) std::memcpy(bytes_.back()->data(), data, bytes);
    tensors_.push_back({std::move(name), dtype, std::move(shape), bytes_.back()->data(), bytes});
  }
  void add(std::string name, std::vector<std::int64_t> shape, const std::vector<float>& values) {
    add(std::move(name), DType::f32, std::move(shape), values.data(), values.size() * sizeof(float));
  }
  std::vector<Tensor>& tensors() { return tensors_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<std::shared_ptr<std::vector<std::byte>>> bytes_;
  std::vector<Tensor> tensors_;
};

// A safetensors file: the header with its length, and that many bytes of 1 as data.
inline std::string safetensors_of(std::string_view header, std::size_t data_bytes) {
  std::string length;
  for (int i = 0; i < 8; ++i) length.push_back(static_cast<char>(header.size() >> (8 * i) & 0xFF));
  return length + std::string(header) + std::string(data_bytes, '\1');
}

// Four tensors: one that leaves the next unaligned, one without dimensions, one without elements.
inline TensorList small_tensors() {
  TensorList list;
  list.add("odd", DType::u8, {3}, "abc", 3);
  list.add("a.weight", {2, 3}, {1, 2, 3, 4, 5, 6});
  list.add("scalar", {}, {7});
  list.add("none", {0, 4}, {});
  return list;
}

// Runs `action`, which must throw an Error of that code whose message has all of `parts`.
template <class Action>
void expect_error(Code code, std::initializer_list<std::string_view> parts, const Action& action) {
  try {
    action();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(code_name(error.code()), code_name(code)) << error.what();
    for (const std::string_view part : parts) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
          << "'" << part << "' is not in: " << error.what();
    }
  }
}

}  // namespace switchyard::testing
