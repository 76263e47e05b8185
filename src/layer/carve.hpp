// Carving a workspace: the same code counts the bytes and hands them out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switchyard/workspace.hpp"

namespace switchyard {

// Hands out aligned pieces of memory in order; without memory it only counts. What it hands out may lie behind the end:
// compare bytes() with what there is before touching any of it.
class Carver {
 public:
  explicit Carver(void* data = nullptr) : data_(static_cast<std::byte*>(data)) {}

  template <class T>
  T* take(std::int64_t count) {
    std::byte* at = data_ == nullptr ? nullptr : data_ + bytes_;
    const std::size_t size = static_cast<std::size_t>(count) * sizeof(T);
    bytes_ += (size + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    return reinterpret_cast<T*>(at);
  }

  std::size_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  std::size_t bytes_ = 0;
};

}  // namespace switchyard
