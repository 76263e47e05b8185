// Files for the tests of checkpoints: a folder that goes away, tensors to write, errors to expect.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
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

// Owns the bytes of the tensors it lists.
class TensorList {
 public:
  void add(std::string name, DType dtype, std::vector<std::int64_t> shape, const void* data, std::size_t bytes) {
    bytes_.emplace_back(bytes);
    if (bytes > 0) std::memcpy(bytes_.back().data(), data, bytes);
    tensors_.push_back({std::move(name), dtype, std::move(shape), bytes_.back().data(), bytes});
  }
  void add(std::string name, std::vector<std::int64_t> shape, const std::vector<float>& values) {
    add(std::move(name), DType::f32, std::move(shape), values.data(), values.size() * sizeof(float));
  }
  std::vector<Tensor>& tensors() { return tensors_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<std::vector<std::byte>> bytes_;  // a moved inner vector keeps its memory
  std::vector<Tensor> tensors_;
};

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
